"""What telescope, sky and reduction do to the spectra of a petal: noise, residuals, calibration, masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARM_OF_PIXEL, ARMS, N_PIX, WAVE
from latenight_train.nightsky import continuum_variance, line_variance
from latenight_train.restframe import smooth_random

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Per arm b, r, z. Chi of sky fibres in public data has rms 1.09/1.26 (clean/line pixels), 1.05/1.07 and
# 1.23/1.47, with correlation 0.2-0.3 between the fibres of a petal on lines and 0.14 between them in Z;
# these numbers give that back.
_NOISE_SCALE = np.array([1.01, 1.01, 1.10])  # true sigma over reported sigma
_NOISE_SCALE_SPREAD = np.array([0.03, 0.02, 0.05])
_CLEAN_RESIDUAL = np.array([0.42, 0.25, 0.45])  # common to a petal, in sigma
_LINE_RESIDUAL = np.array([1.00, 0.35, 0.80])  # in sigma, rms over line pixels
_RESPONSE = np.array([0.011, 0.003, 0.005])  # smooth error of the flux calibration
# Sky continuum, read noise included, as an equivalent flux: its variance per unit of flux is that of a
# source's photons. From S/N 50-60 spectra, whose ivar falls 18 -> 6 in B and 100 -> 29 in R.
_SKY_FLUX = np.array([7.0, 3.6, 4.0])

COSMIC, BADCOLUMN = 1 << 2, 1 << 10  # bits of the pixel mask (specmask)


@cache
def sky_variance() -> tuple[Array, Array]:
    """Variance of continuum and of lines in 1000 s of dark sky, (7958,) each."""
    return continuum_variance(), line_variance()


@cache
def photon_variance() -> Array:
    """Variance per unit of source flux in 1000 s, (7958,)."""
    return np.asarray(sky_variance()[0] / _SKY_FLUX[ARM_OF_PIXEL])


@cache
def _line_patterns() -> Array:
    """Shapes of sky line residuals: intensity, shift, width, (3, 7958); rms 1 sigma over line pixels."""
    continuum, lines = sky_variance()
    sigma = np.sqrt(continuum + lines)
    shapes = (
        np.array([lines, line_variance(0.1) - line_variance(-0.1), line_variance(width=1.03) - lines]) / sigma
    )
    for arm in ARMS:
        near = shapes[:, arm.pixels]
        on_line = (
            lines[arm.pixels] > 0.67 * continuum[arm.pixels]
        )  # where ivar is under 60 % of its surroundings
        near /= np.sqrt(np.mean(near[:, on_line] ** 2, axis=1, keepdims=True))
    return shapes


@dataclass(frozen=True)
class Tile:
    """What the petals of a tile share.

    Attributes:
        program: "dark" or "bright".
        efftime: effective exposure time [s of dark time]; ivar is proportional to it.
        n_exposures: how many exposures were added up.
        airglow: factor on the sky lines.
    """

    program: str
    efftime: float
    n_exposures: int
    airglow: float


def draw_tile(rng: np.random.Generator, program: str) -> Tile:
    """The conditions of a tile; most tiles reach the goals, 1000 s in dark and 180 s in bright time."""
    goal, spread = (1000.0, 0.12) if program == "dark" else (190.0, 0.22)
    shortfall = rng.exponential(0.4) if rng.random() < 0.08 else 0.0
    efftime = goal * rng.lognormal(0.0, spread) * np.exp(-min(shortfall, 0.9))
    return Tile(
        program,
        float(efftime),
        int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12])),
        float(rng.lognormal(0.0, 0.25)),
    )


@dataclass(frozen=True)
class Petal:
    """What the fibres of a petal share.

    Attributes:
        tile: conditions of its tile.
        variance: (7958,) of the sky, reported by the pipeline.
        noise_scale: (7958,) true over reported sigma.
        residual: (7958,) of the sky subtraction, in reported sigma.
        fibre_residual: (3,) rms in sigma of each fibre's own residual on sky lines, per arm.
        gain: (7958,) error of the flux calibration.
        shift: (3,) error of the wavelength calibration per arm [pixels].
        columns: pixels that are bad in a few neighbouring fibres: (first fibre, n fibres, first pixel, n
            pixels).
    """

    tile: Tile
    variance: Array
    noise_scale: Array
    residual: Array
    fibre_residual: Array
    gain: Array
    shift: Array
    columns: tuple[tuple[int, int, int, int], ...]


def draw_petal(rng: np.random.Generator, tile: Tile, n_fibres: int) -> Petal:
    """The conditions of one petal."""
    continuum, lines = sky_variance()
    level = rng.lognormal(0.0, 0.05, 3)[ARM_OF_PIXEL]
    flat = 1.0 + 0.03 * rng.standard_normal(N_PIX)  # pixel-to-pixel sensitivity, common to the petal's fibres
    variance = (continuum * level + lines * tile.airglow) * flat * 1000.0 / tile.efftime
    noise_scale = _NOISE_SCALE + _NOISE_SCALE_SPREAD * rng.standard_normal(3)
    bad = rng.lognormal(0.0, 0.3, 3)
    residual = _clean_residual(rng, bad * _CLEAN_RESIDUAL) + _line_residual(rng, bad * _LINE_RESIDUAL * 0.92)
    gain = (
        1.0
        + rng.normal(0.0, 0.006, 3)[ARM_OF_PIXEL]
        + _RESPONSE[ARM_OF_PIXEL] * smooth_random(rng, WAVE, 300.0)
    )
    columns = tuple(
        (
            int(rng.integers(n_fibres)),
            int(rng.integers(2, 6)),
            int(rng.integers(N_PIX - 4)),
            int(rng.integers(1, 4)),
        )
        for _ in range(rng.poisson(0.01 * n_fibres))
    )
    return Petal(
        tile=tile,
        variance=variance,
        noise_scale=noise_scale[ARM_OF_PIXEL],
        residual=residual,
        fibre_residual=0.4 * bad * _LINE_RESIDUAL,
        gain=gain,
        shift=rng.normal(0.0, 0.03, 3),
        columns=columns,
    )


def _clean_residual(rng: np.random.Generator, amplitude: Array) -> Array:
    """Error of the sky continuum: a bias, smooth waves and fine structure (faint lines not modelled)."""
    fine = np.convolve(rng.standard_normal(N_PIX + 4), [0.2, 0.55, 0.7, 0.55, 0.2], mode="valid") / 1.07
    wave = 0.6 * smooth_random(rng, WAVE, 120.0) + 0.65 * fine
    bias = rng.normal([-0.2, 0.0, 0.0], 0.45)
    return np.asarray(amplitude[ARM_OF_PIXEL] * (wave + bias[ARM_OF_PIXEL]))


def _line_residual(rng: np.random.Generator, amplitude: Array) -> Array:
    """Residual of the sky lines in sigma, (7958,): errors of flux, place and width, varying by band."""
    weights = np.array([smooth_random(rng, WAVE, 250.0) for _ in range(3)]) * np.array(
        [[0.65], [0.65], [0.4]]
    )
    return np.asarray(amplitude[ARM_OF_PIXEL] * np.sum(weights * _line_patterns(), axis=0))


def observe(
    source: Array, petal: Petal, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """The spectra of a petal as the pipeline would report them.

    Args:
        source: (N, 7958) noise-free fluxes [1e-17 erg s-1 cm-2 A-1], line-spread function applied; 0 for sky
            fibres.
        petal: conditions.
        rng: source of randomness.

    Returns:
        flux, ivar (float32) and mask (int32), (N, 7958) each. Natural missed cosmics are not yet in.
    """
    n = len(source)
    flux = np.empty((n, N_PIX), np.float32)
    ivar = np.empty((n, N_PIX), np.float32)
    for i in range(n):
        throughput = min(rng.lognormal(0.0, 0.07), 1.15)
        shot = np.maximum(source[i], 0.0) * photon_variance() * 1000.0 / petal.tile.efftime
        variance = petal.variance / throughput**2 + shot / throughput
        sigma = np.sqrt(variance)
        scale = petal.noise_scale * (1.0 + 0.015 * rng.standard_normal(3))[ARM_OF_PIXEL]
        own = _line_residual(rng, petal.fibre_residual)
        noise = rng.standard_normal(N_PIX, dtype=np.float32) * scale + petal.residual + own
        flux[i] = _miscalibrate(source[i], petal, rng) + sigma * noise
        ivar[i] = 1.0 / variance
    return flux, ivar, _mask(rng, flux, ivar, petal)


def _miscalibrate(source: Array, petal: Petal, rng: np.random.Generator) -> Array:
    """A noise-free spectrum with the errors of flux and wavelength calibration of one fibre."""
    if not source.any():
        return source
    gain = petal.gain + rng.normal(0.0, 0.008, 3)[ARM_OF_PIXEL] + 0.004 * smooth_random(rng, WAVE, 400.0)
    shift = petal.shift + rng.normal(0.0, 0.03, 3)
    # f(x - shift) to first order: the errors are a few per cent of a pixel.
    slope = np.concatenate([np.gradient(source[arm.pixels]) * shift[k] for k, arm in enumerate(ARMS)])
    return np.asarray((source - slope) * gain)


def _mask(
    rng: np.random.Generator, flux: NDArray[np.float32], ivar: NDArray[np.float32], petal: Petal
) -> NDArray[np.int32]:
    """Set masks and lower ivar in place: cosmics of single exposures and the petal's bad columns."""
    n = len(flux)
    mask = np.zeros((n, N_PIX), np.int32)
    exposures = petal.tile.n_exposures
    # About 9 hits per exposure and fibre (0.3 % of the pixels) are recognised and left out of the coadd.
    for _ in range(rng.poisson(9.0 * exposures * n)):
        i, first = int(rng.integers(n)), int(rng.integers(N_PIX - 4))
        hit = (i, slice(first, first + int(rng.integers(1, 5))))
        if exposures > 1:
            ivar[hit] *= 1.0 - 1.0 / exposures
            continue
        # Where every input is masked the coadd carries the bits; ivar may or may not be zero, and the flux
        # is wild.
        mask[hit] |= COSMIC
        if rng.random() < 0.5:
            ivar[hit] = 0.0
        flux[hit] += rng.exponential(30.0) / np.sqrt(petal.variance[hit[1]])
    for first_fibre, n_fibres, first, width in petal.columns:
        block = (slice(first_fibre, first_fibre + n_fibres), slice(first, first + width))
        mask[block] |= BADCOLUMN
        ivar[block] = 0.0
    return mask


def add_missed_cosmic(
    rng: np.random.Generator, flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """One spectrum, (7958,), with a cosmic that the pipeline missed, and its matched-filter S/N."""
    first = int(rng.integers(2, N_PIX - 5))
    pixels = slice(first, first + int(rng.integers(1, 4)))
    good = ivar[pixels] > 0.0
    delta = np.where(good, rng.uniform(0.3, 1.0, len(good)) / np.sqrt(np.where(good, ivar[pixels], 1.0)), 0.0)
    wanted = rng.uniform(7.0, 25.0)
    snr = float(np.sqrt(np.sum(delta**2 * ivar[pixels])))
    out = flux.copy()
    if snr > 0.0:
        out[pixels] += (delta * wanted / snr).astype(np.float32)
    return out, wanted if snr > 0.0 else 0.0
