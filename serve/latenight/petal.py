"""What the fibres of one petal share: residuals of the sky, errors of the calibration, the true noise of each pixel.

All 500 fibres of a petal go through one spectrograph at once. What the sky subtraction left at a wavelength, a gain
that is off there, and how far the ivar is wrong, shows in every one of them (the first and the last in sky fibres
too). They are measured over the fibres of one message and nowhere else. Fibres that differ from the others, by an
offset of half an arm or by their noise, are left out of the measurement: a fifth of bad fibres cannot rescale their
petal to innocence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.fibres import around, chunks, half_sums, ordinary_fibres, pattern_sums, petals_of, take_off
from latenight.skyfibres import THINNED, sky_of, sky_sigma
from latenight.spectra import N_PIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# An average over fewer fibres errs by more than the differences between petals (a few per cent).
MIN_ROWS = 30
# The noise is measured in fewer, of whatever petals: what a reduction gets wrong in the ivar is wrong in all (1.1 to
# 3 in a tile of the survey validation). Ten rows tell that of SMOOTH_PIXELS to 5 %.
MIN_NOISE_ROWS = 10
# Spectra brighter than this per pixel show the limits of the model rather than of the noise.
FAINT_SNR = 3.0
# Beyond this range the petal is broken, and its scores should say so instead of adapting; factors on the variance.
NOISE_RANGE = (0.6, 4.0)
# Fibres worth of belief in the noise factor of the pixels around; 450 fibres measure that of a pixel to 7 %.
PRIOR_ROWS = 20
PRIOR_PIXELS = 300  # worth of belief in training, of the noise factor of SMOOTH_PIXELS
ROUNDS = 3
SKY_PRIOR = 0.5  # of the common residual of a pixel, in sigma of the sky
SMOOTH_GAIN, PIXEL_GAIN = (
    0.01,
    0.004,
)  # widths of the priors of the common gain, over SMOOTH_PIXELS and of a pixel
SMOOTH_PIXELS = 101
NOISE_CLIP, MEAN_CLIPPED_SQUARE = 3.0, 0.995  # mean of min(u^2, 9) for normal u


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

    A group with fewer than MIN_ROWS rows, or whose petal is not known (healpix coadds), keeps its flux; only its noise
    is measured. One with fewer than MIN_NOISE_ROWS gets the noise that training found.

    Args:
        r: all eligible rows and sky fibres of a message.
        learned: from training.
    """
    petals = petals_of(r.table)
    if len(petals) == 1:
        return _corrected_petal(r, petals[0][0] >= 0, learned)
    out = Corrected(*(np.empty_like(r.flux) for _ in range(3)))
    for petal, rows in petals:
        mine = _corrected_petal(r.take(rows), petal >= 0, learned)
        for whole, part in zip(vars(out).values(), vars(mine).values(), strict=True):
            whole[rows] = part
    return out


def _corrected_petal(r: Residuals, known: bool, learned: Learned) -> Corrected:
    """The petal step for the fibres of one petal; known: whether they are."""
    enough = known and len(r.flux) >= MIN_ROWS
    of_sky = r.ivar[(r.table["objtype"] == "SKY") & enough]
    sky = sky_sigma(r.ivar, r.model[:, THINNED], sky_of(of_sky, learned.sky_variance))
    found = shared(r, sky, learned.pixel_noise, in_common=enough)
    flux, ivar = np.empty_like(r.flux), r.ivar / found.noise
    per_gain = 1 / (1 + found.gain)
    for rows in chunks(len(flux)):
        left = r.flux[rows] - found.residual * sky[rows]
        left *= per_gain
        flux[rows] = np.where(r.ivar[rows] > 0, left, 0)
    return Corrected(flux, ivar, sky)


@dataclass(frozen=True)
class Sigmas:
    """The fibres of one petal in units of their noise; all (n, 7958), 0 in bad pixels.

    Attributes:
        rest: flux without model, and without what was found to be common.
        sky: one sigma of the sky.
        model: reconstruction.
        good: which pixels count.
        n_good: (n, 6) number of them in each half of an arm.
        snr: (n,) mean signal-to-noise ratio of the good pixels.
    """

    rest: Floats
    sky: Floats
    model: Floats
    good: NDArray[np.bool_]
    n_good: Floats
    snr: Floats


