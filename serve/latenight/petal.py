"""What the fibres of one petal share: residuals of the sky and the true noise of each pixel.

All 500 fibres of a petal go through one spectrograph at once. What the sky subtraction left at a wavelength, and how
far the ivar there is wrong, shows in every one of them, sky fibres included. Both are measured as medians over the
fibres of one message and nowhere else: a fifth of bad fibres cannot rescale their petal to innocence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# A median over fewer fibres errs by more than the differences between petals (a few per cent).
MIN_ROWS = 30
# Spectra brighter than this per pixel show the limits of the model rather than of the noise.
FAINT_SNR = 3.0
# Beyond this range the petal is broken, and its scores should say so instead of adapting; factors on the variance.
NOISE_RANGE = (0.6, 4.0)
# Fibres worth of belief in the noise factor of training; 450 fibres measure that of a pixel to 7 %.
PRIOR_ROWS = 20
SMOOTH_PIXELS = 201
# The dark sky beside a pixel: this quantile of the noise variance over so many pixels.
LINE_PIXELS, DARK_QUANTILE = 121, 0.15
NORMAL_MEDIAN_SQUARE = 0.4549  # of a normal variable's square


@dataclass(frozen=True)
class Residuals:
    """Spectra beside what the model says of them; sky fibres have model and variance 0.

    Attributes:
        flux: (N, 7958).
        ivar: (N, 7958), 0 in bad pixels.
        model: (N, 7958) reconstruction.
        variance: (N, 7958) of the reconstruction.
        table: (N,) the spectra's table.
    """

    flux: Floats
    ivar: Floats
    model: Floats
    variance: Floats
    table: np.ndarray


def corrected(r: Residuals, pixel_noise: Floats) -> tuple[Floats, Floats]:
    """Flux without the petal's common sky residual, and the ivar that its residuals really have, (N, 7958) each.

    Rows are grouped by (tileid, petal); a group with fewer than MIN_ROWS rows, or whose petal is not known (healpix
    coadds), keeps its flux and gets the noise that training found.

    Args:
        r: all eligible rows and sky fibres of a message.
        pixel_noise: (7958,) factor on the variance of each pixel, learned in training.
    """
    flux, ivar = r.flux.copy(), r.ivar / pixel_noise
    petals = np.stack([r.table["tileid"], r.table["petal"]], axis=1)
    for petal in np.unique(petals, axis=0):
        rows = np.flatnonzero((petals == petal).all(axis=1))
        if petal[1] < 0 or len(rows) < MIN_ROWS:
            continue
        sky, noise = shared(r, rows, pixel_noise)
        flux[rows] -= np.where(r.ivar[rows] > 0, sky, 0)
        ivar[rows] = r.ivar[rows] / noise
    return flux, ivar


def shared(r: Residuals, rows: NDArray[np.intp], pixel_noise: Floats) -> tuple[Floats, Floats]:
    """Common sky residual and factor on the variance, (7958,) each, of the given rows: the fibres of one petal."""
    good = r.ivar[rows] > 0
    significance = np.where(good, r.flux[rows] * np.sqrt(r.ivar[rows]), 0)
    snr = significance.sum(axis=1) / np.maximum(good.sum(axis=1), 1)
    faint = rows[snr < FAINT_SNR]
    used = faint if len(faint) >= MIN_ROWS else rows
    good = r.ivar[used] > 0
    residual = np.where(good, r.flux[used] - r.model[used], np.nan)
    with np.errstate(divide="ignore"):
        noise_variance = _median(np.where(good, 1 / r.ivar[used], np.nan))
    sky = _sky_part(_median(residual), noise_variance)
    with np.errstate(divide="ignore"):
        total = 1 / r.ivar[used] + r.variance[used]
    chi2 = np.asarray((residual - sky) ** 2 / total, np.float32)
    squares = _median(chi2) / NORMAL_MEDIAN_SQUARE
    n = np.count_nonzero(good, axis=0)
    noise = (n * squares + PRIOR_ROWS * pixel_noise) / (n + PRIOR_ROWS)
    return sky, np.clip(noise, *NOISE_RANGE).astype(np.float32)


def _median(values: Floats) -> Floats:
    """Median over the rows, (7958,), of the known values; 0 where none is known."""
    ordered = np.sort(values, axis=0)  # NaN is sorted to the end
    n = np.count_nonzero(np.isfinite(ordered), axis=0)
    pixels = np.arange(ordered.shape[1])
    middle = 0.5 * (
        ordered[np.maximum(n - 1, 0) // 2, pixels] + ordered[np.minimum(n // 2, len(ordered) - 1), pixels]
    )
    return np.where(n > 0, middle, 0).astype(np.float32)


def _sky_part(residual: Floats, noise_variance: Floats) -> Floats:
    """What of the fibres' median residual is the sky's, (7958,).

    All of it on sky lines, where the noise stands out from that of the dark sky; between them only what varies
    faster than SMOOTH_PIXELS: an offset of many fibres over half an arm is a fault that must be seen.
    """
    out = np.empty_like(residual)
    for arm in ARMS:
        x, v = residual[arm.pixels], noise_variance[arm.pixels]
        around = np.lib.stride_tricks.sliding_window_view(
            np.pad(v, LINE_PIXELS // 2, mode="edge"), LINE_PIXELS
        )
        at = np.arange(0, arm.n, LINE_PIXELS // 8)
        dark = np.interp(np.arange(arm.n), at, np.quantile(around[at], DARK_QUANTILE, axis=1))
        line = 1 - np.minimum(dark / np.maximum(v, 1e-30), 1)  # share of the variance that the lines make
        half = SMOOTH_PIXELS // 2
        sums = np.cumsum(np.pad(x, (half + 1, half), mode="edge"), dtype=np.float64)
        out[arm.pixels] = x - (1 - line) * (sums[SMOOTH_PIXELS:] - sums[:-SMOOTH_PIXELS]) / SMOOTH_PIXELS
    return out
