"""How much of the scorer's speed is left from file to alert? tests.bench.files BUNDLE NIGHT [PETALS [ROUNDS]].

`latenight score` on warm files beside the scorer on spectra that are in memory already; and the way from file to
table with a scorer that costs nothing, which is what reading, alerts and writing can carry when the scorer is a GPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from latenight.desi import read_coadd
from latenight.offline import Offline
from latenight.policy import DEFAULT_BUDGET, alert_threshold
from latenight.scorer import load_scorer
from tests.bench.setting import compare, cost_here, heading, in_turns, petals, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latenight.outcome import SpectraScorer
    from latenight.scores import Scores
    from latenight.spectra import Spectra


class Remembered:
    """Gives the scores that another scorer has found for the same file, at once."""

    def __init__(self, scorer: SpectraScorer, spectra: Sequence[Spectra]) -> None:
        self.bundle_id, self.provider = scorer.bundle_id, scorer.provider
        explain_below = alert_threshold(DEFAULT_BUDGET)
        self._scores = {each.source: scorer.score(each, explain_below) for each in spectra}

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        """Scores of one message."""
        return self._scores[spectra.source]


def main(bundle: Path, night: Path, n: int = 2, rounds: int = 3) -> None:
    paths = petals(night, n)
    scorer, spectra = load_scorer(bundle), [read_coadd(path) for path in paths]
    remembered, n_spectra = Remembered(scorer, spectra), sum(map(len, spectra))
    threshold = alert_threshold(DEFAULT_BUDGET)
    with tempfile.TemporaryDirectory() as folder:
        out, alerts = Path(folder) / "scores.parquet", Path(folder) / "alerts.jsonl"

        def score(scorer: SpectraScorer) -> None:
            results = list(Offline(read_coadd, scorer, DEFAULT_BUDGET).score_files(paths, out, alerts))
            assert not any(result.error for result in results)

        heading(f"from file to alert: {n} petals, {n_spectra} spectra")
        costs = in_turns(
            rounds,
            {
                "scorer alone": lambda: cost_here(lambda: [scorer.score(s, threshold) for s in spectra]),
                "score": lambda: cost_here(lambda: score(scorer)),
                "score, scorer at no cost": lambda: cost_here(lambda: score(remembered)),
            },
        )
    for name, each in costs.items():
        show(name, each, n_spectra)
    compare("`score` from warm files over scorer alone", costs["score"], costs["scorer alone"], 0.9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
