"""Learns what tells artefacts from objects of the sky: injected anomalies that alert -> latenight/triage.json.

`python -m latenight_train.learn_triage BUNDLE DATA...` injects into spectra that the bundle's training did not see; the
weights hold for every bundle. Evaluate on yet another night: `latenight-train evaluate` gives the confusion table.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import latenight
from latenight.bundle import load_bundle
from latenight.channels import STATISTICS
from latenight.errors import LatenightError, StartupError
from latenight.scorer import load_scorer
from latenight.triage import evidence
from latenight_train.data import load_survey
from latenight_train.evaluate import unseen_messages
from latenight_train.inject import family
from latenight_train.injected import injected_messages
from latenight_train.remember import RememberingPasses

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from latenight.scorer import Scorer
    from latenight_train.injected import Injected

    Array = NDArray[np.float64]

SEED = 5
ROUNDS = 25  # of a tile of 5000 fibres: 635 physical and 2503 artificial alerts
ALERTS = 0.01  # anomalies with a smaller p_value are learned from
# Of the weights. Learned from 3138 alerts, the mean -log p of 1417 of another night is .142, .137 and .154 with a
# penalty of 0.3, 1 and 4; .355 if only the strongest statistic's name is known.
RIDGE = 1.0


def learn_triage(bundle: Path, paths: Sequence[Path], rounds: int = ROUNDS) -> dict[str, Any]:
    """The content of triage.json.

    Args:
        bundle: directory of the bundle that scores the anomalies.
        paths: coadds that its training did not see.
        rounds: how often every petal gets anomalies.

    Raises:
        StartupError: nothing to inject into, or the bundle was trained on it, or no artefact or no physical anomaly
            alerts.
        BadInput: a coadd cannot be read.
    """
    scorer = load_scorer(bundle, passes=RememberingPasses)
    with TemporaryDirectory() as cache:
        survey = load_survey(paths, Path(cache))
        messages = unseen_messages(survey, paths, load_bundle(bundle))
        versions = tqdm(
            injected_messages(messages, rounds, SEED), total=len(messages) * (rounds + 1), disable=None
        )
        kinds, p = anomalies_that_alert(scorer, versions)
    families = np.array([family(kind) for kind in kinds])
    known = families != "wrong_z"  # real light at a wrong place: neither
    weights, constant = regression(evidence(p[known]), families[known] == "artefact")
    provenance = {
        "bundle": scorer.bundle_id,
        "version": latenight.__version__,
        "seed": SEED,
        "rounds": rounds,
    }
    provenance |= {"files": [digest for _, _, digest in survey.files]}
    provenance |= {"ridge": RIDGE, "alerts": dict(sorted(Counter(kinds[known].tolist()).items()))}
    named = {s.name: round(float(w), 3) for s, w in zip(STATISTICS, weights, strict=True)}
    return {"learned_from": provenance, "constant": round(constant, 3), "weights": named}


def anomalies_that_alert(scorer: Scorer, versions: Iterable[Injected]) -> tuple[np.ndarray, Array]:
    """Kinds (n,) and p-values of all statistics (n, C) of the injected anomalies with p_value < ALERTS."""
    kinds, values = [], []
    for version in versions:
        if version.round and version.truth["counts"].any():
            rows, p = scorer.p_values(version.spectra)
            truth = version.truth[rows]
            alerts = truth["counts"] & (truth["kind"] != "") & (p.p_value < ALERTS)
            kinds.append(truth["kind"][alerts])
            values.append(p.statistics[alerts])
    return np.concatenate(kinds), np.concatenate(values)


def regression(x: Array, is_artefact: NDArray[np.bool_]) -> tuple[Array, float]:
    """Weights (C,) and constant of the log-odds of an artefact: ridge logistic regression by Newton's method.

    Artefacts and the others get the same total weight, so that the probability does not depend on how many kinds of
    each were injected.

    Args:
        x: (n, C) evidence.
        is_artefact: (n,).

    Raises:
        StartupError: all are artefacts, or none is.
    """
    n = len(x)
    n_artefacts = int(np.count_nonzero(is_artefact))
    if n_artefacts in (0, n):
        raise StartupError(
            f"{n_artefacts} of {n} alerts are artefacts: both kinds are needed, name more coadds"
        )
    balance = np.where(is_artefact, n / (2 * n_artefacts), n / (2 * (n - n_artefacts)))
    x = np.concatenate([x, np.ones((n, 1))], axis=1)
    ridge = np.append(np.full(x.shape[1] - 1, RIDGE), 1e-6)
    beta = np.zeros(x.shape[1])
    for _ in range(30):  # converges in ten
        p = 1 / (1 + np.exp(-x @ beta))
        gradient = x.T @ (balance * (is_artefact - p)) - ridge * beta
        curvature = (x.T * (balance * p * (1 - p))) @ x + np.diag(ridge)
        beta = beta + np.linalg.solve(curvature, gradient)
    return beta[:-1], float(beta[-1])


def main(arguments: Sequence[str]) -> None:
    """Write triage.json into the package's source."""
    bundle, *paths = map(Path, arguments)
    content = learn_triage(bundle, paths)
    (Path(latenight.__file__).parent / "triage.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LatenightError as error:
        sys.exit(f"latenight: {error}")
