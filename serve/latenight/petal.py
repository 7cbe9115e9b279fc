"""What the fibres of one petal share: residuals of the sky, errors of the calibration, the true noise of each pixel.

All 500 fibres of a petal go through one spectrograph at once. What the sky subtraction left at a wavelength, a gain
that is off there, and how far the ivar is wrong, shows in every one of them (the first and the last in sky fibres
too). They are measured over the fibres of one message and nowhere else. Fibres that differ from the others, by an
offset of half an arm or by their noise, are left out of the measurement: a fifth of bad fibres cannot rescale their
petal to innocence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from latenight.skyfibres import inverse, sky_sigma
from latenight.spectra import ARM_OF_PIXEL, ARMS, N_PIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# An average over fewer fibres errs by more than the differences between petals (a few per cent).
MIN_ROWS = 30
# Spectra brighter than this per pixel show the limits of the model rather than of the noise.
FAINT_SNR = 3.0
# Beyond this range the petal is broken, and its scores should say so instead of adapting; factors on the variance.
NOISE_RANGE = (0.6, 4.0)
# Fibres worth of belief in the noise factor of training; 450 fibres measure that of a pixel to 7 %.
PRIOR_ROWS = 20
CLIP = 4.0  # sigma: what a single pixel can say about its petal
ROUNDS = 3
SKY_PRIOR = 0.5  # of the common residual of a pixel, in sigma of the sky
SMOOTH_GAIN, PIXEL_GAIN = (
    0.01,
    0.004,
)  # widths of the priors of the common gain, over SMOOTH_PIXELS and of a pixel
SMOOTH_PIXELS = 101
NOISE_CLIP, MEAN_CLIPPED_SQUARE = 3.0, 0.995  # mean of min(u^2, 9) for normal u
DIFFERENT = 5.0  # robust sigmas from the petal's other fibres
HALF_ARMS = 2 * ARM_OF_PIXEL + np.concatenate(
    [np.arange(arm.n) >= arm.n // 2 for arm in ARMS]
)  # (7958,) 0..5


@dataclass(frozen=True)
class Learned:
    """What training petals showed.

    Attributes:
        pixel_noise: (7958,) factor on the variance of each observed pixel.
        sky_variance: (7958,) 1/ivar of their sky fibres, mean 1: its shape is what counts.
    """

    pixel_noise: Floats
    sky_variance: Floats


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

    def take(self, rows: NDArray[np.intp]) -> Residuals:
        """The given rows."""
        return Residuals(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True)
class Corrected:
    """Spectra after the petal step.

    Attributes:
        flux: (N, 7958) without the common sky residual and gain.
        ivar: (N, 7958) that the residuals really have.
        sky: (N, 7958) noise of the sky in each fibre, one sigma [flux unit].
    """

    flux: Floats
    ivar: Floats
    sky: Floats


@dataclass(frozen=True)
class Shared:
    """What the fibres of one petal have in common, (7958,) each.

    Attributes:
        residual: of the sky, in units of each fibre's sky sigma.
        gain: relative error of the flux calibration.
        noise: factor on the variance.
    """

    residual: Floats
    gain: Floats
    noise: Floats


def corrected(r: Residuals, learned: Learned) -> Corrected:
    """The petal step: rows are grouped by (tileid, petal), and each group is corrected by itself.

    A group with fewer than MIN_ROWS rows, or whose petal is not known (healpix coadds), keeps its flux and gets the
    noise that training found.

    Args:
        r: all eligible rows and sky fibres of a message.
        learned: from training.
    """
    r = replace(r, flux=np.where(r.ivar > 0, r.flux, 0))
    out = Corrected(r.flux.copy(), r.ivar / learned.pixel_noise, np.empty_like(r.flux))
    petals = np.stack([r.table["tileid"], r.table["petal"]], axis=1)
    for petal in np.unique(petals, axis=0):
        rows = np.flatnonzero((petals == petal).all(axis=1))
        mine = r.take(rows)
        if petal[1] < 0 or len(rows) < MIN_ROWS:
            out.sky[rows] = sky_sigma(mine.ivar, mine.model, learned.sky_variance)
            continue
        of_sky = mine.ivar[mine.table["objtype"] == "SKY"]
        out.sky[rows] = sky = sky_sigma(mine.ivar, mine.model, learned.sky_variance, of_sky)
        found = shared(mine, sky, learned.pixel_noise)
        flux = (mine.flux - found.residual * sky) / (1 + found.gain)
        out.flux[rows] = np.where(mine.ivar > 0, flux, 0)
        out.ivar[rows] = mine.ivar / found.noise
    return out


def shared(r: Residuals, sky: Floats, pixel_noise: Floats) -> Shared:
    """What the given fibres, those of one petal, have in common.

    Args:
        r: the fibres, n rows.
        sky: (n, 7958) sigma of the sky.
        pixel_noise: (7958,) factor on the variance of each pixel, learned in training.
    """
    good = r.ivar > 0
    root = np.sqrt(np.where(good, 1 / (inverse(r.ivar) + r.variance), 0))
    sigmas = (r.flux - r.model) * root
    rho = sky * root
    ordinary, residual, rest = np.ones(len(sigmas), bool), np.zeros(N_PIX, np.float32), sigmas
    # More than one round: what is common may exceed CLIP, and fibres that differ must go first.
    for _ in range(ROUNDS):
        clipped = np.clip(rest[ordinary], -CLIP, CLIP)
        residual = residual + _ratio(clipped, rho[ordinary], 1 / SKY_PRIOR**2)
        rest = sigmas - residual * rho
        ordinary = ordinary_fibres(rest, good)
    gain = _common_gain(np.clip(rest[ordinary], -CLIP, CLIP), (r.model * root)[ordinary])
    rest -= gain * r.model * root
    return Shared(residual, gain, _noise(rest, good, ordinary, pixel_noise, sigmas + r.model * root))


def ordinary_fibres(sigmas: Floats, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of n fibres differ from the others neither in the mean nor in the scatter of half an arm, (n,).

    Args:
        sigmas: (n, 7958) residuals in sigma.
        good: (n, 7958) which pixels count.
    """
    halves = np.eye(6, dtype=np.float32)[HALF_ARMS]  # (7958, 6)
    clipped = np.clip(sigmas, -2 * CLIP, 2 * CLIP)
    n = np.maximum(good.astype(np.float32) @ halves, 1)
    offset = clipped @ halves / np.sqrt(n)
    scatter = np.square(clipped) @ halves / n
    found = np.concatenate([offset, scatter], axis=1)
    away = np.abs(found - np.median(found, axis=0))
    different = (away > DIFFERENT * 1.4826 * np.maximum(np.median(away, axis=0), 1e-6)).any(axis=1)
    # Where more than half differ there is no norm to differ from.
    return ~different if np.count_nonzero(~different) >= MIN_ROWS // 2 else np.ones(len(sigmas), bool)