def shared(r: Residuals, sky: Floats, pixel_noise: Floats, *, in_common: bool = True) -> Shared:
    """What the given fibres share.

    Args:
        r: the fibres, n rows.
        sky: (n, 7958) sigma of the sky.
        pixel_noise: (7958,) factor on the variance of each pixel, learned in training.
        in_common: whether they are enough fibres of one petal to have residual and gain in common, too.
    """
    residual, gain = np.zeros((2, N_PIX), np.float32)
    if len(sky) < MIN_NOISE_ROWS:
        return Shared(residual, gain, pixel_noise)
    s = _in_sigma(r, sky)
    if not in_common:
        return Shared(residual, gain, _noise(s, ordinary_fibres(s.rest, s.n_good), pixel_noise))
    ordinary = np.ones(len(sky), bool)
    # More than one round: what is common may exceed CLIP, and fibres that differ must go first.
    for _ in range(ROUNDS):
        products, squares = pattern_sums(s.rest, s.sky, ordinary)
        more = products / (squares + 1 / SKY_PRIOR**2)
        residual += more
        take_off(s.rest, more, s.sky)
        ordinary = ordinary_fibres(s.rest, s.n_good)
    gain = _common_gain(*pattern_sums(s.rest, s.model, ordinary))
    take_off(s.rest, gain, s.model)
    return Shared(residual, gain, _noise(s, ordinary, pixel_noise))


def _in_sigma(r: Residuals, sky: Floats) -> Sigmas:
    """The fibres in units of their noise, model included."""
    rest, sky_sigmas, model = (np.empty_like(r.flux) for _ in range(3))
    good = r.ivar > 0
    n_good, snr = np.empty((len(good), 6), np.float32), np.empty(len(good), np.float32)
    for rows in chunks(len(good)):
        ivar = r.ivar[rows]
        root = ivar * r.variance[rows]
        root += 1
        np.divide(ivar, root, out=root)
        np.sqrt(root, out=root)
        np.multiply(r.model[rows], root, out=model[rows])
        np.multiply(sky[rows], root, out=sky_sigmas[rows])
        root *= r.flux[rows]
        np.subtract(root, model[rows], out=rest[rows])
        n_good[rows] = half_sums(good[rows].astype(np.float32))
        snr[rows] = root.sum(axis=1) / np.maximum(n_good[rows].sum(axis=1), 1)
    return Sigmas(rest, sky_sigmas, model, good, n_good, snr)


def _common_gain(products: Floats, squares: Floats) -> Floats:
    """Relative gain that all fibres share, (7958,): a smooth part and one of each pixel.

    Args:
        products: (7958,) sums over fibres of residual times model, in sigma.
        squares: (7958,) of the model squared.
    """
    smooth = around(products, SMOOTH_PIXELS) / (around(squares, SMOOTH_PIXELS) + 1 / SMOOTH_GAIN**2)
    own = (products - smooth * squares) / (squares + 1 / PIXEL_GAIN**2)
    return np.asarray(smooth + own, np.float32)


def _noise(s: Sigmas, ordinary: NDArray[np.bool_], pixel_noise: Floats) -> Floats:
    """Factor on the variance of each pixel, (7958,)."""
    faint = ordinary & (s.snr < FAINT_SNR)
    used = faint if np.count_nonzero(faint) >= MIN_NOISE_ROWS else ordinary
    n, squares = np.zeros((2, N_PIX), np.float32)
    for rows in chunks(len(used)):
        mine = used[rows]
        clipped = np.clip(s.rest[rows][mine], -NOISE_CLIP, NOISE_CLIP)
        squares += np.einsum("np,np->p", clipped, clipped)
        n += s.good[rows][mine].sum(axis=0, dtype=np.uint8)  # ROWS of them at most
    squares /= MEAN_CLIPPED_SQUARE
    seen, expected = (around(values, SMOOTH_PIXELS) for values in (squares, n * pixel_noise))
    ratio = (seen + PRIOR_PIXELS) / (expected + PRIOR_PIXELS)
    noise = (squares + PRIOR_ROWS * ratio * pixel_noise) / (n + PRIOR_ROWS)
    return np.asarray(np.clip(noise, *NOISE_RANGE), np.float32)
