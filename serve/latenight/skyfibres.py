"""The noise that the sky makes in each fibre of a petal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MIN_SKY_FIBRES = 5
# The factor of a fibre is measured on every tenth pixel, which tell it to 1.5 %: quantiles of more take their time.
EVERY = 10
THINNED = slice(None, None, EVERY)
DARK_PIXELS, DARK_QUANTILE = 121, 0.12  # the sky between its lines
FACTOR_RANGE = (0.3, 5.0)  # throughput of a fibre and exposure time: of petals that were ever seen


@dataclass(frozen=True)
class Sky:
    """The sky over some fibres.

    Attributes:
        variance: (7958,) that it makes in each pixel.
        dark: (7958,) likewise between its lines.
        measured: whether variance is that of a petal's own sky fibres; else only its shape counts.
    """

    variance: NDArray[np.floating]
    dark: NDArray[np.floating]
    measured: bool


def typical_sky(variance: Floats) -> Sky:
    """The sky of training petals, (7958,) in any unit, over fibres whose own is not known."""
    return Sky(variance, _dark(variance), measured=False)


def sky_of(sky_ivar: Floats, typical: Floats) -> Sky:
    """The sky of a petal: the median of its sky fibres; of fewer than MIN_SKY_FIBRES the typical one.

    Args:
        sky_ivar: (k, 7958) of its sky fibres, 0 in bad pixels.
        typical: (7958,) sky variance of training petals, in any unit.
    """
    if len(sky_ivar) < MIN_SKY_FIBRES:
        return typical_sky(typical)
    seen = known_median(known_variance(sky_ivar))
    known = np.isfinite(seen)
    scale = np.median(seen[known] / typical[known]) if known.any() else 1.0
    variance = np.where(known, seen, typical * scale)
    return Sky(variance, _dark(variance), measured=True)


def sky_sigma(ivar: Floats, light: Floats, sky: Sky) -> NDArray[np.float32]:
    """Standard deviation that the sky makes in each pixel of n fibres, (n, 7958).

    The noise variance of a fibre is 1/ivar = a S + b m S_dark: the sky S times a factor, and the photon noise of its
    own light m, per arm. The factor follows by least squares.

    Args:
        ivar: (n, 7958), 0 in bad pixels.
        light: (n, 796) noise-free flux m of the pixels of THINNED, 0 for sky fibres.
        sky: over these fibres.
    """
    level = np.ones(len(ivar))
    if not sky.measured:
        level = np.nan_to_num(known_median((known_variance(ivar) / sky.variance).T), nan=1.0)
    factor = _factor(ivar[:, THINNED], light, sky.variance[THINNED], sky.dark[THINNED], level)
    scale, sigma = np.sqrt(level * factor), np.sqrt(sky.variance)
    return np.asarray(scale.astype(np.float32)[:, None] * sigma.astype(np.float32))


def _factor(
    ivar: Floats,
    light: Floats,
    sky: NDArray[np.floating],
    dark: NDArray[np.floating],
    level: NDArray[np.floating],
) -> NDArray[np.float64]:
    """The factor a of each fibre, (n,), on a sky (796,), between its lines dark (796,), in units of level (n,)."""
    variance = known_variance(ivar) / level.astype(np.float32)[:, None]
    known = np.isfinite(variance)
    weight = known.astype(np.float32)
    own = np.maximum(light, 0) * (dark / sky).astype(np.float32)
    own *= weight / level.astype(np.float32)[:, None]
    np.minimum(own, 1e15, out=own)  # whose square float32 holds: ivar may be as large as its largest number
    y = np.where(known, variance / sky.astype(np.float32), 0)
    # Masked exposures leave single pixels of far higher variance.
    y = np.minimum(y, np.quantile(y, 0.98, axis=1, keepdims=True))
    normal = np.zeros((len(y), 4, 4))
    normal[:, 0, 0] = weight.sum(axis=1) + 1e-3
    normal[:, 0, 1:] = normal[:, 1:, 0] = _arm_sums(own)
    normal[:, [1, 2, 3], [1, 2, 3]] = _arm_sums(np.square(own)) + 1e-6
    right = np.concatenate([y.sum(axis=1, keepdims=True), _arm_sums(own * y)], axis=1)
    return np.clip(np.linalg.solve(normal, right[:, :, None].astype(np.float64))[:, 0, 0], *FACTOR_RANGE)


def _arm_sums(thinned: Floats) -> Floats:
    """Sums over every fifth pixel of each arm, (n, 3)."""
    return np.add.reduceat(thinned, [-(-arm.start // EVERY) for arm in ARMS], axis=1)


def known_variance(ivar: Floats) -> Floats:
    """Noise variance, NaN in bad pixels and at most 1e30: the inverse of the smallest float32 is infinite."""
    variance = np.reciprocal(np.maximum(ivar, 1e-30))
    variance[~(ivar > 0)] = np.nan
    return variance


def known_median(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Median over the first axis of the values that are not NaN; NaN where there are none."""
    ordered = np.sort(values, axis=0)  # NaN is sorted to the end
    n = np.count_nonzero(np.isfinite(values), axis=0)
    columns = np.arange(values.shape[1])
    low, high = (
        ordered[np.maximum(n - 1, 0) // 2, columns],
        ordered[np.minimum(n // 2, len(values) - 1), columns],
    )
    return np.asarray(np.where(n > 0, 0.5 * (low + high), np.nan))


def _dark(variance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Variance of the sky between its lines, (7958,): a low quantile of the pixels around each."""
    out = np.empty_like(variance)
    half = DARK_PIXELS // 2
    for arm in ARMS:
        v = np.pad(variance[arm.pixels], half, mode="edge")
        at = np.arange(0, arm.n, half // 4)
        around = np.lib.stride_tricks.sliding_window_view(v, DARK_PIXELS)[at]
        out[arm.pixels] = np.interp(np.arange(arm.n), at, np.quantile(around, DARK_QUANTILE, axis=1))
    return out
