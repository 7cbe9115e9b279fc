"""Recall, AUROC, average precision, intervals: what must hold for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latenight_train.recall import (
    auroc,
    average_precision,
    bootstrap,
    purity,
    rank_correlation,
    recall,
    threshold,
    wilson,
)

# Few distinct values, so that ties are common; some scores are missing.
SCORES = st.one_of(st.integers(-5, 5).map(float), st.floats(-1e3, 1e3), st.just(-np.inf))
SAMPLES = arrays(np.float64, st.integers(1, 40), elements=SCORES)
RATES = st.floats(0.0, 0.5)


@given(SAMPLES, RATES)
def test_no_more_ordinary_spectra_alert_than_allowed(ordinary: np.ndarray, rate: float) -> None:
    """Above the threshold lies at most the wanted share, ties included."""
    assert np.mean(ordinary > threshold(ordinary, rate)) <= rate


@given(SAMPLES, SAMPLES, RATES, st.randoms())
def test_order_does_not_matter(
    ordinary: np.ndarray, anomalies: np.ndarray, rate: float, random: object
) -> None:
    """Recall, AUROC and average precision of permuted samples are the same."""
    rng = np.random.default_rng(len(ordinary) + 1000 * len(anomalies))
    a, b = rng.permutation(ordinary), rng.permutation(anomalies)
    assert recall(a, b, rate) == recall(ordinary, anomalies, rate)
    assert auroc(a, b) == pytest.approx(auroc(ordinary, anomalies))
    assert average_precision(a, b) == pytest.approx(average_precision(ordinary, anomalies))


@given(SAMPLES, SAMPLES)
def test_reversed_scores_have_the_complementary_auroc(ordinary: np.ndarray, anomalies: np.ndarray) -> None:
    """AUROC of the scores with opposite sign is one minus AUROC; so is that of exchanged samples."""
    found = auroc(ordinary, anomalies)
    assert auroc(-ordinary, -anomalies) == pytest.approx(1 - found)
    assert auroc(anomalies, ordinary) == pytest.approx(1 - found)


@given(SAMPLES, SAMPLES, RATES, RATES)
def test_a_higher_rate_finds_no_less(ordinary: np.ndarray, anomalies: np.ndarray, a: float, b: float) -> None:
    """Recall grows with the rate of false alerts."""
    assert recall(ordinary, anomalies, min(a, b)) <= recall(ordinary, anomalies, max(a, b))


@given(SAMPLES, SAMPLES)
def test_average_precision_is_that_of_its_definition(ordinary: np.ndarray, anomalies: np.ndarray) -> None:
    """It is the sum, over distinct thresholds, of the step in recall times the precision."""
    total, previous = 0.0, 0.0
    for value in np.unique(anomalies)[::-1]:
        found, false = np.sum(anomalies >= value), np.sum(ordinary >= value)
        total += (found / len(anomalies) - previous) * found / (found + false)
        previous = found / len(anomalies)
    assert average_precision(ordinary, anomalies) == pytest.approx(total)


def test_perfect_and_useless_scores() -> None:
    """A score that separates finds everything; a constant one finds nothing and has AUROC one half."""
    low, high = np.arange(100.0), np.arange(200.0, 230.0)
    assert (recall(low, high, 0.001), auroc(low, high), average_precision(low, high)) == (1, 1, 1)
    assert recall(np.ones(100), np.ones(30), 0.02) == 0
    assert auroc(np.ones(100), np.ones(30)) == 0.5


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_holds_the_measured_rate(n: int, share: float) -> None:
    """Wilson's interval lies in 0..1, around the rate, and shrinks when all numbers grow tenfold."""
    k = round(share * n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    wide = wilson(10 * k, 10 * n)
    assert wide[1] - wide[0] < high - low


def test_the_interval_is_wilsons() -> None:
    """10 of 100: 5.52 % to 17.44 %, as published tables say."""
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)


@given(SAMPLES.filter(lambda values: np.isfinite(values).all()))
def test_rank_correlation_sees_order_only(x: np.ndarray) -> None:
    """A variable correlates fully with any rising function of itself, and fully negatively with a falling one."""
    if len(np.unique(x)) < 2:
        assert np.isnan(rank_correlation(x, x))
    else:
        assert rank_correlation(x, np.arctan(x / 1e3)) == pytest.approx(1)
        assert rank_correlation(x, -x) == pytest.approx(-1)


def test_the_bootstrap_holds_the_truth_as_often_as_it_says() -> None:
    """Of 60 experiments with a true AUROC of .76, the 95 % interval misses it in few."""
    rng = np.random.default_rng(3)
    misses = 0
    for _ in range(60):
        ordinary, anomalies = rng.normal(size=300), rng.normal(1.0, 1.0, 60)
        low, high = bootstrap(rng, auroc, ordinary, anomalies, np.arange(60))
        misses += not low <= 0.7602 <= high
    assert misses <= 8


def test_anomalies_of_one_fault_count_once() -> None:
    """Sixty anomalies of six faults leave a wider interval than sixty faults."""
    rng = np.random.default_rng(1)
    level = np.repeat(rng.normal(1.0, 1.0, 6), 10)
    ordinary, anomalies = rng.normal(size=1000), level + 0.1 * rng.normal(size=60)
    single = bootstrap(rng, auroc, ordinary, anomalies, np.arange(60))
    grouped = bootstrap(rng, auroc, ordinary, anomalies, np.repeat(np.arange(6), 10))
    assert grouped[1] - grouped[0] > 1.5 * (single[1] - single[0])


def test_purity_of_a_perfect_and_of_a_blind_score() -> None:
    """The top 50 of 4000 with 60 anomalies is pure, or as mixed as the whole list."""
    rng = np.random.default_rng(1)
    size = {"prevalence": 0.015, "n": 4000, "top": 50}
    assert purity(rng, np.zeros(500), np.ones(100), **size) == 1.0  # type: ignore[arg-type]
    assert purity(rng, np.zeros(500), np.zeros(100), **size) == pytest.approx(0.015, abs=0.01)  # type: ignore[arg-type]
