"""Held-out ordinary spectra -> the tables of p-values that latenight.calibration reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latenight.calibration import (
    LEAST_P,
    Q90,
    SINGLE,
    Calibration,
    Table,
    comparable,
    in_sigma,
    log_snr_of,
    p_values,
    standardised,
    strangest,
)
from latenight.channels import FAMILIES
from latenight.company import changes, in_company, usual_of
from latenight_train.combiner import learned_combiner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_BINS = 12  # bins in log S/N
MIN_PER_BIN = 100  # spectra; a 90 % quantile of fewer errs by more than a tenth of a sigma
# The brightest bin is halved where that leaves so many: S/N reach far there, and tails grow with it. Tables of 10 000
# spectra gave 2.1 % false alerts at a nominal 1 % in the brightest sixth of the galaxies without, 1.3 % with it.
MIN_BRIGHTEST = MIN_PER_BIN // 2
# So far beyond the last bin in ln S/N values are taken to grow as they did: the brightest half of a bin lies beyond its
# centre, and templates err by a share of the light. Two nights, tables of a quarter of 54 000 rows, without / with it:
# quasars of the brightest quarter 3.96 / 2.74 % at a nominal 1 %; all rows: recall at a measured 1 % .530 / .537.
REACH = 1.0
MIN_PER_GROUP = 200  # groups with fewer spectra use those of their relatives, or of all
# Spectra of a bin that a statistic must cover, else it goes by a bin that is so many times WIDER (the network's
# statistics are known of a quarter).
MIN_COVERED, WIDER = 50, 4
N_QUANTILES = 2001
Q97 = 1.8808  # of a normal distribution
# Held-out spectra this far out in this share of their statistics are no part of what is ordinary. Those that are far
# out in a few only stay: lines of active stars and nuclei are, and the rate of false alerts must count them.
WILD_SIGMA, WILD_SHARE = 6.0, 0.25
# Held-out spectra that the combiner finds so strange say nothing of how strange ordinary ones are: they are missed
# cosmics and failed redshifts without flag, .9 % of a survey, 5 % of its faintest quasars, and .05 to .13 % of what is
# known to be ordinary. With them a nominal 1 % gave .44 % false alerts on three new nights, without .8 to .9.
# Where more spectra are that strange models do not hold, and no more than a share of them is left out: in samples that
# are large enough of parts by S/N, for bright spectra stray further. On two new nights, 54 000 rows, a nominal 1 % of
# quasars gave .60 % with 1 % of whole samples, .91 % so, chi2 of 15 cells 55 and 38; a quarter of the rows, each of
# four: 89 and 79; a twelfth: 176 and 190, and 255 were 2 % of small samples left out.
TROUBLE, TROUBLED_WHOLE, TROUBLED_PART = 10.0, 0.01, 0.02
MOST_PARTS, MIN_PER_PART = 5, 200
# How often the scales and stretches of neighbouring bins are drawn to each other: of a single statistic and of what
# they say together, whose errors are those of all. Chi2 of 24 cells of new nights, 54 000 rows, two quarters, two
# twelfths of them: 20 24 36 190 83 where both are smoothed alike, 18 24 25 161 81 so.
PASSES_SINGLE, PASSES_TOGETHER = (2, 1), (6, 6)
# Spectra down to this factor below the start of a tail tell how steep it is, as if BELIEF of them had the slope of the
# sample's quantiles. What strays further is left out: missed cosmics have any strength, and where they counted as FAR
# 1 % of them made scans of single pixels blind (recall of cosmics .81 instead of .92, foreign lines .48 of .60). Recall
# at measured 1, .5 and .1 %, mean of two nights: .516 .460 .339 with the slopes of the quantiles, .526 .478 .350 so.
FAR, BELIEF = 100.0, 30.0
STEEPNESS = np.linspace(0.02, 6.0, 600)


def fit_calibration(
    statistics: Array,
    group: NDArray[np.int64],
    snr: NDArray[np.float32],
    relatives: Sequence[NDArray[np.int64]],
    fold: NDArray[np.int64],
    petal: NDArray[np.int64] | None = None,
    n_certain: int | None = None,
    n_whole: int | None = None,
) -> Calibration:
    """Learn the calibration from held-out ordinary spectra.

    The p of a spectrum within the sample that they were read off are not those of a new one: the smallest of a hundred
    shows it, and petals differ. So what p-values say together is told by spectra whose own fold was left out:
    the more folds, the more the tables without one are like those of all (a nominal 10 % gave 8.5 % with 3 folds, 9.7 %
    with 12).

    Args:
        statistics: (N, C) in the order of channels.STATISTICS, NaN where one does not cover a spectrum.
        group: (N,) index of the group of each spectrum.
        snr: (N,) mean signal-to-noise per pixel.
        relatives: for each group, the groups whose spectra stand in where it has too few of its own.
        fold: (N,) part of the petals that each spectrum belongs to.
        petal: (N,) number of the petal of each spectrum, below 0 where it is not known; by default none is.
        n_certain: the first groups, as many as this, hold spectra whose redshift and sky residual are known: only they
            tell trouble from what is ordinary. By default all.
        n_whole: the first groups, as many as this, hold spectra that came with their petal, as in the combiner's
            lessons. By default all. Among the others all statistics bear what the sky subtraction left in a petal, and
            weighed together they gave 3.6 % false alerts at a nominal 1 %.
    """
    log_snr = log_snr_of(snr)
    values = comparable(statistics)
    samples = [_sample(group, k, like) for k, like in enumerate(relatives)]
    single = _fit_table(values, samples, log_snr)
    wild = _wild(single, values, group, log_snr)
    samples = [sample & ~wild for sample in samples]
    petal = np.full(len(group), -1) if petal is None else petal
    x = in_sigma(_fit_table(values, samples, log_snr), values, group, log_snr)
    usual = usual_of(x, petal)
    company = changes(x, petal, usual)
    single = _fit_table(values, samples, log_snr, company=company)
    p = p_values(single, SINGLE, x * company[0] + company[1], group)
    parts = [(fold == k, _without(samples, fold == k)) for k in np.unique(fold)]
    for mine, others in parts:
        table = _fit_table(values, others, log_snr, company=company)
        x = in_sigma(table, values[mine], group[mine], log_snr[mine])
        unseen = p_values(table, SINGLE, in_company(x, petal[mine], usual), group[mine])
        # What no other fold covers has only itself to go by.
        p[mine] = np.where(unseen < 1, unseen, p[mine])
    combiner, taught = learned_combiner(), np.arange(len(samples)) < (n_whole or len(samples))
    together = np.empty((len(values), len(FAMILIES) + 1))
    for mine, others in parts:
        steeper = _steeper(p[mine], _steepness(p, others)[group[mine]])
        together[mine] = strangest(steeper, combiner, taught[group[mine]])
    single = replace(single, steepness=_steepness(p, samples))
    certain = samples[:n_certain]
    samples = [*_untroubled(certain, together[:, -1], log_snr), *samples[len(certain) :]]
    together_table = _fit_table(together, samples, log_snr, PASSES_TOGETHER)
    return Calibration(single, together_table, usual, combiner, taught)


def _untroubled(
    samples: Sequence[NDArray[np.bool_]], strangeness: Array, log_snr: Array
) -> list[NDArray[np.bool_]]:
    """The samples without spectra whose strangeness (N,) tells of trouble."""
    without = []
    for sample in samples:
        left = sample.copy()
        rows = np.flatnonzero(sample)
        n_parts = min(len(rows) // MIN_PER_PART, MOST_PARTS)
        share = TROUBLED_PART if n_parts > 1 else TROUBLED_WHOLE
        for part in np.array_split(rows[np.argsort(log_snr[rows], kind="stable")], max(n_parts, 1)):
            limit = max(TROUBLE, np.nanquantile(strangeness[part], 1 - share))
            left[part[strangeness[part] > limit]] = False
        without.append(left)
    return without


def _without(samples: Sequence[NDArray[np.bool_]], fold: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The samples without the spectra of one fold, where that leaves any."""
    return [left if (left := sample & ~fold).any() else sample for sample in samples]


