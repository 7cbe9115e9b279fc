"""Learns what the p-values of anomalies have in common: injected and ordinary spectra -> latenight_train/combiner.npz.

`python -m latenight_train.learn_combiner BUNDLE DATA...` injects into spectra that the bundle's training did not see.
The networks see p-values only, so what they learn holds for the bundles of other surveys; `fit` puts them into each
bundle and calibrates what they say. Evaluate on yet another night.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import latenight
from latenight.bundle import load_bundle
from latenight.errors import LatenightError
from latenight.scorer import load_scorer
from latenight_train.combiner import FILE, SEED, learn_combiner
from latenight_train.data import load_survey
from latenight_train.evaluate import unseen_messages
from latenight_train.injected import injected_messages
from latenight_train.remember import RememberingPasses

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from latenight.scorer import Scorer
    from latenight_train.injected import Injected

    Array = NDArray[np.float64]

# How often every petal gets anomalies, 8 % of its rows each time. Recall at 1, .5 and .1 % with 11 000 and 32 000
# anomalies: .671 .650 .584 and .672 .651 .589.
ROUNDS = 12


def lessons(scorer: Scorer, versions: Iterable[Injected]) -> tuple[Array, np.ndarray]:
    """p-values of all statistics (n, C) and kind (n,) of ordinary spectra ("") and injected anomalies."""
    kinds, values = [], []
    for version in versions:
        if version.truth["counts"].any():
            rows, p = scorer.p_values(version.spectra)
            truth = version.truth[rows]
            taken = truth["counts"] & ((truth["kind"] != "") == (version.round > 0))
            kinds.append(truth["kind"][taken])
            values.append(p.statistics[taken])
    return np.concatenate(values), np.concatenate(kinds)


def main(arguments: Sequence[str]) -> None:
    """Write combiner.npz into the package's source."""
    bundle, *paths = map(Path, arguments)
    scorer = load_scorer(bundle, passes=RememberingPasses)
    with TemporaryDirectory() as cache_folder:
        survey = load_survey(paths, Path(cache_folder))
        messages = unseen_messages(survey, paths, load_bundle(bundle))
        total = len(messages) * (ROUNDS + 1)
        p, kinds = lessons(scorer, tqdm(injected_messages(messages, ROUNDS, SEED), total=total, disable=None))
    combiner = learn_combiner(p, kinds != "")
    named, counts = np.unique(kinds, return_counts=True)
    provenance: dict[str, Any] = {"bundle": scorer.bundle_id, "version": latenight.__version__, "seed": SEED}
    provenance |= {"lessons": dict(zip(named.tolist(), counts.tolist(), strict=True))}
    provenance |= {"files": [digest for _, _, digest in survey.files]}
    # Half precision: weights of 1 to 1e-3 keep three digits, and the file stays at 300 kB.
    content: dict[str, Any] = {name: v.astype(np.float16) for name, v in combiner.arrays().items()}
    np.savez_compressed(FILE, learned_from=np.array(json.dumps(provenance)), **content)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LatenightError as error:
        sys.exit(f"latenight: {error}")
