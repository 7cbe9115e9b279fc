"""Channel statistics -> p-values that hold in every class and at every signal-to-noise.

A raw statistic ranks spectra by brightness (reference study: 9 % false alerts in the top S/N quintile at a
nominal 1 %). So each statistic is first standardised per (group, log S/N) on held-out spectra, body and tail apart,
freed of what its petal's fibres share (latenight.company), then turned into a p by the held-out distribution. The
smallest p of the statistics of a channel, and what the combiner makes of all but the network's, is treated the same way
once more, company apart; the results are uniform for ordinary spectra. The trainer learns the tables
(latenight_train.learn_calibration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight import combiner
from latenight.channels import FAMILIES, FAMILY, SIGN, STATISTICS
from latenight.company import Usual, in_company

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latenight.combiner import Combiner

    Array = NDArray[np.float64]

Q90 = 1.2816  # of a normal distribution
MIN_SNR = 0.05  # below, spectra are all noise and alike
LEAST_P = 1e-300


@dataclass(frozen=True)
class Tail:
    """How a distribution goes on beyond its sample: through the quantiles 1 - shoulder and 1 - start.

    Attributes:
        shoulder, start: shares of the sample.
        bend: ln(probability) is linear in this power of the standardised value; 1 is an exponential.
    """

    shoulder: float
    start: float
    bend: float


# Ordinary spectra have tails of their own (rare lines, sky): recall at 1 % false alerts was .24, .31, .34, .31 for
# tails of single statistics that begin at 8, 3, 1 and 0.5 %. How steep each of them is beyond follows from spectra left
# out (Table.steepness); else the few statistics with heavy tails own the smallest p.
SINGLE = Tail(0.05, 0.01, bend=1.0)
# What they say together must also bear what no flag tells of in the sample: missed cosmics and failed redshifts. The
# worst are left out (learn_calibration.TROUBLE); the others still own its top 1 %, so the tail begins below. On two new
# nights .92 and .10 % fell below 1 and .1 % with a bend of .5 and tables of 54 000 rows, .97 and .13 % a quarter, 1.10
# and .17 % a twelfth of them; with a bend of .6 .97 .13, 1.03 .16 and 1.17 .21.
STRANGEST = Tail(0.12, 0.04, bend=0.5)


@dataclass(frozen=True)
class Table:
    """Standardisation and held-out distribution of C statistics for each group.

    Attributes:
        log_snr: (G, B) centres of the S/N bins.
        median: (G, B, C).
        scale: (G, B, C) (90 % quantile - median) / 1.2816: one sigma of a normal distribution.
        stretch: (G, B, C) (97 % quantile - 90 % quantile) / 0.5992, likewise: the unit of what lies beyond.
        quantiles: (G, C, Q) of the standardised statistic.
        steepness: (G, C) factor on the slope of the tail.
        n: (G,) number of spectra behind each group's rows.
    """

    log_snr: Array
    median: Array
    scale: Array
    stretch: Array
    quantiles: Array
    steepness: Array
    n: NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """The tables of the single statistics and of what they say together, and what combines them.

    Attributes:
        statistics: of each statistic.
        strangest: of each family and of all together.
        usual: what the statistics are like in an ordinary petal.
        combiner: reads all p-values of a spectrum.
        taught: (G,) whether it does so in a group; else the smallest p alone counts.
    """

    statistics: Table
    strangest: Table
    usual: Usual
    combiner: Combiner
    taught: NDArray[np.bool_]

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for calibration.npz."""
        parts = {"statistics": self.statistics, "strangest": self.strangest, "usual": self.usual}
        tables = {f"{part}_{k}": v for part, table in parts.items() for k, v in vars(table).items()}
        return tables | self.combiner.arrays() | {"taught": self.taught}


def from_arrays(arrays: dict[str, np.ndarray]) -> Calibration:
    """The calibration saved by Calibration.arrays."""
    names = Table.__dataclass_fields__
    single, together = (
        Table(**{k: arrays[f"{part}_{k}"] for k in names}) for part in ("statistics", "strangest")
    )
    usual = Usual(**{k: arrays[f"usual_{k}"] for k in Usual.__dataclass_fields__})
    return Calibration(single, together, usual, combiner.from_arrays(arrays), arrays["taught"])


def comparable(statistics: Array) -> Array:
    """Statistics (n, C) such that larger is stranger: absolute where both signs are, logarithms of the network's."""
    values = np.where(SIGN == 0, np.abs(statistics), statistics)
    values[:, LOGARITHMIC] = np.log(np.maximum(values[:, LOGARITHMIC], 1e-6))
    return values


LOGARITHMIC = np.array([s.family in ("recon", "knn") or s.name == "calibration" for s in STATISTICS])


@dataclass(frozen=True)
class PValues:
    """What calibration makes of n spectra.

    Attributes:
        statistics: (n, C) p of each statistic.
        channels: (n, number of channels) p of each channel.
        p_value: (n,) of all combined channels together.
        beyond: (n,) whether p_value lies beyond the held-out sample.
    """

    statistics: Array
    channels: Array
    p_value: Array
    beyond: NDArray[np.bool_]


