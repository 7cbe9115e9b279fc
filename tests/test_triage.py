"""Triage: labels follow from the p-values of the statistics alone."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest

from latenight.channels import STATISTICS
from latenight.triage import CERTAIN, artefact_probability, evidence, label

NAMES = [statistic.name for statistic in STATISTICS]


def p_of(**strange: float) -> np.ndarray:
    """One spectrum's p-values, .5 but for the given statistics ("plus" for "+")."""
    p = np.full((1, len(NAMES)), 0.5)
    for name, value in strange.items():
        p[0, NAMES.index(name.replace("plus", "+"))] = value
    return p


def test_a_pixel_that_no_line_can_fill_is_an_artefact() -> None:
    """An excess that is strongest in windows narrower than the line spread function is called an artefact."""
    (probability,) = artefact_probability(
        p_of(scan1plus=1e-20, scan2plus=1e-14, scan1_b=1e-18, scan4plus=1e-6)
    )
    assert label(probability) == "artefact"


def test_lines_at_the_redshift_are_physical() -> None:
    """Broad Balmer lines at the spectrum's redshift are called physical."""
    (probability,) = artefact_probability(
        p_of(balmer1700=1e-12, balmer800=1e-9, balmer3500=1e-9, broadlineplus=1e-9)
    )
    assert label(probability) == "physical"


def test_evidence_is_relative() -> None:
    """An anomaly ten times as strange in every statistic, in log p, has the same evidence; none is finite, too."""
    p = np.random.default_rng(0).uniform(1e-9, 1, (20, len(NAMES)))
    np.testing.assert_allclose(evidence(p**10), evidence(p))
    assert (evidence(np.ones((1, len(NAMES)))) == 0).all()


def test_missing_statistics_and_extreme_p_give_a_probability() -> None:
    """From p = 1e-300 to 1 everywhere the probability lies between 0 and 1."""
    for p in (1e-300, 1e-3, 1.0):
        assert 0 < artefact_probability(np.full((1, len(NAMES)), p))[0] < 1


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (1.0, "artefact"),
        (CERTAIN, "artefact"),
        (0.5, "unclear"),
        (0.19, "physical"),
        (0.0, "physical"),
        (np.nan, "unclear"),
    ],
)
def test_a_label_needs_certainty(probability: float, expected: str) -> None:
    """What is less probable than four in five either way, or has no probability, is unclear."""
    assert label(probability) == expected


def test_most_statistics_have_a_weight() -> None:
    """Four in five statistics were there when the weights were learned; with fewer they must be learned anew."""
    weights = json.loads((files("latenight") / "triage.json").read_text())["weights"]
    assert np.mean([name in weights for name in NAMES]) > 0.8
