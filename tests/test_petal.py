"""The petal step: what the fibres of one message share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.petal import MIN_NOISE_ROWS, MIN_ROWS, NOISE_RANGE, Learned, Residuals
from latenight.petal import corrected as correct
from latenight.spectra import ARMS, N_PIX, empty_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONES = np.ones(N_PIX, np.float32)


def petal_of(n: int = 120, petal: int = 3, noise: NDArray[np.float32] = ONES, seed: int = 0) -> Residuals:
    """Faint spectra whose noise is `noise` times what ivar says, 5 % bad pixels."""
    rng = np.random.default_rng(seed)
    ivar = rng.uniform(1, 3, (n, N_PIX)).astype(np.float32)
    flux = (rng.standard_normal((n, N_PIX)) * noise / np.sqrt(ivar)).astype(np.float32)
    bad = rng.random((n, N_PIX)) < 0.05
    flux[bad] = ivar[bad] = 0
    table = empty_table(n)
    table["tileid"], table["petal"], table["row"] = 1000, petal, np.arange(n)
    zero = np.zeros((n, N_PIX), np.float32)
    return Residuals(flux, ivar, zero, zero, table)


def corrected(residuals: Residuals, pixel_noise: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Flux and ivar after the petal step."""
    found = correct(residuals, Learned(pixel_noise, ONES))
    return found.flux, found.ivar


def chi_of(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> float:
    """Rms of the residuals in sigma."""
    return float(np.sqrt(np.mean(np.square(flux * np.sqrt(ivar))[ivar > 0])))


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.5])
def test_the_noise_of_an_arm_is_recovered(factor: float) -> None:
    """Where the noise of one arm is wrong by a factor, residuals are standard after the step, in every arm."""
    noise = ONES.copy()
    noise[ARMS[1].pixels] = factor
    flux, ivar = corrected(petal_of(noise=noise), ONES)
    for arm in ARMS:
        # An estimate from 120 fibres that shrinks to the training's value keeps part of the difference.
        assert chi_of(flux[:, arm.pixels], ivar[:, arm.pixels]) == pytest.approx(1, abs=0.12)


def test_a_residual_common_to_the_fibres_is_removed() -> None:
    """A sky line left in every fibre is gone after the step; an own line of one fibre stays."""
    residuals = petal_of()
    flux = residuals.flux.copy()
    flux[:, 6000:6003] += np.where(residuals.ivar[:, 6000:6003] > 0, 5, 0)
    flux[7, 2000] += 50
    after, _ = corrected(replace(residuals, flux=flux), ONES)
    assert abs(np.median(after[:, 6000:6003])) < 0.3
    assert after[7, 2000] > 49


def test_an_offset_of_a_fifth_of_the_fibres_stays_in_them_alone() -> None:
    """An amplifier fault of 24 of 120 fibres is neither removed from them nor pressed on the others."""
    residuals = petal_of()
    before, _ = corrected(residuals, ONES)
    flux = residuals.flux.copy()
    flux[:24, 1000:2000] += np.where(residuals.ivar[:24, 1000:2000] > 0, 2, 0)
    after, _ = corrected(replace(residuals, flux=flux), ONES)
    change = np.median(after[:, 1200:1800] - before[:, 1200:1800], axis=1)
    assert (change[:24] > 1.9).all()
    assert (np.abs(change[24:]) < 0.1).all()


def test_a_fifth_of_noisy_fibres_does_not_rescale_the_petal() -> None:
    """Where one fibre in five is ten times too noisy, the others' ivar falls by less than two fifths."""
    residuals = petal_of()
    flux = residuals.flux.copy()
    flux[::5] *= 10
    _, expected = corrected(residuals, ONES)
    _, ivar = corrected(replace(residuals, flux=flux), ONES)
    ratio = ivar[residuals.ivar > 0] / expected[residuals.ivar > 0]
    assert 0.6 < np.median(ratio) <= 1


