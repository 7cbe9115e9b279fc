"""Petals that differ within what is ordinary are brought to the usual; worse ones stay as bad as they are."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.company import LIMIT, MOST_SCALE, MOST_SHIFT, Usual, in_company, usual_of

N, C = 400, 5
USUAL = Usual(np.zeros(C), np.ones(C), np.full(C, 50.0), np.full(C, 50.0))


def petals(n_petals: int, shift: float = 0, scale: float = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal statistics of petals of N fibres, all changed alike, and their petals."""
    x = np.random.default_rng(seed).standard_normal((n_petals * N, C)) * scale + shift
    return x, np.repeat(np.arange(n_petals), N)


@pytest.mark.parametrize(("shift", "scale"), [(0.2, 1.0), (-0.2, 1.15), (0.0, 0.85)])
def test_a_petal_that_differs_a_little_becomes_usual(shift: float, scale: float) -> None:
    """Its median and scatter end within .1 of what is usual, all but what the belief in the usual keeps."""
    found = in_company(*petals(1, shift, scale), USUAL)
    np.testing.assert_allclose(np.median(found, axis=0), 0, atol=0.1)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=0.1)


def test_a_petal_that_is_far_off_stays_off() -> None:
    """No statistic is moved by more than the bounds, so that a broken petal still shows."""
    found = in_company(*petals(1, shift=3, scale=4), USUAL)
    assert (np.median(found, axis=0) > (3 - MOST_SHIFT) / MOST_SCALE - 0.5).all()
    assert (found.std(axis=0) > 4 / MOST_SCALE - 0.3).all()


def test_a_fifth_of_bad_fibres_does_not_rescale_its_petal() -> None:
    """Fibres beyond LIMIT do not count: the others stay as they were, and so do the bad ones."""
    x, petal = petals(1)
    bad = np.arange(N) % 5 == 0
    x[bad] = 3 * LIMIT
    found = in_company(x, petal, USUAL)
    np.testing.assert_allclose(found[bad], 3 * LIMIT, rtol=0.1)
    np.testing.assert_allclose(found[~bad], x[~bad], atol=0.4)


def test_spectra_of_unknown_petals_and_lonely_ones_keep_their_statistics() -> None:
    """Without a petal nothing changes, and a petal of three fibres tells next to nothing."""
    x, petal = petals(1, shift=0.3, scale=1.2)
    np.testing.assert_array_equal(in_company(x, np.full(N, -1), USUAL), x)
    np.testing.assert_allclose(in_company(x[:3], petal[:3], USUAL), x[:3], atol=0.3)


def test_petals_are_judged_apart_in_any_order() -> None:
    """What a petal becomes depends neither on the others nor on the order of the rows."""
    x, petal = petals(3, 0.1, 1.1)
    x[petal == 1] *= 1.1
    order = np.random.default_rng(1).permutation(len(x))
    whole = in_company(x, petal, USUAL)
    np.testing.assert_allclose(in_company(x[order], petal[order], USUAL), whole[order], rtol=1e-12)
    np.testing.assert_allclose(
        in_company(x[petal == 1], petal[petal == 1], USUAL), whole[petal == 1], rtol=1e-12
    )


def test_missing_statistics_stay_missing() -> None:
    """A statistic that no spectrum has is NaN before and after, and says nothing of the others."""
    x, petal = petals(20, 0.1)
    x[:, 0] = x[::3, 1] = x[petal == 3, 2] = np.nan
    usual = usual_of(x, petal)
    assert (usual.median[0], usual.scatter[0], usual.scatter_worth[0]) == (0, 1, np.inf)
    found = in_company(x, petal, usual)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(x))


def test_the_usual_is_that_of_most_petals() -> None:
    """Of nine ordinary petals and two odd ones the usual is that of the nine, to .15."""
    x, petal = petals(11)
    x[petal >= 9] = 2 * x[petal >= 9] + 1
    usual = usual_of(x, petal)
    np.testing.assert_allclose(usual.median, 0, atol=0.15)
    np.testing.assert_allclose(usual.scatter, 1, atol=0.15)


def test_a_petal_is_believed_as_far_as_petals_differ() -> None:
    """Where petals differ by 20 % it is worth few fibres to be usual; where they are alike, more than a petal has."""
    rng = np.random.default_rng(2)
    x, petal = petals(60)
    x[:, 0] *= rng.lognormal(0, 0.2, 60)[petal]
    x[:, 1] += rng.normal(0, 0.2, 60)[petal]
    usual = usual_of(x, petal)
    assert usual.scatter_worth[0] < N / 4 < N < usual.scatter_worth[1:].min()
    assert usual.median_worth[1] < N / 2 < N < usual.median_worth[2:].min()


def test_without_petals_nothing_is_known_to_differ() -> None:
    """A sample of unknown petals, or of few fibres of each, leaves every statistic as it is."""
    x, petal = petals(2)
    for unknown in (np.full(len(x), -1), np.arange(len(x)) // 10):
        np.testing.assert_array_equal(in_company(x, petal, usual_of(x, unknown)), x)
