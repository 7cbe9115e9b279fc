"""How often triage is right: what the alerts of an evaluation are, beside what they are called."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.triage import LABELS, label
from latenight_train.inject import FAMILIES, KINDS, family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def confusion(trials: np.ndarray, alerts: NDArray[np.bool_]) -> dict[str, Any]:
    """Labels of the alerts by kind and by family, and how many of those that are not unclear are right.

    Args:
        trials: (N,) scored trials.
        alerts: (N,) which of them alert.
    """
    labels = np.array([label(p) for p in trials["artefact_probability"]])
    counts = {kind: _counts(labels[alerts & (trials["kind"] == kind)]) for kind in ("", *KINDS)}
    kinds = {kind: found for kind, found in counts.items() if sum(found.values())}
    families = {name: _total(kinds, name) for name in FAMILIES}
    two = [families[name] for name in ("artefact", "physical")]
    n = sum(sum(found.values()) for found in two)
    unclear = sum(found["unclear"] for found in two)
    right = families["artefact"]["artefact"] + families["physical"]["physical"]
    return {
        "accuracy": right / (n - unclear) if n > unclear else None,
        "unclear": unclear / n if n else None,
        "families": families,
        "kinds": kinds,
    }


def _counts(labels: NDArray[np.str_]) -> dict[str, int]:
    count = Counter(labels.tolist())
    return {text: count[text] for text in LABELS}


def _total(kinds: Mapping[str, Mapping[str, int]], name: str) -> dict[str, int]:
    mine = [found for kind, found in kinds.items() if kind and family(kind) == name]
    return {text: sum(found[text] for found in mine) for text in LABELS}