def _steeper(p: Array, steepness: Array) -> Array:
    """What p-values become with steeper tails, (n, C) all."""
    tail = SINGLE.start * (p / SINGLE.start) ** steepness
    return np.where(p < SINGLE.start, np.maximum(tail, LEAST_P), p)


def _steepness(p: Array, samples: Sequence[NDArray[np.bool_]]) -> Array:
    """By how much steeper than they are the tails of p-values (N, C) should fall in each sample (N,), (G, C).

    Beyond the start -ln p should be exponential with scale 1; this is its inverse scale a by maximum likelihood from
    values up to c = ln(FAR), whose mean is 1 / a - c / (exp(a c) - 1) (Deemer and Votaw 1955, Ann. Math. Stat. 26,
    498).
    """
    limit = np.log(FAR)
    means = 1 / STEEPNESS - limit / np.expm1(STEEPNESS * limit)
    beyond = np.log(SINGLE.start / p)
    beyond = np.where((beyond > 0) & (beyond < limit), beyond, 0)
    ordinary = BELIEF * (1 - limit / np.expm1(limit))
    found = [
        (beyond[s].sum(axis=0) + ordinary) / (np.count_nonzero(beyond[s], axis=0) + BELIEF) for s in samples
    ]
    return np.asarray(np.interp(found, means[::-1], STEEPNESS[::-1]))


