"""From the rest frame to DESI pixels: the grid of intrinsic spectra, broadening, redshift, emission lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, N_PIX, PIXEL, WAVE
from latenight_train.nightsky import LSF_SIGMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LIGHT = 299792.458  # km/s
STEP = 1e-4  # ln(wavelength) per pixel of the rest-frame grid, 30 km/s
_LN_MIN = float(np.log(700.0))
N_REST = 27000  # 700 to 10 416 A; 2^3 3^3 5^3 keeps the Fourier transforms fast
_LN_REST = _LN_MIN + STEP * np.arange(N_REST, dtype=np.float64)
REST = np.exp(_LN_REST)  # (27000,) vacuum wavelength [A]

_LN_WAVE = np.log(WAVE)
_FREQUENCY = np.fft.rfftfreq(N_REST, STEP)  # cycles per unit of ln(wavelength)


def pixel_of(wave: float) -> int:
    """The pixel of the rest-frame grid at a wavelength [A], kept inside the grid."""
    return int(np.clip((np.log(wave) - _LN_MIN) / STEP, 0, N_REST - 1))


def broaden(rest: Array, sigma_kms: float) -> Array:
    """A rest-frame spectrum, (27000,), convolved with a Gaussian of the given velocity dispersion."""
    sigma = sigma_kms / LIGHT
    kernel = np.exp(-2.0 * (np.pi * sigma * _FREQUENCY) ** 2)
    out: Array = np.fft.irfft(np.fft.rfft(rest) * kernel, N_REST)
    return out


def observe_frame(rest: Array, z: float) -> Array:
    """A rest-frame spectrum, (27000,), seen at redshift z, (7958,), before the line-spread function.

    Wavelengths beyond the grid repeat its last value.
    """
    position = np.clip((_LN_WAVE - np.log1p(z) - _LN_MIN) / STEP, 0.0, N_REST - 1.001)
    below = position.astype(np.intp)
    weight = position - below
    return np.asarray(rest[below] * (1.0 - weight) + rest[below + 1] * weight)


def line_spread(flux: Array) -> Array:
    """A spectrum on the DESI pixels, (7958,), seen through the line-spread function of each arm."""
    out = np.empty(N_PIX)
    for arm in ARMS:
        offsets = PIXEL * np.arange(-4, 5)
        kernel = np.exp(-0.5 * (offsets / LSF_SIGMA[arm.name]) ** 2)
        out[arm.pixels] = np.convolve(
            np.pad(flux[arm.pixels], 4, mode="edge"), kernel / kernel.sum(), mode="valid"
        )
    return out


def lines(
    wave: Sequence[float] | Array,
    flux: Sequence[float] | Array,
    sigma_kms: Array | float,
    *,
    seen: bool = True,
) -> Array:
    """Gaussian lines on the DESI pixels, averaged over each pixel, (7958,).

    Args:
        wave: observed vacuum wavelengths [A].
        flux: integrated line fluxes [A x unit of the spectrum].
        sigma_kms: intrinsic velocity dispersions.
        seen: whether through the line-spread function; if not, line_spread is still to come.
    """
    out = np.zeros(N_PIX)
    for centre, total, kms in np.broadcast(wave, flux, sigma_kms):
        for arm in ARMS:
            # The pixel is a box of 0.8 A: its variance, 0.8^2/12, adds to that of the line.
            spread = LSF_SIGMA[arm.name] if seen else 0.0
            sigma = np.sqrt((centre * kms / LIGHT) ** 2 + spread**2 + PIXEL**2 / 12.0)
            first = max(int((centre - 6.0 * sigma - arm.wave_min) / PIXEL), 0)
            last = min(int((centre + 6.0 * sigma - arm.wave_min) / PIXEL) + 1, arm.n)
            if first >= last:
                continue
            pixels = arm.wave_min + PIXEL * np.arange(first, last)
            profile = np.exp(-0.5 * ((pixels - centre) / sigma) ** 2)
            out[arm.start + first : arm.start + last] += total / (sigma * 2.5066282746) * profile
    return out


def smooth_random(rng: np.random.Generator, grid: Array, scale: float) -> Array:
    """A smooth random function of unit variance on an increasing grid; scale is its length of correlation."""
    knots = np.arange(grid[0] - scale, grid[-1] + 2.0 * scale, scale)
    values = np.interp(grid, knots, rng.standard_normal(len(knots)))
    # Linear interpolation between knots has variance 2/3 on average.
    return np.asarray(values * 1.2247)


def texture(rng: np.random.Generator) -> Array:
    """A factor that makes every object its own, (27000,): 2 % smooth and 0.6 % fine structure.

    Formulas and templates span few dimensions; real spectra leave residuals of this size in any small model.
    """
    smooth = smooth_random(rng, _LN_REST, 0.08)
    return np.asarray(np.exp(0.02 * smooth + 0.006 * smooth_random(rng, _LN_REST, 6e-4)))


def ab_flux(magnitude: float, wave: float) -> float:
    """Flux density of an AB magnitude at a wavelength [A], in 1e-17 erg s-1 cm-2 A-1.

    f_nu = 10^(-0.4 (m + 48.6)) erg s-1 cm-2 Hz-1 (Oke and Gunn 1983).
    """
    return float(1.0885e16 * 10.0 ** (-0.4 * magnitude) / wave**2)