def _ratio(sigmas: Floats, pattern: Floats, prior: float) -> Floats:
    """Least-squares amplitude of a pattern in each pixel over the fibres, (7958,), drawn to 0 by a prior."""
    products = np.einsum("np,np->p", sigmas, pattern)
    return np.asarray(products / (np.einsum("np,np->p", pattern, pattern) + prior), np.float32)


def _common_gain(sigmas: Floats, model: Floats) -> Floats:
    """Relative gain that all fibres share, (7958,): a smooth part and one of each pixel."""
    products, squares = np.einsum("np,np->p", sigmas, model), np.einsum("np,np->p", model, model)
    kernel = np.ones(SMOOTH_PIXELS)
    smooth = np.empty(N_PIX)
    for arm in ARMS:
        above, below = (np.convolve(v[arm.pixels], kernel, "same") for v in (products, squares))
        smooth[arm.pixels] = above / (below + 1 / SMOOTH_GAIN**2)
    own = (products - smooth * squares) / (squares + 1 / PIXEL_GAIN**2)
    return np.asarray(smooth + own, np.float32)


def _noise(
    sigmas: Floats,
    good: NDArray[np.bool_],
    ordinary: NDArray[np.bool_],
    pixel_noise: Floats,
    significance: Floats,
) -> Floats:
    """Factor on the variance of each pixel, (7958,)."""
    snr = significance.sum(axis=1) / np.maximum(good.sum(axis=1), 1)
    faint = ordinary & (snr < FAINT_SNR)
    used = faint if np.count_nonzero(faint) >= MIN_ROWS else ordinary
    n = np.count_nonzero(good[used], axis=0)
    squares = np.minimum(np.square(sigmas[used]), NOISE_CLIP**2).sum(axis=0) / MEAN_CLIPPED_SQUARE
    noise = (squares + PRIOR_ROWS * pixel_noise) / (n + PRIOR_ROWS)
    return np.asarray(np.clip(noise, *NOISE_RANGE), np.float32)
