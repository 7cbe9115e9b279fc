"""What the fibres of one petal share: the noise scale of each arm.

All 500 fibres of a petal go through one spectrograph at once, so an ivar that is wrong by a common factor
shows in every one of them, sky fibres included. It is measured within one message and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A median over fewer fibres errs by more than the differences between petals (a few per cent).
MIN_ROWS = 30
# Beyond this the petal is broken, and its scores should say so instead of adapting.
NOISE_RANGE = (0.8, 2.0)
# Every third pixel is enough for a median over 500 fibres and saves two thirds of the sorting.
STRIDE = 3
MAD_TO_SIGMA = 1.4826  # of a normal distribution


def noise_scale(residual_sigmas: NDArray[np.float32], table: np.ndarray) -> NDArray[np.float32]:
    """Factor on the noise of each arm, common to the fibres of a petal.

    The robust scatter (1.4826 x median absolute value) of each fibre's residuals, then the median over the
    petal's fibres: a fifth of bad fibres moves it by little, so a bad petal cannot rescale itself to
    innocence. Rows are grouped by (tileid, petal); a group with fewer than MIN_ROWS rows, or whose petal is
    not known (healpix coadds), gets the neutral value 1.

    Args:
        residual_sigmas: (N, 7958) residual / its expected sigma, NaN where there is no information.
        table: (N,) the spectra's table.

    Returns:
        (N, 3) factor on sigma for the arms b, r, z.
    """
    scatter = np.stack([_row_scatter(residual_sigmas[:, arm.pixels]) for arm in ARMS], axis=1)
    scale = np.ones((len(table), len(ARMS)), np.float32)
    groups = np.stack([table["tileid"], table["petal"]], axis=1)
    for group in np.unique(groups, axis=0):
        rows = (groups == group).all(axis=1)
        if group[1] < 0:
            continue
        for k in range(len(ARMS)):
            known = scatter[rows, k][np.isfinite(scatter[rows, k])]
            if len(known) >= MIN_ROWS:
                scale[rows, k] = np.clip(np.median(known), *NOISE_RANGE)
    return scale


def _row_scatter(sigmas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Robust scatter of each row, (N,), of every third pixel; NaN where less than a quarter is known."""
    ordered = np.sort(np.abs(sigmas[:, ::STRIDE]), axis=1)  # NaN is sorted to the end
    n_known = np.count_nonzero(np.isfinite(ordered), axis=1)
    middle = ordered[np.arange(len(ordered)), n_known // 2 - (n_known == ordered.shape[1])]
    return np.where(n_known >= ordered.shape[1] / 4, MAD_TO_SIGMA * middle, np.nan).astype(np.float32)


def corrected_ivar(
    ivar: NDArray[np.float32], pixel_noise: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The ivar that the residuals of this petal really have, (N, 7958).

    Args:
        ivar: (N, 7958) as the pipeline gives it.
        pixel_noise: (7958,) factor on the variance of each pixel, learned in training (sky lines).
        scale: (N, 3) factor on sigma per arm, from noise_scale.
    """
    per_pixel = np.repeat(scale**2, [arm.n for arm in ARMS], axis=1)
    return ivar / (pixel_noise * per_pixel)


def residual_sigmas(
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    model: NDArray[np.float32],
    model_variance: NDArray[np.float32],
    pixel_noise: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Residual in units of its expected sigma, (N, 7958); NaN in bad pixels.

    Args:
        flux: (N, 7958).
        ivar: (N, 7958), 0 in bad pixels.
        model: (N, 7958) reconstruction; 0 for sky fibres, whose flux is all residual.
        model_variance: (N, 7958) variance of the reconstruction; 0 for sky fibres.
        pixel_noise: (7958,) factor on the variance of each pixel.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.sqrt(pixel_noise / ivar + model_variance)
    return np.where(ivar > 0, (flux - model) / sigma, np.nan).astype(np.float32)
