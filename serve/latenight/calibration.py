"""Channel statistics -> p-values that hold in every class and at every signal-to-noise.

A raw statistic ranks spectra by brightness (reference study: 9 % false alerts in the top S/N quintile at a
nominal 1 %). So each statistic is first standardised per (group, log S/N) on held-out spectra, body and tail apart,
then turned into a p by the held-out distribution. The smallest p of the statistics of a channel, and of all channels
but the network's, is treated the same way once more; the results are uniform for ordinary spectra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.channels import COMBINED, FAMILIES, FAMILY, SIGN, STATISTICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_BINS = 12  # bins in log S/N
MIN_PER_BIN = 100  # spectra; a 90 % quantile of fewer errs by more than a tenth of a sigma
MIN_PER_GROUP = 200  # groups with fewer spectra use those of their relatives, or of all
# Spectra of a bin that a statistic must cover, else it goes by a bin that is so many times WIDER (the network's
# statistics are known of a quarter).
MIN_COVERED, WIDER = 50, 4
N_QUANTILES = 2001
# Held-out spectra this far out in this share of their statistics are no part of what is ordinary. Those that are far
# out in a few only stay: lines of active stars and nuclei are, and the rate of false alerts must count them.
WILD_SIGMA, WILD_SHARE = 6.0, 0.25
Q90, Q97 = 1.2816, 1.8808  # of a normal distribution
MIN_SNR = 0.05  # below, spectra are all noise and alike


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
# tails of single statistics that begin at 8, 3, 1 and 0.5 %.
SINGLE = Tail(0.05, 0.01, bend=1.0)
# The smallest p must also bear what no flag tells of in the sample: missed cosmics and failed redshifts are 1 to 2 %
# of it and own its top 1 % (a nominal 1 % read off the sample gave .3 % false alerts among spectra without them), so
# the tail begins below them. Of 8319 spectra of a new night fell below 1 and .1 %: 1.0 and .30 % with an exponential,
# .85 and .16 % with this, .69 and .10 % with a power law.
SMALLEST = Tail(0.12, 0.04, bend=0.5)


@dataclass(frozen=True)
class Table:
    """Standardisation and held-out distribution of C statistics for each group.

    Attributes:
        log_snr: (G, B) centres of the S/N bins.
        median: (G, B, C).
        scale: (G, B, C) (90 % quantile - median) / 1.2816: one sigma of a normal distribution.
        stretch: (G, B, C) (97 % quantile - 90 % quantile) / 0.5992, likewise: the unit of what lies beyond.
        quantiles: (G, C, Q) of the standardised statistic.
        n: (G,) number of spectra behind each group's rows.
    """

    log_snr: Array
    median: Array
    scale: Array
    stretch: Array
    quantiles: Array
    n: NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """The tables of the single statistics and of the smallest p of each channel and of all."""

    statistics: Table
    smallest: Table

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for calibration.npz."""
        parts = {"statistics": self.statistics, "smallest": self.smallest}
        return {f"{part}_{k}": v for part, table in parts.items() for k, v in vars(table).items()}


def from_arrays(arrays: dict[str, np.ndarray]) -> Calibration:
    """The calibration saved by Calibration.arrays."""
    names = Table.__dataclass_fields__
    parts = (Table(**{k: arrays[f"{part}_{k}"] for k in names}) for part in ("statistics", "smallest"))
    return Calibration(*parts)


def fit_calibration(
    statistics: Array,
    group: NDArray[np.int64],
    snr: NDArray[np.float32],
    relatives: Sequence[NDArray[np.int64]],
    fold: NDArray[np.int64],
) -> Calibration:
    """Learn the calibration from held-out ordinary spectra.

    The p of a spectrum within the sample that they were read off are not those of a new one: the smallest of a hundred
    shows it, and petals differ. So the distribution of the smallest p is that of spectra whose own fold was left out:
    the more folds, the more the tables without one are like those of all (a nominal 10 % gave 8.5 % with 3 folds, 9.7 %
    with 12).

    Args:
        statistics: (N, C) in the order of channels.STATISTICS, NaN where one does not cover a spectrum.
        group: (N,) index of the group of each spectrum.
        snr: (N,) mean signal-to-noise per pixel.
        relatives: for each group, the groups whose spectra stand in where it has too few of its own.
        fold: (N,) part of the petals that each spectrum belongs to.
    """
    log_snr = _log_snr(snr)
    values = comparable(statistics)
    samples = [_sample(group, k, like) for k, like in enumerate(relatives)]
    single = _fit_table(values, samples, log_snr)
    wild = _wild(single, values, group, log_snr)
    samples = [sample & ~wild for sample in samples]
    single = _fit_table(values, samples, log_snr)
    own = _p_values(single, SINGLE, values, group, log_snr)
    smallest = np.empty((len(values), len(FAMILIES) + 1))
    for k in np.unique(fold):
        mine = fold == k
        others = [s & ~mine if (s & ~mine).any() else s for s in samples]
        table = _fit_table(values, others, log_snr)
        p = _p_values(table, SINGLE, values[mine], group[mine], log_snr[mine])
        # What no other fold covers has only itself to go by.
        smallest[mine] = _smallest(np.where(p < 1, p, own[mine]))
    # A family that does not cover a spectrum has p = 1 there, which tells nothing of where it does.
    known = np.where(smallest < 1, -np.log(smallest), np.nan)
    return Calibration(single, _fit_table(known, samples, log_snr))