def calibrated(
    calibration: Calibration,
    statistics: Array,
    group: NDArray[np.int64],
    snr: NDArray[np.float32],
    petal: NDArray[np.int64] | None = None,
) -> PValues:
    """The p-values of new spectra.

    Args:
        calibration: of the bundle.
        statistics: (N, C) in the order of channels.STATISTICS, NaN where one does not cover a spectrum.
        group: (N,) index of the group of each spectrum.
        snr: (N,) mean signal-to-noise per pixel.
        petal: (N,) number of the petal of each spectrum, below 0 where it is not known; by default none is.
    """
    log_snr = log_snr_of(snr)
    x = in_sigma(calibration.statistics, comparable(statistics), group, log_snr)
    if petal is not None:
        x = in_company(x, petal, calibration.usual)
    p = p_values(calibration.statistics, SINGLE, x, group)
    strange = strangest(p, calibration.combiner, calibration.taught[group])
    x = in_sigma(calibration.strangest, strange, group, log_snr)
    together = p_values(calibration.strangest, STRANGEST, x, group)
    p_value = together[:, -1]
    return PValues(p, together[:, :-1], p_value, p_value < 1 / (calibration.strangest.n[group] + 1))


def strangest(p: Array, combined: Combiner, taught: NDArray[np.bool_]) -> Array:
    """-ln of the smallest p of each family and, last, the combiner's strangeness, (N, number of families + 1).

    NaN where a family does not cover a spectrum (all its p are 1), which tells nothing of where it does.
    """
    families = np.stack([p[:, k == FAMILY].min(axis=1) for k in range(len(FAMILIES))], axis=1)
    known = np.where(families < 1, -np.log(families), np.nan)
    return np.column_stack([known, combiner.strangeness(combined, p, taught)])


def log_snr_of(snr: NDArray[np.float32]) -> Array:
    """Logarithm of S/N, at least MIN_SNR, (n,)."""
    return np.log(np.maximum(snr, MIN_SNR)).astype(np.float64)


def standardised(
    values: Array, log_snr: Array, centres: Array, median: Array, scale: Array, stretch: Array
) -> Array:
    """Values in sigma, (N, C): (value - median) / scale up to the 90 % quantile, in units of stretch beyond.

    All three are interpolated in log S/N.
    """
    right = np.clip(np.searchsorted(centres, log_snr), 1, len(centres) - 1)
    step = centres[right] - centres[right - 1]
    share = np.where(step > 0, (log_snr - centres[right - 1]) / np.where(step > 0, step, 1), 1)
    share = np.clip(share, 0, 1)[:, None]
    m, s, t = ((1 - share) * v[right - 1] + share * v[right] for v in (median, scale, stretch))
    x = (values - m) / s
    return np.asarray(np.where(x > Q90, Q90 + (x - Q90) * (s / t), x))


def in_sigma(table: Table, values: Array, group: NDArray[np.int64], log_snr: Array) -> Array:
    """Values (N, C) standardised as the table says of their group and S/N; NaN where one is missing."""
    x = np.empty_like(values)
    for k in np.unique(group):
        mine = group == k
        bins = table.log_snr[k], table.median[k], table.scale[k], table.stretch[k]
        x[mine] = standardised(values[mine], log_snr[mine], *bins)
    return x


def p_values(table: Table, tail: Tail, x: Array, group: NDArray[np.int64]) -> Array:
    """P(>= x) for an ordinary spectrum of that group, (N, C), of values in sigma x; 1 where one is missing."""
    p = np.ones_like(x)
    for k in np.unique(group):
        mine = group == k
        p[mine] = _tail_p(x[mine], table.quantiles[k], table.steepness[k], int(table.n[k]), tail)
    return p


def _tail_p(x: Array, quantiles: Array, steepness: Array, n: int, tail: Tail) -> Array:
    """Upper tail probability of x (n, C): held-out distributions (C, Q), the given tail beyond their tops."""
    size = quantiles.shape[1]
    ranks = [np.searchsorted(column, values) for column, values in zip(quantiles, x.T, strict=True)]
    body = 1 - np.stack(ranks, axis=1) / size  # P(>=): ties count as stranger
    below, start = (np.maximum(_quantile(quantiles, 1 - p), 0) for p in (tail.shoulder, tail.start))
    before, first = below**tail.bend, start**tail.bend
    slope = steepness * np.log(tail.shoulder / tail.start) / np.maximum(first - before, 1e-6)
    beyond = np.maximum(x, start) ** tail.bend - first
    far = tail.start * np.exp(-np.minimum(slope * beyond, 690))
    p = np.clip(np.where(x > start, far, np.maximum(body, tail.start)), LEAST_P, n / (n + 1))
    return np.asarray(np.where(np.isfinite(x) & np.isfinite(start), p, 1.0))


def _quantile(quantiles: Array, level: float) -> Array:
    """The quantile of a level between those of the table (C, Q), which go from 0 to 1, (C,)."""
    at = level * (quantiles.shape[1] - 1)
    left = min(int(at), quantiles.shape[1] - 2)
    share = at - left
    return np.asarray((1 - share) * quantiles[:, left] + share * quantiles[:, left + 1])
