"""The search for redshifts: what it finds, and what it does not depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.modes import ModeGroup, weights_of
from latenight.redshift import RANGES, find_redshifts, trials_of
from latenight.spectra import ARMS, MAX_FLUX, MAX_IVAR, N_PIX, WAVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

STEP = 1e-4
LINES = {"GALAXY": (3728.0, 4862.0, 4960.0, 5008.0, 6564.0), "STAR": (3934.0, 4341.0, 4862.0, 5892.0)}


def model_of(spectype: str) -> ModeGroup:
    """A continuum, its height and slope, and lines of their own strengths: emission or absorption."""
    ln_wave = np.arange(np.log(1200.0), np.log(10_000.0), STEP)
    wave = np.exp(ln_wave)
    lines = [np.exp(-0.5 * ((wave - centre) / (centre * 5e-4)) ** 2) for centre in LINES[spectype]]
    sign = 1.0 if spectype == "GALAXY" else -0.4
    continuum = (0.2 * np.ones(len(wave)), 0.3 * (ln_wave - ln_wave.mean()))
    modes = np.stack([*continuum, *(0.2 * line for line in lines)], axis=1)
    mean = 1 + sign * np.sum(lines, axis=0)
    variance, quiet = np.full(len(wave), 1e-5), np.ones(len(wave))
    columns = np.column_stack([modes, mean, variance, quiet]).astype(np.float32)
    precision = np.eye(modes.shape[1], dtype=np.float32)
    return ModeGroup(spectype, -0.1, 9.0, weights_of(columns, np.array([ln_wave[0], 1 / STEP]), precision))


GROUPS = [model_of("GALAXY"), model_of("STAR")]
TRIALS = [trials_of(group) for group in GROUPS]


def spectrum(which: int, z: float, snr: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Flux and ivar, (7958,), of a spectrum that the model of a group makes, at an S/N per pixel."""
    weights = GROUPS[which].weights
    at = (np.log(WAVE / (1 + z)) - weights["grid"][0]) * weights["grid"][1]
    at = np.clip(np.rint(at), 0, weights["grid"][2]).astype(int)
    rng = np.random.default_rng(seed)
    coefficients = 0.5 * rng.standard_normal(weights["modes"].shape[1])
    flux = weights["profiles"][0][at] + weights["modes"][at] @ coefficients
    noise = rng.standard_normal(N_PIX) / snr
    return (flux + noise).astype(np.float32), np.full(N_PIX, snr**2, np.float32)


def test_redshift_and_class_of_spectra_that_the_models_make_are_found() -> None:
    """At an S/N of 3 a pixel every redshift is right to 75 km/s, and every class."""
    true = [(0, z) for z in (0.02, 0.31, 0.64, 0.99)] + [(1, z) for z in (-0.001, 0.0, 0.0007)]
    flux, ivar = (
        np.stack(values) for values in zip(*(spectrum(*each, snr=3.0) for each in true), strict=True)
    )
    z, which = find_redshifts(flux, ivar, TRIALS, threads=2)
    assert which.tolist() == [k for k, _ in true]
    np.testing.assert_allclose(np.log1p(z), np.log1p([z for _, z in true]), atol=2.5e-4)


def test_a_spectrum_is_judged_by_itself() -> None:
    """Company, order and threads change nothing."""
    flux, ivar = (
        np.stack(v) for v in zip(*(spectrum(k % 2, 0.0, 1.0, seed=k) for k in range(6)), strict=True)
    )
    z, which = find_redshifts(flux, ivar, TRIALS, threads=1)
    order = np.array([4, 1, 5])
    again = find_redshifts(flux[order], ivar[order], TRIALS, threads=2)
    np.testing.assert_array_equal(again[0], z[order])
    np.testing.assert_array_equal(again[1], which[order])


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_unit_of_flux_does_not_matter(factor: float) -> None:
    """A spectrum times a factor has the same redshift."""
    flux, ivar = (values[None] for values in spectrum(0, 0.4, snr=2.0))
    z, _ = find_redshifts(flux, ivar, TRIALS, threads=1)
    scaled, _ = find_redshifts(flux * np.float32(factor), ivar / np.float32(factor) ** 2, TRIALS, threads=1)
    np.testing.assert_allclose(scaled, z, rtol=1e-4)


def test_a_dead_arm_is_not_looked_at() -> None:
    """With the flux of an arm that has no ivar replaced by anything, the redshift is the same, and right."""
    flux, ivar = (values[None] for values in spectrum(0, 0.31, snr=3.0))
    ivar[:, ARMS[0].pixels] = 0
    z, _ = find_redshifts(flux, ivar, TRIALS, threads=1)
    flux[:, ARMS[0].pixels] = 1e9
    np.testing.assert_array_equal(find_redshifts(flux, ivar, TRIALS, threads=1)[0], z)
    np.testing.assert_allclose(z, 0.31, atol=3e-4)


@pytest.mark.parametrize("height", [0.0, MAX_FLUX])
def test_spectra_that_tell_nothing_get_a_redshift_that_was_tried(height: float) -> None:
    """Spectra without data or at the bounds of what is read end somewhere in the range of a class, never at NaN."""
    flux, ivar = np.full((2, N_PIX), height, np.float32), np.full((2, N_PIX), MAX_IVAR, np.float32)
    ivar[0] = 0
    z, which = find_redshifts(flux, ivar, TRIALS, threads=1)
    for redshift, k in zip(z, which, strict=True):
        low, high = RANGES[GROUPS[k].spectype]
        assert low - 1e-3 < redshift < high + 1e-3
