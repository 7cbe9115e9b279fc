"""The petal step: what the fibres of one message share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.petal import MIN_ROWS, NOISE_RANGE, corrected_ivar, noise_scale, residual_sigmas
from latenight.spectra import ARMS, N_PIX, empty_table

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sigmas_and_table(n: int = 80, petal: int = 3, seed: int = 0) -> tuple[NDArray[np.float32], np.ndarray]:
    rng = np.random.default_rng(seed)
    sigmas = rng.standard_normal((n, N_PIX)).astype(np.float32)
    sigmas[rng.random((n, N_PIX)) < 0.05] = np.nan
    table = empty_table(n)
    table["tileid"], table["petal"] = 1000, petal
    return sigmas, table


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.4])
def test_the_noise_scale_of_an_arm_is_recovered(factor: float) -> None:
    """An arm whose noise is wrong by a factor gets that factor; the other arms keep 1."""
    sigmas, table = sigmas_and_table()
    sigmas[:, ARMS[1].pixels] *= factor
    scale = noise_scale(sigmas, table)
    np.testing.assert_allclose(scale, np.tile([1.0, factor, 1.0], (80, 1)), rtol=0.02)


def test_a_fifth_of_bad_fibres_does_not_rescale_the_petal() -> None:
    """Where one fibre in five is ten times too noisy, the scale stays within 3 %."""
    sigmas, table = sigmas_and_table()
    sigmas[::5] *= 10
    np.testing.assert_allclose(noise_scale(sigmas, table), 1.0, rtol=0.03)


def test_a_petal_with_few_fibres_gets_the_neutral_value() -> None:
    """Fewer rows than a median needs leave the noise as it is."""
    sigmas, table = sigmas_and_table(MIN_ROWS - 1)
    assert (noise_scale(np.float32(3) * sigmas, table) == 1).all()


def test_rows_of_unknown_petal_get_the_neutral_value() -> None:
    """A healpix coadd, whose rows come from many petals, is not rescaled."""
    sigmas, table = sigmas_and_table(petal=-1)
    assert (noise_scale(1.5 * sigmas, table) == 1).all()


def test_petals_of_one_message_are_judged_apart() -> None:
    """Two petals in one message get their own scales."""
    sigmas, table = sigmas_and_table()
    table["petal"][40:] = 4
    sigmas[40:] *= 1.5
    scale = noise_scale(sigmas, table)
    np.testing.assert_allclose(scale[:40], 1.0, rtol=0.03)
    np.testing.assert_allclose(scale[40:], 1.5, rtol=0.03)


def test_the_order_of_rows_does_not_matter() -> None:
    """A permutation of the rows permutes the scales."""
    sigmas, table = sigmas_and_table()
    sigmas *= np.linspace(0.8, 1.3, 80, dtype=np.float32)[:, None]
    order = np.random.default_rng(1).permutation(80)
    np.testing.assert_array_equal(noise_scale(sigmas[order], table[order]), noise_scale(sigmas, table)[order])


def test_a_broken_petal_is_not_explained_away() -> None:
    """Noise ten times too large is corrected by no more than the range allows."""
    sigmas, table = sigmas_and_table()
    assert (noise_scale(10 * sigmas, table) == NOISE_RANGE[1]).all()


def test_an_arm_without_data_gets_the_neutral_value() -> None:
    """A petal without r arm keeps 1 there."""
    sigmas, table = sigmas_and_table()
    sigmas[:, ARMS[1].pixels] = np.nan
    assert (noise_scale(sigmas, table)[:, 1] == 1).all()


def test_corrected_ivar_makes_residuals_standard() -> None:
    """Noise twice what ivar says in the z arm is standard under the corrected ivar."""
    rng = np.random.default_rng(0)
    ivar = rng.uniform(1, 3, (50, N_PIX)).astype(np.float32)
    pixel_noise = rng.uniform(1, 2, N_PIX).astype(np.float32)
    scale = np.tile(np.array([1, 1, 2], np.float32), (50, 1))
    true_ivar = corrected_ivar(ivar, pixel_noise, scale)
    flux = (rng.standard_normal((50, N_PIX)) / np.sqrt(true_ivar)).astype(np.float32)
    zero = np.zeros((1, N_PIX), np.float32)
    before = residual_sigmas(flux, ivar, zero, zero, pixel_noise)
    after = residual_sigmas(flux, true_ivar, zero, zero, np.ones(N_PIX, np.float32))
    assert before[:, ARMS[2].pixels].std() == pytest.approx(2, rel=0.01)
    assert after.std() == pytest.approx(1, rel=0.01)


def test_bad_pixels_have_no_residual() -> None:
    """A pixel with ivar 0 comes out as NaN, without a warning."""
    ivar = np.ones((1, N_PIX), np.float32)
    ivar[0, 7] = 0
    zero = np.zeros((1, N_PIX), np.float32)
    found = residual_sigmas(zero, ivar, zero, zero, np.ones(N_PIX, np.float32))
    assert np.flatnonzero(np.isnan(found[0])).tolist() == [7]
