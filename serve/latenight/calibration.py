"""Channel statistics -> p-values that hold in every class and at every signal-to-noise.

A raw statistic ranks spectra by brightness (reference study: 9 % false alerts in the top S/N quintile at a
nominal 1 %). So each statistic is first standardised per (group, log S/N) on held-out spectra, then turned into
a p by the held-out distribution. The smallest p of the statistics of a channel, and of all, is treated the same
way once more; the results are uniform for ordinary spectra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.scores import STATISTICS
from latenight.spectra import SPECTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_BINS = 8  # bins in log S/N
MIN_PER_BIN = 100  # spectra; a 90 % quantile of fewer errs by more than a tenth of a sigma
MIN_PER_GROUP = 200  # groups with fewer spectra use the table of all spectra
N_QUANTILES = 2001
# Beyond its top 2 % the held-out sample is continued by an exponential through the 90 and 98 % quantiles.
TAIL, SHOULDER = 0.02, 0.1
# Held-out spectra this many sigma out in a statistic are anomalies and leave the sample. Nearer ones stay: ordinary
# spectra have tails of their own (rare lines, sky), 3 % beyond 6 sigma on simulated nights, and the rate of false
# alerts must count them. Without the cut, 1.5 % of wild anomalies lower the rate at a nominal 1 % to .24 %.
OUTLIER = 15.0
Q90 = 1.2816  # of a normal distribution
MIN_SNR = 0.05  # below, spectra are all noise and alike


@dataclass(frozen=True)
class Table:
    """Standardisation and held-out distribution of C statistics for each group.

    Attributes:
        log_snr: (G, B) centres of the S/N bins.
        median: (G, B, C).
        scale: (G, B, C) (90 % quantile - median) / 1.2816.
        quantiles: (G, C, Q) of the standardised statistic.
        n: (G,) number of spectra behind each group's rows.
    """

    log_snr: Array
    median: Array
    scale: Array
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


def fit_calibration(statistics: Array, group: NDArray[np.int64], snr: NDArray[np.float32]) -> Calibration:
    """Learn the calibration from held-out ordinary spectra.

    Args:
        statistics: (N, C) positive numbers, larger = stranger, in the order of scores.STATISTICS.
        group: (N,) index into SPECTYPES.
        snr: (N,) mean signal-to-noise per pixel.
    """
    log_snr = _log_snr(snr)
    values = np.log(np.maximum(statistics, 1e-6))
    single = _fit_table(values, group, log_snr)
    p = _p_values(single, values, group, log_snr)
    return Calibration(single, _fit_table(-np.log(_smallest(p)), group, log_snr))


@dataclass(frozen=True)
class PValues:
    """What calibration makes of n spectra.

    Attributes:
        statistics: (n, C) p of each statistic.
        channels: (n, number of channels) p of each channel.
        p_value: (n,) of all channels together.
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
    p = _p_values(calibration.statistics, np.log(np.maximum(statistics, 1e-6)), group, log_snr)
    smallest = _p_values(calibration.smallest, -np.log(_smallest(p)), group, log_snr)
    p_value = smallest[:, -1]
    return PValues(p, smallest[:, :-1], p_value, p_value < 1 / (calibration.smallest.n[group] + 1))


def _smallest(p: Array) -> Array:
    """The smallest p of each channel and, last, of all, (N, number of channels + 1)."""
    starts = np.cumsum([0, *STATISTICS.values()])[:-1]
    channels = np.minimum.reduceat(p, starts, axis=1)
    return np.concatenate([channels, p.min(axis=1, keepdims=True)], axis=1)


def _log_snr(snr: NDArray[np.float32]) -> Array:
    return np.log(np.maximum(snr, MIN_SNR)).astype(np.float64)


def _fit_table(values: Array, group: NDArray[np.int64], log_snr: Array) -> Table:
    rows = []
    for k in range(len(SPECTYPES)):
        mine = group == k
        if np.count_nonzero(mine) < MIN_PER_GROUP:
            mine = np.ones(len(group), bool)
        rows.append((*_fit_group(values[mine], log_snr[mine]), np.count_nonzero(mine)))
    log_snrs, medians, scales, quantiles, n = (np.array(column) for column in zip(*rows, strict=True))
    return Table(log_snrs, medians, scales, quantiles, n)


def _fit_group(values: Array, log_snr: Array) -> tuple[Array, Array, Array, Array]:
    """Bin centres (B,), median and scale (B, C), quantiles of the standardised values (C, Q)."""
    n_bins = min(N_BINS, max(len(values) // MIN_PER_BIN, 1))
    edges = np.quantile(log_snr, np.linspace(0, 1, n_bins + 1))
    in_bin = np.clip(np.searchsorted(edges, log_snr, side="right") - 1, 0, n_bins - 1)
    bins = [np.flatnonzero(in_bin == b) for b in range(n_bins)]
    bins = [b for b in bins if len(b)]  # equal S/N values may leave a bin empty
    centres = np.array([np.median(log_snr[b]) for b in bins])
    median = np.array([np.median(values[b], axis=0) for b in bins])
    upper = np.array([np.quantile(values[b], 0.9, axis=0) for b in bins])
    scale = np.maximum((upper - median) / Q90, 1e-4)
    # All groups get the same number of bins, so that the table is one array; repeated centres do no harm.
    at = np.linspace(0, len(bins) - 1, N_BINS).round().astype(int)
    table = centres[at], median[at], scale[at]
    x = _standardised(values, log_snr, *table)
    if (ordinary := x.max(axis=1) < OUTLIER).all():
        return *table, np.quantile(x, np.linspace(0, 1, N_QUANTILES), axis=0).T
    return _fit_group(values[ordinary], log_snr[ordinary])


def _standardised(values: Array, log_snr: Array, centres: Array, median: Array, scale: Array) -> Array:
    """(value - median) / scale, (N, C), both interpolated in log S/N."""
    columns = range(values.shape[1])
    m = np.stack([np.interp(log_snr, centres, median[:, c]) for c in columns], axis=1)
    s = np.stack([np.interp(log_snr, centres, scale[:, c]) for c in columns], axis=1)
    return (values - m) / s


def _p_values(table: Table, values: Array, group: NDArray[np.int64], log_snr: Array) -> Array:
    """P(statistic >= value) for an ordinary spectrum of that group and S/N, (N, C)."""
    p = np.ones_like(values)
    for k in np.unique(group):
        mine = group == k
        args = (table.log_snr[k], table.median[k], table.scale[k])
        x = _standardised(values[mine], log_snr[mine], *args)
        columns = [_tail_p(x[:, c], table.quantiles[k, c], int(table.n[k])) for c in range(x.shape[1])]
        p[mine] = np.stack(columns, axis=1)
    return p


def _tail_p(x: Array, quantiles: Array, n: int) -> Array:
    """Upper tail probability of x: held-out distribution, exponential beyond its top 2 %."""
    levels = np.linspace(0, 1, len(quantiles))
    body = 1 - np.searchsorted(quantiles, x, side="left") / len(quantiles)  # P(>=): ties count as stranger
    shoulder, start = np.interp([1 - SHOULDER, 1 - TAIL], levels, quantiles)
    slope = np.log(SHOULDER / TAIL) / max(start - shoulder, 1e-6)
    tail = TAIL * np.exp(-np.minimum(slope * np.maximum(x - start, 0), 690))
    return np.clip(np.where(x > start, tail, np.maximum(body, TAIL)), 1e-300, n / (n + 1))
