"""What the statistics of a petal's fibres share: how far all of them are off, how much wider than usual they scatter.

Petals differ in what no correction knows, such as the errors of their sky lines, which scatter .6 to 1.2 times as far
as usual in nine petals of ten. By p-values that know no petals, the spectra below 10 % varied from petal to petal 1.8
and 3.1 times as much as chance does on two nights, so 1.0 and .9 times, and a nominal 10 % gave 9.4 and 10.9 %, so 10.2
and 10.5. Within bounds: the fibres of a petal that is worse than that shall say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LIMIT = 4.0  # sigma: what strays further says nothing of its petal
LOW, HIGH = 0.16, 0.84  # quantiles, two sigma of a normal distribution apart
PRIOR = 50  # fibres worth of belief that a petal is as usual
MOST_SHIFT, MOST_SCALE = 0.3, 1.25  # sigma; a fifth of bad fibres cannot move their petal further
MIN_FIBRES = 30  # of a petal that tells what is usual


@dataclass(frozen=True)
class Usual:
    """What C statistics, in sigma, are like in an ordinary petal.

    Attributes:
        median: (C,) of its fibres.
        scatter: (C,) half of the distance between their quantiles LOW and HIGH.
    """

    median: Array
    scatter: Array


def usual_of(x: Array, petal: NDArray[np.int64]) -> Usual:
    """What is usual among the petals of a sample; a statistic that none of them knows has median 0 and scatter 1.

    Args:
        x: (N, C) statistics in sigma, NaN where one does not cover a spectrum.
        petal: (N,) number of the petal of each spectrum, below 0 where it is not known.
    """
    found = [_measured(x[rows]) for rows in _petals(petal) if len(rows) >= MIN_FIBRES]
    median, scatter = (np.full((len(found) + 1, x.shape[1]), np.nan) for _ in range(2))
    for k, (mine, wide, _) in enumerate(found):
        median[k], scatter[k] = mine, wide
    # The last row is for what no petal knows.
    known = np.isfinite(scatter).any(axis=0)
    median[-1], scatter[-1] = np.where(known, np.nan, 0), np.where(known, np.nan, 1)
    return Usual(np.nanmedian(median, axis=0), np.maximum(np.nanmedian(scatter, axis=0), 1e-3))


def changes(x: Array, petal: NDArray[np.int64], usual: Usual) -> tuple[Array, Array]:
    """What to multiply statistics in sigma by, and then to add, so that their petals are as usual, (N, C) each.

    Args:
        x: (N, C) as in usual_of.
        petal: (N,) likewise; a spectrum of an unknown one is not changed.
        usual: from training.
    """
    gain, offset = np.ones_like(x), np.zeros_like(x)
    for rows in _petals(petal):
        median, scatter, n = _measured(x[rows])
        belief = n / (n + PRIOR)
        scale = np.clip((scatter / usual.scatter) ** belief, 1 / MOST_SCALE, MOST_SCALE)
        shift = np.clip(belief * (median - usual.median), -MOST_SHIFT, MOST_SHIFT)
        # A statistic that no fibre has, or all alike, tells nothing.
        scale, shift = np.where(scatter > 0, scale, 1), np.where(n > 0, shift, 0)
        gain[rows] = 1 / scale
        offset[rows] = usual.median - (usual.median + shift) / scale
    return gain, offset


def _petals(petal: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """The rows of each known petal."""
    return [np.flatnonzero(petal == k) for k in np.unique(petal[petal >= 0])]


def _measured(x: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """Median and scatter of the statistics (n, C) of one petal, NaN of none, and how many fibres tell them, (C,)."""
    ordered = np.sort(np.where(x > LIMIT, np.nan, x), axis=0)  # NaN is sorted to the end
    n = np.count_nonzero(np.isfinite(ordered), axis=0)
    at = (np.rint(level * np.maximum(n - 1, 0)).astype(int) for level in (LOW, 0.5, HIGH))
    low, median, high = (ordered[rank, np.arange(x.shape[1])] for rank in at)
    return median, (high - low) / 2, n