def comparable(statistics: Array) -> Array:
    """Statistics (n, C) such that larger is stranger: absolute where both signs are, logarithms of the network's."""
    values = np.where(SIGN == 0, np.abs(statistics), statistics)
    values[:, LOGARITHMIC] = np.log(np.maximum(values[:, LOGARITHMIC], 1e-6))
    return values


LOGARITHMIC = np.array([s.family in ("recon", "knn") or s.name == "calibration" for s in STATISTICS])


def _wild(table: Table, values: Array, group: NDArray[np.int64], log_snr: Array) -> NDArray[np.bool_]:
    """Spectra that are far out in many statistics at once, (N,): broken, or at a wrong redshift."""
    wild = np.zeros(len(values), bool)
    for k in np.unique(group):
        mine = group == k
        bins = table.log_snr[k], table.median[k], table.scale[k], table.scale[k]  # no allowance for tails
        x = _standardised(values[mine], log_snr[mine], *bins)
        wild[mine] = (x > WILD_SIGMA).mean(axis=1) > WILD_SHARE
    return wild


def _sample(group: NDArray[np.int64], k: int, like: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The spectra that tell of group k, (N,): its own, its relatives', or all."""
    for sample in (group == k, np.isin(group, like)):
        if np.count_nonzero(sample) >= MIN_PER_GROUP:
            return np.asarray(sample)
    return np.ones(len(group), bool)


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
    calibration: Calibration, statistics: Array, group: NDArray[np.int64], snr: NDArray[np.float32]
) -> PValues:
    """The p-values of new spectra; arguments as for fit_calibration."""
    log_snr = _log_snr(snr)
    p = _p_values(calibration.statistics, SINGLE, comparable(statistics), group, log_snr)
    smallest = _p_values(calibration.smallest, SMALLEST, -np.log(_smallest(p)), group, log_snr)
    p_value = smallest[:, -1]
    return PValues(p, smallest[:, :-1], p_value, p_value < 1 / (calibration.smallest.n[group] + 1))


def _smallest(p: Array) -> Array:
    """The smallest p of each family and, last, of those that are combined, (N, number of families + 1)."""
    families = np.stack([p[:, k == FAMILY].min(axis=1) for k in range(len(FAMILIES))], axis=1)
    return np.column_stack([families, families[:, COMBINED].min(axis=1)])


def _log_snr(snr: NDArray[np.float32]) -> Array:
    return np.log(np.maximum(snr, MIN_SNR)).astype(np.float64)


def _fit_table(values: Array, samples: Sequence[NDArray[np.bool_]], log_snr: Array) -> Table:
    rows = [(*_fit_group(values[s], log_snr[s]), np.count_nonzero(s)) for s in samples]
    return Table(*(np.array(column) for column in zip(*rows, strict=True)))


