"""What the sky subtraction left in the fibres of a petal, smooth in wavelength: its sky fibres show it.

It is taken off before any model sees the spectra. Afterwards it is too late: a model takes a smooth residual for a part
of a faint spectrum, and models that learn to do so take faults for ordinary, too. Of .25 sigma a pixel (rms over 200
pixels) the petal step found a quarter; this leaves .02. A gain of one arm that noise alone would show at 10 sigma then
stands out by 4 in a galaxy of S/N 1 to 3, without by 1.6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latenight.fibres import around, chunks, half_sums, ordinary_fibres, pattern_sums, petals_of, take_off
from latenight.skyfibres import MIN_SKY_FIBRES, THINNED, Sky, sky_of, sky_sigma
from latenight.spectra import ARMS, MIN_GOOD_PIXELS, N_PIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latenight.spectra import Spectra

    Floats = NDArray[np.float32]

PIXELS = 51  # 41 A; 20 sky fibres tell the residual of as many pixels to .03 sigma
PRIOR = 0.5  # of the residual, in sigma of the sky
ROUNDS = 3  # what is left may exceed CLIP, and fibres that differ must go first
# A fibre's own light, of which its photon noise follows, before any model.
LIGHT_PIXELS = 100
BLOCK_STARTS = [first for arm in ARMS for first in range(arm.start, arm.start + arm.n, LIGHT_PIXELS)]
BLOCK_SIZES = np.diff([*BLOCK_STARTS, N_PIX]).astype(np.float32)
BLOCK_OF = np.searchsorted(BLOCK_STARTS, np.arange(N_PIX)[THINNED], side="right") - 1  # (796,)


def without_sky_residual(
    spectra: Spectra, reasons: np.ndarray, sky_variance: Floats
) -> tuple[Spectra, NDArray[np.bool_]]:
    """The same spectra without the smooth residual of the sky of their petal, and in which rows it is known, (N,).

    Petals with fewer than MIN_SKY_FIBRES sky fibres that have data, and rows whose petal is not known, keep their flux.

    Args:
        spectra: the rows of one message.
        reasons: (N,) why a row is not eligible; "" if it is, "sky" in sky fibres.
        sky_variance: (7958,) of sky fibres in training, in any unit.
    """
    flux, known = spectra.flux, np.zeros(len(spectra), bool)
    for petal, rows in petals_of(spectra.table):
        # Fibres of the sky without data tell nothing of it.
        sky = rows[
            (reasons[rows] == "sky") & (np.count_nonzero(spectra.ivar[rows], axis=1) >= MIN_GOOD_PIXELS)
        ]
        if petal < 0 or len(sky) < MIN_SKY_FIBRES:
            continue
        over = sky_of(spectra.ivar[sky], sky_variance)
        residual = _residual(spectra.flux[sky], spectra.ivar[sky], over)
        used = rows[(reasons[rows] == "") | (reasons[rows] == "sky")]
        flux = flux.copy() if flux is spectra.flux else flux
        flux[used] = _taken_off(spectra, used, residual, over)
        known[used] = True
    return replace(spectra, flux=flux), known


def _residual(flux: Floats, ivar: Floats, sky: Sky) -> Floats:
    """The residual that sky fibres share, (7958,), in sigma of the sky; flux and ivar (k, 7958)."""
    good = ivar > 0
    root = np.sqrt(ivar)
    pattern = sky_sigma(ivar, np.zeros_like(flux[:, THINNED]), sky) * root
    rest = flux * root
    n_good = half_sums(good.astype(np.float32))
    residual, ordinary = np.zeros(N_PIX, np.float32), np.ones(len(flux), bool)
    for _ in range(ROUNDS):
        above, total = (around(sums, PIXELS) for sums in pattern_sums(rest, pattern, ordinary))
        more = (above / (total + 1 / PRIOR**2)).astype(np.float32)
        residual += more
        take_off(rest, more, pattern)
        ordinary = ordinary_fibres(rest, n_good)
    return residual


def _taken_off(spectra: Spectra, rows: NDArray[np.intp], residual: Floats, over: Sky) -> Floats:
    """Flux of some rows without the residual."""
    flux, ivar = spectra.flux[rows], spectra.ivar[rows]
    sky = sky_sigma(ivar, _light(flux), over)
    for some in chunks(len(rows)):
        flux[some] = np.where(ivar[some] > 0, flux[some] - residual * sky[some], flux[some])
    return flux


def _light(flux: Floats) -> Floats:
    """Mean flux, at least 0, of the block around each pixel of THINNED, (n, 796); bad pixels count as dark."""
    means = np.empty((len(flux), len(BLOCK_STARTS)), np.float32)
    for rows in chunks(len(flux)):
        means[rows] = np.add.reduceat(flux[rows], BLOCK_STARTS, axis=1) / BLOCK_SIZES
    return np.maximum(means, 0)[:, BLOCK_OF]