def _wild(table: Table, values: Array, group: NDArray[np.int64], log_snr: Array) -> NDArray[np.bool_]:
    """Spectra that are far out in many statistics at once, (N,): broken, or at a wrong redshift."""
    wild = np.zeros(len(values), bool)
    for k in np.unique(group):
        mine = group == k
        bins = table.log_snr[k], table.median[k], table.scale[k], table.scale[k]  # no allowance for tails
        x = standardised(values[mine], log_snr[mine], *bins)
        wild[mine] = (x > WILD_SIGMA).mean(axis=1) > WILD_SHARE
    return wild


def _sample(group: NDArray[np.int64], k: int, like: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The spectra that tell of group k, (N,): its own, its relatives', or all."""
    for sample in (group == k, np.isin(group, like)):
        if np.count_nonzero(sample) >= MIN_PER_GROUP:
            return np.asarray(sample)
    return np.ones(len(group), bool)


def _fit_table(
    values: Array,
    samples: Sequence[NDArray[np.bool_]],
    log_snr: Array,
    passes: tuple[int, int] = PASSES_SINGLE,
    company: tuple[Array, Array] | None = None,
) -> Table:
    """The table of values (N, C), of which standardised ones count as the company of their petal changes them."""
    plain = np.ones(values.shape[1])  # steepness
    rows = []
    for s in samples:
        bins = _fit_bins(values[s], log_snr[s], passes)
        x = standardised(values[s], log_snr[s], *bins)
        if company is not None:
            x = x * company[0][s] + company[1][s]
        quantiles = np.array([_every_quantile(column[np.isfinite(column)]) for column in x.T])
        rows.append((*bins, quantiles, plain, np.count_nonzero(s)))
    return Table(*(np.array(column) for column in zip(*rows, strict=True)))


def _fit_bins(values: Array, log_snr: Array, passes: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Bin centres (B,), median, scale and stretch (B, C) of a group.

    A statistic that covers too few spectra of a wider bin, too, keeps NaN there: it stays missing.
    """
    n_bins = min(N_BINS, max(len(values) // MIN_PER_BIN, 1))
    bins, wider = _bins(log_snr, n_bins), _bins(log_snr, max(n_bins // WIDER, 1))
    centres, wide_centres = (np.array([np.median(log_snr[b]) for b in some]) for some in (bins, wider))
    nearest = np.abs(centres[:, None] - wide_centres).argmin(axis=1)
    fine, wide = _quantiles(values, bins), _quantiles(values, wider)[:, nearest]
    median, q90, q97 = np.where(np.isfinite(fine), fine, wide)
    # A 90 % quantile of 100 spectra errs by a tenth of its distance from the median: neighbouring bins were off by a
    # fifth, and 6 % of 220 stars fell below a nominal 1 %. Chi2 of 16 cells of two nights 25, so 14.
    measured = np.maximum((q90 - median) / Q90, 1e-4)
    scale = _smooth(measured, passes[0])
    stretch = scale * _smooth(np.maximum((q97 - q90) / (Q97 - Q90), 1e-4) / measured, passes[1])
    # All groups get the same number of bins, so that the table is one array; repeated centres do no harm.
    at = np.linspace(0, len(bins) - 1, N_BINS + 1).round().astype(int)
    c, m, s, t = (
        np.concatenate([v[at], _further(v, centres)[None]]) for v in (centres, median, scale, stretch)
    )
    return c, m, s, t


def _further(values: Array, centres: Array) -> Array:
    """What grew over the last two bins, (B,) or (B, C), at REACH beyond the last centre if it goes on growing so."""
    before = max(len(centres) - 3, 0)
    step = centres[-1] - centres[before]
    growth = (values[-1] - values[before]) / step if step > 0 else np.zeros_like(values[-1])
    return np.asarray(values[-1] + REACH * np.maximum(growth, 0))


def _every_quantile(values: Array) -> Array:
    """N_QUANTILES quantiles from the least to the largest value, NaN of none; numpy's own take 20 times as long."""
    if not len(values):
        return np.full(N_QUANTILES, np.nan)
    at = np.linspace(0, len(values) - 1, N_QUANTILES)
    return np.asarray(np.interp(at, np.arange(len(values)), np.sort(values)))


def _bins(log_snr: Array, n: int) -> list[NDArray[np.intp]]:
    """The spectra of n bins of equal numbers, the brightest halved; equal S/N values may leave fewer."""
    levels = np.linspace(0, 1, n + 1)
    if len(log_snr) >= 2 * n * MIN_BRIGHTEST:
        levels = np.insert(levels, n, 1 - 0.5 / n)
    edges = np.quantile(log_snr, levels)
    last = len(edges) - 2
    in_bin = np.clip(np.searchsorted(edges, log_snr, side="right") - 1, 0, last)
    return [rows for k in range(last + 1) if len(rows := np.flatnonzero(in_bin == k))]


def _quantiles(values: Array, bins: Sequence[NDArray[np.intp]]) -> Array:
    """The quantiles .5, .9 and .97 of every bin, (3, B, C)."""
    return np.array([[_quantile(values[rows], level) for rows in bins] for level in (0.5, 0.9, 0.97)])


def _smooth(values: Array, passes: int) -> Array:
    """Values (B, C), positive or NaN, drawn to those of both neighbouring bins: few spectra make a quantile.

    The first and the last stay: drawn to one side, the brightest bin would be too narrow where scatter grows with S/N.
    """
    log = np.log(values)
    for _ in range(passes):
        before, after = log[[0, *range(len(log) - 1)]], log[[*range(1, len(log)), -1]]
        before, after = (np.where(np.isfinite(beside), beside, log) for beside in (before, after))
        drawn = (before + 2 * log + after) / 4
        drawn[[0, -1]] = log[[0, -1]]
        log = drawn
    return np.exp(log)


def _quantile(values: Array, level: float) -> Array:
    """Quantile of each column over the known values, (C,); NaN where fewer than MIN_COVERED are known."""
    ordered = np.sort(values, axis=0)  # NaN is sorted to the end
    n = np.count_nonzero(np.isfinite(values), axis=0)
    at = np.clip(np.rint(level * (n - 1)).astype(int), 0, None)
    return np.where(n >= min(MIN_COVERED, len(values)), ordered[at, np.arange(values.shape[1])], np.nan)
