"""What the sky subtraction left, as the sky fibres of a petal show it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.skyfibres import MIN_SKY_FIBRES
from latenight.skyresidual import without_sky_residual
from latenight.spectra import ARMS, MAX_FLUX, MAX_IVAR, N_PIX, Spectra, empty_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONES = np.ones(N_PIX, np.float32)
SIGMA = 0.5  # of the sky between its lines
SKY = SIGMA**2 * np.where(np.random.default_rng(5).random(N_PIX) < 0.1, 4.0, 1.0)  # variance
LEFT = (0.3 * np.sqrt(SKY) * (np.sin(np.arange(N_PIX) / 150) - 1)).astype(np.float32)
N_SKY, N_TARGETS = 20, 30


def petal_of(petal: int = 3, light: float = 1.0, left: NDArray[np.float32] = LEFT, seed: int = 0) -> Spectra:
    """Sky fibres, then targets of constant flux whose light adds to the noise; 2 % bad pixels."""
    rng = np.random.default_rng(seed)
    n = N_SKY + N_TARGETS
    table = empty_table(n)
    table["tileid"], table["petal"], table["fiber"] = 1000, petal, np.arange(n)
    source = np.repeat([[0.0], [light]], [N_SKY, N_TARGETS], axis=0)
    variance = SKY + 0.1 * SIGMA**2 * source
    flux = source + left + rng.standard_normal((n, N_PIX)) * np.sqrt(variance)
    ivar = np.where(rng.random((n, N_PIX)) < 0.02, 0, 1 / variance)
    flux = np.where(ivar > 0, flux, 0)
    return Spectra(flux.astype(np.float32), ivar.astype(np.float32), table, "fake")


REASONS = np.array(["sky"] * N_SKY + [""] * N_TARGETS)


def cleared(spectra: Spectra, reasons: NDArray[np.str_] = REASONS) -> NDArray[np.float32]:
    return without_sky_residual(spectra, reasons, ONES)[0].flux


def taken_off(spectra: Spectra) -> NDArray[np.float32]:
    """What was subtracted, 0 in bad pixels."""
    return np.where(spectra.ivar > 0, spectra.flux - cleared(spectra), 0)


@pytest.mark.parametrize("light", [0.0, 1.0, 100.0])
def test_a_smooth_residual_is_taken_off_all_fibres(light: float) -> None:
    """What is left in targets, faint or bright, is a seventh of it, and no light of theirs goes with it."""
    spectra = petal_of(light=light)
    error = (taken_off(spectra) - LEFT)[N_SKY:][spectra.ivar[N_SKY:] > 0]
    assert np.sqrt(np.mean(np.square(error))) < 0.15 * np.sqrt(np.mean(np.square(LEFT)))
    assert abs(error.mean()) < 0.01 * SIGMA


def test_lines_and_offsets_of_single_fibres_stay() -> None:
    """A line and an offset of half an arm in one target, and a line in one sky fibre, move nothing by .1 sigma."""
    spectra = petal_of()
    flux = spectra.flux.copy()
    flux[25, 3000:3004] += 40 * SIGMA
    flux[26, ARMS[0].pixels] += SIGMA
    flux[3, 4000:4004] += 40 * SIGMA
    moved = taken_off(replace(spectra, flux=flux)) - taken_off(spectra)
    assert np.abs(moved).max() < 0.1 * SIGMA


def test_a_fault_of_a_fifth_of_the_sky_fibres_is_not_the_petals() -> None:
    """Four of twenty sky fibres with an offset of an amplifier press a tenth of it at most on the others."""
    spectra = petal_of()
    flux = spectra.flux.copy()
    flux[:4, 1375:2751] += SIGMA
    moved = taken_off(replace(spectra, flux=flux)) - taken_off(spectra)
    assert np.abs(moved[:, 1500:2600]).mean() < 0.1 * SIGMA


@pytest.mark.parametrize(("n_sky", "petal"), [(MIN_SKY_FIBRES - 1, 3), (0, 3), (N_SKY, -1)])
def test_without_enough_sky_fibres_of_one_petal_nothing_changes(n_sky: int, petal: int) -> None:
    """Fewer sky fibres than MIN_SKY_FIBRES, or an unknown petal (healpix coadds), leave the flux as it is."""
    spectra = petal_of(petal)
    rows = np.arange(N_SKY - n_sky, len(spectra))
    found, known = without_sky_residual(spectra.take(rows), REASONS[rows], ONES)
    np.testing.assert_array_equal(found.flux, spectra.flux[rows])
    assert not known.any()


def test_fibres_of_the_sky_without_data_do_not_count() -> None:
    """Where all but MIN_SKY_FIBRES - 1 sky fibres of a petal are dead its residual is not known."""
    spectra = petal_of()
    spectra.ivar[MIN_SKY_FIBRES - 1 : N_SKY] = 0
    found, known = without_sky_residual(spectra, REASONS, ONES)
    np.testing.assert_array_equal(found.flux, spectra.flux)
    assert not known.any()


def test_petals_of_one_message_are_judged_apart_in_any_order() -> None:
    """Two petals with opposite residuals, their rows mixed, are each cleared as if they came alone."""
    one, two = petal_of(3), petal_of(4, left=-LEFT, seed=1)
    order = np.random.default_rng(2).permutation(len(one) + len(two))
    flux, ivar = (np.concatenate([getattr(one, k), getattr(two, k)])[order] for k in ("flux", "ivar"))
    mixed = Spectra(flux, ivar, np.concatenate([one.table, two.table])[order], "fake")
    found = cleared(mixed, np.concatenate([REASONS, REASONS])[order])
    expected = np.concatenate([cleared(one), cleared(two)])[order]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_exposures_in_one_file_are_judged_apart() -> None:
    """Fibres that come again are of another exposure (spectra-* files), and cleared as if it came alone."""
    first, second = petal_of(), petal_of(left=-LEFT, seed=1)
    flux, ivar = (np.concatenate([getattr(first, k), getattr(second, k)]) for k in ("flux", "ivar"))
    both = Spectra(flux, ivar, np.concatenate([first.table, second.table]), "fake")
    found = cleared(both, np.concatenate([REASONS, REASONS]))
    expected = np.concatenate([cleared(first), cleared(second)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bad_pixels_and_rows_that_are_not_scored_keep_their_flux() -> None:
    """What is 0 under ivar 0 stays 0; a broken fibre is left alone."""
    spectra = petal_of()
    expected = cleared(spectra)
    bad, reasons = spectra.ivar == 0, REASONS.copy()
    reasons[40] = "fiberstatus"
    found = cleared(spectra, reasons)
    assert not found[bad].any()
    np.testing.assert_array_equal(found[40], spectra.flux[40])
    assert np.flatnonzero(~without_sky_residual(spectra, reasons, ONES)[1]).tolist() == [40]
    rows = np.arange(len(found)) != 40
    np.testing.assert_array_equal(found[rows][~bad[rows]], expected[rows][~bad[rows]])


def test_absurd_sky_fibres_leave_finite_fluxes() -> None:
    """The largest numbers that spectra hold, in good pixels of sky fibres, make no flux of a target infinite."""
    spectra = petal_of()
    flux, ivar = spectra.flux.copy(), spectra.ivar.copy()
    flux[0, 100:200], ivar[1, 300:400], flux[2, :] = MAX_FLUX, MAX_IVAR, -MAX_FLUX
    assert np.isfinite(cleared(replace(spectra, flux=flux, ivar=ivar))[N_SKY:]).all()
