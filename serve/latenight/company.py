"""What the statistics of a petal's fibres share: how far all of them are off, how much wider than usual they scatter.

Petals differ in what no correction knows, such as the errors of their sky lines, which scatter .6 to 1.2 times as far
as usual in nine petals of ten. By p-values that know no petals, the number of spectra below 10 % varied from petal to
petal 3.1 times as much as chance does on a night, below 1 % 1.4 times; so 2.1 and 1.3 times, and recall at 1 and .5 %
is .655 and .614 instead of .649 and .607. Each statistic follows its petal as far as petals differ in it: where every
petal was trusted in each of them, as if the usual were worth 50 fibres, recall was .641. And within bounds: the fibres
of a petal that is worse than usual ones shall say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.skyfibres import known_median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LIMIT = 4.0  # sigma: what strays further says nothing of its petal
LOW, HIGH = 0.16, 0.84  # quantiles, two sigma of a normal distribution apart
MOST_SHIFT, MOST_SCALE = 0.3, 1.25  # sigma; a fifth of bad fibres cannot move their petal further
MIN_FIBRES = 30  # of a petal that tells what is usual


@dataclass(frozen=True)
class Usual:
    """What C statistics, in sigma, are like in an ordinary petal.

    Attributes:
        median: (C,) of its fibres.
        scatter: (C,) half of the distance between their quantiles LOW and HIGH.
        median_worth, scatter_worth: (C,) fibres worth of belief in these; infinite where petals do not differ.
    """

    median: Array
    scatter: Array
    median_worth: Array
    scatter_worth: Array


def usual_of(x: Array, petal: NDArray[np.int64]) -> Usual:
    """What is usual among the petals of a sample, and how far they differ.

    What both halves of a petal's fibres show is the petal's; its part of the variance among petals, less what chance
    makes of it in so many, is how far a petal is believed (empirical Bayes).

    Args:
        x: (N, C) statistics in sigma, NaN where one does not cover a spectrum.
        petal: (N,) number of the petal of each spectrum, below 0 where it is not known.
    """
    petals = [rows for rows in _petals(petal) if len(rows) >= MIN_FIBRES]
    if not petals:
        zero, one = np.zeros(x.shape[1]), np.ones(x.shape[1])
        return Usual(zero, one, np.inf * one, np.inf * one)
    measured = [[_measured(x[some]) for some in (rows, *np.array_split(rows, 2))] for rows in petals]
    median, scatter, n = (np.array([[part[k] for part in parts] for parts in measured]) for k in range(3))
    fibres = np.nan_to_num(known_median(np.where(n[:, 0] > 0, n[:, 0], np.nan)))
    typical_median, median_worth = _typical(median, fibres)
    typical_scatter, scatter_worth = _typical(_log(scatter), fibres)
    return Usual(typical_median, np.exp(typical_scatter), median_worth, scatter_worth)


def _typical(values: Array, fibres: Array) -> tuple[Array, Array]:
    """What is usual of petals, (C,), and how many of their fibres that is worth, (C,).

    Args:
        values: (petals, 3, C) what all fibres, the first half and the second show; NaN where they know a statistic not.
        fibres: (C,) of a petal.
    """
    whole, first, second = values.transpose(1, 0, 2)
    shared = _mean((first - _mean(first)) * (second - _mean(second)))
    variance = _mean(np.square(whole - _mean(whole)))
    chance = 1 / np.sqrt(np.maximum(np.isfinite(whole).sum(axis=0), 1))
    believed = np.clip(np.nan_to_num(shared / np.maximum(variance, 1e-12) - chance), 0, 1)
    worth = np.where(believed > 0, fibres * (1 - believed) / np.maximum(believed, 1e-6), np.inf)
    return np.nan_to_num(known_median(whole)), worth


def _mean(values: Array) -> Array:
    """Mean over the first axis of what is known, NaN of nothing."""
    known = np.isfinite(values)
    n = known.sum(axis=0)
    return np.asarray(np.where(n > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(n, 1), np.nan))


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
        wider, off = _log(scatter / usual.scatter), median - usual.median
        scale = np.exp(_believed(wider, n, usual.scatter_worth, float(np.log(MOST_SCALE))))
        shift = _believed(off, n, usual.median_worth, MOST_SHIFT)
        gain[rows] = 1 / scale
        offset[rows] = usual.median - (usual.median + shift) / scale
    return gain, offset


def in_company(x: Array, petal: NDArray[np.int64], usual: Usual) -> Array:
    """Statistics in sigma (N, C), changed so that their petals are as usual; see changes."""
    gain, offset = changes(x, petal, usual)
    return x * gain + offset


def _believed(seen: Array, n: NDArray[np.intp], worth: Array, most: float) -> Array:
    """How much of a difference (C,) that n fibres show is believed, within +-most; 0 where they show none."""
    return np.asarray(np.clip(np.nan_to_num(seen) * n / (np.maximum(n, 1) + worth), -most, most))


def _log(scatter: Array) -> Array:
    """Its logarithm, NaN of 0: a statistic of which all fibres have the same tells nothing of the petal."""
    return np.asarray(np.log(np.where(scatter > 0, scatter, np.nan)))


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