def _fit_group(values: Array, log_snr: Array) -> tuple[Array, ...]:
    """Bin centres (B,), median, scale and stretch (B, C), quantiles of the standardised values (C, Q).

    A statistic that covers too few spectra of a wider bin, too, keeps NaN there: it stays missing.
    """
    n_bins = min(N_BINS, max(len(values) // MIN_PER_BIN, 1))
    bins, wider = _bins(log_snr, n_bins), _bins(log_snr, max(n_bins // WIDER, 1))
    centres, wide_centres = (np.array([np.median(log_snr[b]) for b in some]) for some in (bins, wider))
    nearest = np.abs(centres[:, None] - wide_centres).argmin(axis=1)
    fine, wide = _quantiles(values, bins), _quantiles(values, wider)[:, nearest]
    median, q90, q97 = np.where(np.isfinite(fine), fine, wide)
    scale = np.maximum((q90 - median) / Q90, 1e-4)
    stretch = scale * _smooth(np.maximum((q97 - q90) / (Q97 - Q90), 1e-4) / scale)
    # All groups get the same number of bins, so that the table is one array; repeated centres do no harm.
    at = np.linspace(0, len(bins) - 1, N_BINS).round().astype(int)
    table = centres[at], median[at], scale[at], stretch[at]
    x = _standardised(values, log_snr, *table)
    return *table, np.array([_every_quantile(column[np.isfinite(column)]) for column in x.T])


def _every_quantile(values: Array) -> Array:
    """N_QUANTILES quantiles from the least to the largest value, NaN of none; numpy's own take 20 times as long."""
    if not len(values):
        return np.full(N_QUANTILES, np.nan)
    at = np.linspace(0, len(values) - 1, N_QUANTILES)
    return np.asarray(np.interp(at, np.arange(len(values)), np.sort(values)))


def _bins(log_snr: Array, n: int) -> list[NDArray[np.intp]]:
    """The spectra of n bins of equal numbers; equal S/N values may leave fewer."""
    edges = np.quantile(log_snr, np.linspace(0, 1, n + 1))
    in_bin = np.clip(np.searchsorted(edges, log_snr, side="right") - 1, 0, n - 1)
    return [rows for k in range(n) if len(rows := np.flatnonzero(in_bin == k))]


def _quantiles(values: Array, bins: Sequence[NDArray[np.intp]]) -> Array:
    """The quantiles .5, .9 and .97 of every bin, (3, B, C)."""
    return np.array([[_quantile(values[rows], level) for rows in bins] for level in (0.5, 0.9, 0.97)])


def _smooth(ratio: Array) -> Array:
    """Ratios (B, C), positive or NaN, drawn to those of the neighbouring bins: few spectra make a 97 % quantile."""
    log = np.log(ratio)
    before, after = log[[0, *range(len(log) - 1)]], log[[*range(1, len(log)), -1]]
    before, after = (np.where(np.isfinite(beside), beside, log) for beside in (before, after))
    return np.asarray(np.exp((before + 2 * log + after) / 4))


def _quantile(values: Array, level: float) -> Array:
    """Quantile of each column over the known values, (C,); NaN where fewer than MIN_COVERED are known."""
    ordered = np.sort(values, axis=0)  # NaN is sorted to the end
    n = np.count_nonzero(np.isfinite(values), axis=0)
    at = np.clip(np.rint(level * (n - 1)).astype(int), 0, None)
    return np.where(n >= min(MIN_COVERED, len(values)), ordered[at, np.arange(values.shape[1])], np.nan)


def _standardised(
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


def _p_values(table: Table, tail: Tail, values: Array, group: NDArray[np.int64], log_snr: Array) -> Array:
    """P(statistic >= value) for an ordinary spectrum of that group and S/N, (N, C); 1 where it is missing."""
    p = np.ones_like(values)
    for k in np.unique(group):
        mine = group == k
        bins = table.log_snr[k], table.median[k], table.scale[k], table.stretch[k]
        x = _standardised(values[mine], log_snr[mine], *bins)
        columns = [_tail_p(x[:, c], table.quantiles[k, c], int(table.n[k]), tail) for c in range(x.shape[1])]
        p[mine] = np.stack(columns, axis=1)
    return p


def _tail_p(x: Array, quantiles: Array, n: int, tail: Tail) -> Array:
    """Upper tail probability of x: held-out distribution, the given tail beyond its top."""
    levels = np.linspace(0, 1, len(quantiles))
    body = 1 - np.searchsorted(quantiles, x, side="left") / len(quantiles)  # P(>=): ties count as stranger
    below, start = np.interp([1 - tail.shoulder, 1 - tail.start], levels, quantiles)
    before, first = (max(value, 0.0) ** tail.bend for value in (below, start))
    slope = np.log(tail.shoulder / tail.start) / max(first - before, 1e-6)
    beyond = np.maximum(x, max(start, 0.0)) ** tail.bend - first
    far = tail.start * np.exp(-np.minimum(slope * beyond, 690))
    p = np.clip(np.where(x > start, far, np.maximum(body, tail.start)), 1e-300, n / (n + 1))
    return np.where(np.isfinite(x) & np.isfinite(start), p, 1.0)
