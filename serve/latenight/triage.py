"""Is an anomaly an artefact of instrument and reduction or of the sky: the probability, from its p-values.

A logistic regression on how strange each statistic finds the spectrum, relative to the strangest: an unmasked cosmic
is strange to windows of one pixel, a line to those of four. The weights (triage.json) were learned from injected
anomalies by latenight_train.learn_triage. They belong to the statistics, not to a bundle: p-values are calibrated, and
`latenight-train evaluate` measures for each bundle how often the labels are right.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.channels import STATISTICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LABELS = ("artefact", "physical", "unclear")
CERTAIN = 0.8  # a label needs this probability


def artefact_probability(p: Array) -> Array:
    """Probability that each of n anomalies is an artefact, (n,).

    It holds if artefacts and objects of the sky are equally common among what alerts.

    Args:
        p: (n, C) p-value of each statistic in the order of channels.STATISTICS, 1 where it is missing.
    """
    weights, constant = _learned()
    return np.asarray(1 / (1 + np.exp(-constant - evidence(p) @ weights)))


def evidence(p: Array) -> Array:
    """What the regression sees: log p of each statistic as a share of that of the least probable one, (n, C)."""
    strength = -np.log(p)
    return np.asarray(strength / np.maximum(strength.max(axis=1, keepdims=True), 1e-6))


def label(probability: float) -> str:
    """One of LABELS for the probability of an artefact; unclear if there is none."""
    if probability >= CERTAIN:
        return "artefact"
    return "physical" if probability <= 1 - CERTAIN else "unclear"


def triage_learned_from() -> dict[str, Any]:
    """What the weights were learned from: bundle, seed, digests of the files, alerts by kind."""
    return dict(_content()["learned_from"])


@cache
def _content() -> dict[str, Any]:
    return dict(json.loads((files("latenight") / "triage.json").read_text(encoding="utf-8")))


@cache
def _learned() -> tuple[Array, float]:
    """The weights, (C,), and the constant; a statistic that is younger than the file says nothing."""
    content = _content()
    weights = np.array([content["weights"].get(statistic.name, 0.0) for statistic in STATISTICS])
    return weights, float(content["constant"])