@pytest.mark.parametrize(("n", "petal"), [(MIN_NOISE_ROWS - 1, 3), (1, 3), (MIN_NOISE_ROWS - 1, -1)])
def test_a_handful_of_fibres_changes_nothing(n: int, petal: int) -> None:
    """A message of too few rows to measure anything keeps its flux and gets the training's noise."""
    residuals = petal_of(n, petal)
    flux, ivar = corrected(residuals, 2 * ONES)
    np.testing.assert_array_equal(flux, residuals.flux)
    np.testing.assert_array_equal(ivar, residuals.ivar / 2)


@pytest.mark.parametrize(("n", "petal"), [(MIN_NOISE_ROWS + 2, 3), (MIN_ROWS - 1, 3), (120, -1)])
def test_few_fibres_or_an_unknown_petal_have_their_noise_measured_and_keep_their_flux(
    n: int, petal: int
) -> None:
    """Where the noise of half an arm is twice what ivar says, residuals are standard there; no flux changes."""
    noise = ONES.copy()
    noise[ARMS[2].start : ARMS[2].start + 1400] = 1.4
    residuals = petal_of(n, petal, noise)
    flux, ivar = corrected(residuals, ONES)
    np.testing.assert_array_equal(flux, residuals.flux)
    for pixels in (slice(0, 2700), slice(ARMS[2].start + 100, ARMS[2].start + 1300)):
        assert chi_of(flux[:, pixels], ivar[:, pixels]) == pytest.approx(1, abs=0.1)


def test_a_noisy_row_of_a_dozen_stays_noisy() -> None:
    """One row of twelve with ten times the noise is not what the noise of the others is measured by."""
    residuals = petal_of(12)
    flux = residuals.flux.copy()
    flux[5] *= 10
    after, ivar = corrected(replace(residuals, flux=flux), ONES)
    assert chi_of(after[5:6], ivar[5:6]) > 8
    assert chi_of(after[:5], ivar[:5]) == pytest.approx(1, abs=0.1)


def test_petals_of_one_message_are_judged_apart() -> None:
    """Two petals in one message are each corrected by their own fibres, as if they came alone."""
    one, two = petal_of(60, petal=3), petal_of(60, petal=4, noise=2 * ONES, seed=1)
    both = Residuals(
        *(np.concatenate(pair) for pair in zip(vars(one).values(), vars(two).values(), strict=True))
    )
    flux, ivar = corrected(both, ONES)
    for rows, alone in ((slice(60), one), (slice(60, None), two)):
        expected = corrected(alone, ONES)
        np.testing.assert_array_equal(flux[rows], expected[0])
        np.testing.assert_array_equal(ivar[rows], expected[1])


def test_the_order_of_rows_does_not_matter() -> None:
    """A permutation of the rows permutes the result."""
    residuals = petal_of()
    order = np.random.default_rng(1).permutation(120)
    shuffled = Residuals(*(values[order] for values in vars(residuals).values()))
    for found, expected in zip(corrected(shuffled, ONES), corrected(residuals, ONES), strict=True):
        np.testing.assert_allclose(found, expected[order], rtol=1e-5, atol=1e-6)


def test_a_broken_petal_is_not_explained_away() -> None:
    """Noise ten times too large is corrected by no more than the range allows."""
    residuals = petal_of(noise=10 * ONES)
    _, ivar = corrected(residuals, ONES)
    good = residuals.ivar > 0
    np.testing.assert_allclose(ivar[good], residuals.ivar[good] / NOISE_RANGE[1], rtol=1e-6)


def test_bad_pixels_stay_bad() -> None:
    """Pixels with ivar 0 keep flux 0 and ivar 0, also where no fibre knows the pixel."""
    residuals = petal_of()
    residuals.ivar[:, 3000:3050] = residuals.flux[:, 3000:3050] = 0
    flux, ivar = corrected(residuals, ONES)
    bad = residuals.ivar == 0
    assert (flux[bad] == 0).all()
    assert (ivar[bad] == 0).all()
    assert np.isfinite(ivar).all()
