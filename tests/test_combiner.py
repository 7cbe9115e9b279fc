"""The combiner: what all p-values of a spectrum say together follows from them alone."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.channels import BESIDE, STATISTICS, TAKES_PART
from latenight.combiner import Combiner, evidence, from_arrays, log_odds, strangeness

N_INPUTS = evidence(np.ones((1, len(STATISTICS)))).shape[1]


def combiner(seed: int = 0) -> Combiner:
    """Two networks of two layers with random weights."""
    rng = np.random.default_rng(seed)
    shapes = ((2, N_INPUTS, 8), (2, 8, 1))
    weights = tuple(rng.normal(0, 0.1, shape).astype(np.float32) for shape in shapes)
    return Combiner(weights, tuple(w[:, :1] * 0 + np.float32(0.1) for w in weights))


def p_values(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1e-6, 1, (n, len(STATISTICS)))


def strange(p: np.ndarray) -> np.ndarray:
    return strangeness(combiner(), p, np.ones(len(p), bool))


def test_log_odds_are_the_mean_of_the_networks() -> None:
    """Each network's layers are applied in turn with SiLU between them, and the mean of their outputs counts."""
    mine, p = combiner(), p_values(5)
    outputs = []
    for network in range(2):
        hidden = evidence(p) @ mine.weights[0][network] + mine.biases[0][network]
        hidden = hidden / (1 + np.exp(-hidden))
        outputs.append((hidden @ mine.weights[1][network] + mine.biases[1][network])[:, 0])
    np.testing.assert_allclose(log_odds(mine, p), np.mean(outputs, axis=0), rtol=1e-4)


def test_the_networks_own_statistics_take_no_part() -> None:
    """Reconstruction probability and latent neighbours, known of held-out spectra only, change nothing."""
    p = p_values(10)
    beside = [k for k, statistic in enumerate(STATISTICS) if statistic.family in BESIDE]
    other = p.copy()
    other[:, beside] = 1e-30
    np.testing.assert_array_equal(strange(p), strange(other))


@pytest.mark.parametrize("column", [5, 60, 125])
def test_a_smaller_p_is_stranger_beyond_what_the_networks_know(column: int) -> None:
    """From p = 1e-40 on each factor of ten adds the share of the smallest p, whatever the networks say."""
    p = np.tile(p_values(1), (3, 1))
    p[:, column] = (1e-40, 1e-50, 1e-200)
    found = strange(p)
    np.testing.assert_allclose(np.diff(found), 0.3 * np.log(10) * np.array([10, 150]), rtol=1e-6)


def test_a_spectrum_that_nothing_covers_has_no_strangeness() -> None:
    """Where every p is 1 the strangeness is NaN, which calibration makes p = 1."""
    p = np.ones((2, len(STATISTICS)))
    p[1, 7] = 0.5
    np.testing.assert_array_equal(np.isfinite(strange(p)), [False, True])


def test_spectra_unlike_the_lessons_go_by_their_smallest_p() -> None:
    """Where the networks were not taught, the order is that of the smallest p, and they change nothing."""
    p, taught = p_values(20), np.arange(20) < 10
    found = strangeness(combiner(), p, taught)
    np.testing.assert_allclose(found[:10], strange(p)[:10], rtol=1e-5)
    np.testing.assert_allclose(found[10:], -0.3 * np.log(p[10:, TAKES_PART].min(axis=1)))


def test_extreme_p_values_give_finite_log_odds() -> None:
    """From p = 1e-300 to 1 everywhere nothing overflows."""
    for p in (1e-300, 1e-30, 0.999):
        assert np.isfinite(strange(np.full((1, len(STATISTICS)), p))).all()


def test_arrays_bring_the_combiner_back() -> None:
    """What a bundle stores beside its tables gives the same log-odds."""
    arrays: dict[str, np.ndarray] = {"z_range": np.zeros(2), **combiner(3).arrays()}
    np.testing.assert_array_equal(
        log_odds(from_arrays(arrays), p_values(4)), log_odds(combiner(3), p_values(4))
    )
