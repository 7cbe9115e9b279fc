"""Scored trials -> the measures of an evaluation: recall, false alerts, intervals, channels."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.spectra import SPECTYPES
from latenight_train.inject import FAMILIES, KINDS, family
from latenight_train.recall import (
    N_RESAMPLED,
    auroc,
    average_precision,
    bootstrap,
    clusters,
    drawn,
    interval,
    purity,
    rank_correlation,
    recall,
    threshold,
    wilson,
)
from latenight_train.triaged import confusion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RATES = (0.001, 0.005, 0.01, 0.02)  # measured rates of false alerts at which recall is given
NOMINAL = (0.01, 0.001)  # p-values whose rates of false alerts are measured
RATE = 0.01  # where only one is given
RAW = {
    "chi2": 1.0,
    "log_prob": -1.0,
    "knn_distance": 1.0,
}  # raw scores and the sign that makes larger stranger
CELL = 300  # ordinary spectra: a rate of 1 % is then known to .6 %
MAX_CELLS = 5  # per spectype
AMPLITUDES = (0.0, 10.0, 15.0, 20.0, 30.0, 50.0, np.inf)  # edges of the bins of matched-filter S/N
SNR_BINS = 5
# A night's list: the share of anomalies that reference surveys have, and what a person looks at.
PREVALENCE, N_LIST, TOP = 0.015, 4000, 50


def measured(trials: np.ndarray, seed: int) -> dict[str, Any]:
    """All measures of scored trials, ready for JSON.

    Args:
        trials: rows that count, with the columns of injected.TRUTH and of the scores; every score p_* and RAW.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    scores = anomaly_scores(trials)
    injected = trials["kind"] != ""
    p_value = scores["p_value"]
    return {
        "spectra": _sample(trials),
        "recall": recall_table(trials["kind"], scores),
        "mean_recall": mean_recall(rng, trials, scores),
        "kinds": by_kind(rng, trials, p_value),
        "by_amplitude": recall_in_bins(trials, p_value, trials["matched_snr"], AMPLITUDES),
        "by_snr": recall_in_bins(
            trials, p_value, trials["snr"], _quantile_edges(trials["snr"][~injected], SNR_BINS)
        ),
        "false_alerts": false_alerts(trials[~injected]),
        "petals": petals(trials[~injected]),
        "rank_correlation": correlations(trials[~injected]),
        "purity": _purity(rng, trials["kind"], scores),
        "winners": winners(trials, p_value),
        "triage": confusion(trials, p_value > threshold(p_value[~injected], RATE)),
    }


def _sample(trials: np.ndarray) -> dict[str, Any]:
    injected = trials["kind"] != ""
    counts = Counter(trials["kind"][injected].tolist())
    return {
        "ordinary": int((~injected).sum()),
        "injected": {kind: counts[kind] for kind in KINDS if counts[kind]},
        "median_matched_snr": float(np.median(trials["matched_snr"][injected])) if injected.any() else None,
    }


def anomaly_scores(trials: np.ndarray) -> dict[str, Array]:
    """The p-values, as -log10 p, and the raw scores: larger is stranger, -inf where missing."""
    names = trials.dtype.names or ()
    p = [name for name in names if name.startswith("p_") and trials.dtype[name].kind == "f"]
    found = {
        name: -np.log10(trials[name].astype(np.float64)) for name in sorted(p, key=lambda n: n != "p_value")
    }
    found |= {name: sign * trials[name].astype(np.float64) for name, sign in RAW.items() if name in names}
    return {name: np.where(np.isnan(values), -np.inf, values) for name, values in found.items()}


def recall_table(kind: np.ndarray, scores: Mapping[str, Array]) -> dict[str, dict[str, dict[str, float]]]:
    """Recall by score, by measured rate of false alerts and by kind; with the means over the kinds and families."""
    return {
        name: {str(rate): with_means(_recall_by_kind(kind, values, rate)) for rate in RATES}
        for name, values in scores.items()
    }


def _recall_by_kind(kind: np.ndarray, values: Array, rate: float) -> dict[str, float]:
    ordinary = values[kind == ""]
    return {name: recall(ordinary, values[kind == name], rate) for name in KINDS if (kind == name).any()}


def with_means(by_kind: dict[str, float]) -> dict[str, float]:
    """The values by kind, behind their mean and that of each family."""
    families = {name: [value for kind, value in by_kind.items() if family(kind) == name] for name in FAMILIES}
    means = {name: float(np.mean(values)) for name, values in families.items() if values}
    return {"mean": float(np.mean(list(by_kind.values()))), **means, **by_kind} if by_kind else {}


def mean_recall(
    rng: np.random.Generator, trials: np.ndarray, scores: Mapping[str, Array]
) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % intervals of the mean recall over the kinds at RATE, and of what p_value's is above it.

    All scores are judged on the same bootstrap samples: their differences are known better than they are.
    """
    fault = _faults(trials)
    ordinary = np.flatnonzero(trials["kind"] == "")
    rows = [np.flatnonzero(trials["kind"] == kind) for kind in KINDS]
    kinds = [(mine, clusters(fault[mine])) for mine in rows if len(mine)]
    samples: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(N_RESAMPLED if kinds else 0):
        clean = rng.choice(ordinary, len(ordinary))
        chosen = [mine[drawn(rng, members)] for mine, members in kinds]
        for name, values in scores.items():
            limit = threshold(values[clean], RATE)
            samples[name].append(float(np.mean([np.mean(values[mine] > limit) for mine in chosen])))
    lead = {name: np.subtract(samples["p_value"], values) for name, values in samples.items() if values}
    return {name: {"interval": interval(samples[name]), "lead": interval(lead[name])} for name in lead}


def _faults(trials: np.ndarray) -> NDArray[np.intp]:
    """The number of the fault behind each row: it is known by message, round and cluster."""
    return np.unique(trials[["message", "round", "cluster"]], return_inverse=True)[1]


def by_kind(rng: np.random.Generator, trials: np.ndarray, values: Array) -> dict[str, dict[str, Any]]:
    """AUROC, average precision and recall of one score for every kind, with 95 % bootstrap intervals."""
    ordinary = values[trials["kind"] == ""]
    fault = _faults(trials)
    statistics = {
        "recall": lambda o, a: recall(o, a, RATE),
        "auroc": auroc,
        "average_precision": average_precision,
    }
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        mine = trials["kind"] == kind
        if not mine.any():
            continue
        found[kind] = {"n": int(mine.sum()), "faults": len(np.unique(fault[mine]))}
        for name, statistic in statistics.items():
            ends = bootstrap(rng, statistic, ordinary, values[mine], fault[mine])
            found[kind][name] = {"value": statistic(ordinary, values[mine]), "interval": ends}
    return found


def recall_in_bins(
    trials: np.ndarray, values: Array, by: NDArray[np.floating], edges: tuple[float, ...]
) -> dict[str, Any]:
    """Recall of one score in bins of a property of the spectra: number and recall, for every kind and for all."""
    above = values > threshold(values[trials["kind"] == ""], RATE)
    in_bin = np.searchsorted(edges[1:-1], by, side="right")

    def rows(mine: NDArray[np.bool_]) -> list[dict[str, Any]]:
        cells = [mine & (in_bin == k) for k in range(len(edges) - 1)]
        return [{"n": int(c.sum()), "recall": float(above[c].mean()) if c.any() else None} for c in cells]

    kinds = {kind: rows(trials["kind"] == kind) for kind in KINDS if (trials["kind"] == kind).any()}
    limits = [edge if np.isfinite(edge) else None for edge in edges]
    return {"edges": limits, "all": rows(trials["kind"] != ""), "kinds": kinds}


def _quantile_edges(values: NDArray[np.floating], n: int) -> tuple[float, ...]:
    inner = np.quantile(values, np.linspace(0, 1, n + 1)[1:-1])
    return (-np.inf, *inner.astype(float).tolist(), np.inf)


def false_alerts(ordinary: np.ndarray) -> list[dict[str, Any]]:
    """Rates of false alerts at nominal p-values: of all, of each spectype, and in its cells of S/N.

    Cells are quantiles of S/N, as many as leave CELL spectra in each, at most MAX_CELLS.
    """
    found = [_cell(ordinary, "all", (-np.inf, np.inf))]
    for spectype in SPECTYPES:
        mine = ordinary[ordinary["spectype"] == spectype]
        if not len(mine):
            continue
        found.append(_cell(mine, spectype, (-np.inf, np.inf)))
        edges = _quantile_edges(mine["snr"], max(min(len(mine) // CELL, MAX_CELLS), 1))
        if len(edges) > 2:
            in_bin = np.searchsorted(edges[1:-1], mine["snr"], side="right")
            found += [_cell(mine[in_bin == k], spectype, edges[k : k + 2]) for k in range(len(edges) - 1)]
    return found


def _cell(ordinary: np.ndarray, spectype: str, edges: tuple[float, ...]) -> dict[str, Any]:
    n = len(ordinary)
    rates: dict[str, Any] = {}
    for p in NOMINAL:
        k = int(np.count_nonzero(ordinary["p_value"] < p))
        rates[str(p)] = {"alerts": k, "rate": k / n, "interval": wilson(k, n)}
    low, high = (edge if np.isfinite(edge) else None for edge in edges)
    return {"spectype": spectype, "snr": [low, high], "n": n, "nominal": rates}


def petals(ordinary: np.ndarray) -> list[dict[str, int]]:
    """Ordinary spectra of each message and those with p_value < RATE: petals that differ show here."""
    messages, row = np.unique(ordinary["message"], return_inverse=True)
    alerts = np.bincount(row, weights=ordinary["p_value"] < RATE)
    columns = (messages.tolist(), np.bincount(row).tolist(), alerts.astype(int).tolist())
    return [{"message": m, "n": n, "alerts": k} for m, n, k in zip(*columns, strict=True)]


def correlations(ordinary: np.ndarray) -> dict[str, float]:
    """Rank correlation of -log10 p_value with S/N on ordinary spectra: of all and of each spectype."""
    parts = {"all": ordinary} | {s: ordinary[ordinary["spectype"] == s] for s in SPECTYPES}
    return {
        name: rank_correlation(-np.log10(part["p_value"]), part["snr"].astype(np.float64))
        for name, part in parts.items()
        if len(part) > 2
    }


def _purity(rng: np.random.Generator, kind: np.ndarray, scores: Mapping[str, Array]) -> dict[str, Any]:
    """Purity of the top of a list, whose anomalies are of every kind with equal probability."""
    names = np.unique(kind[kind != ""])
    if not len(names):
        return {}
    # The same number of each kind, so that a kind with many trials does not weigh more.
    picks = np.concatenate([rng.choice(np.flatnonzero(kind == name), 200) for name in names])
    size = {"prevalence": PREVALENCE, "n": N_LIST, "top": TOP}
    values = {
        name: purity(rng, score[kind == ""], score[picks], prevalence=PREVALENCE, n=N_LIST, top=TOP)
        for name, score in scores.items()
    }
    return {**size, "purity": values}


def winners(trials: np.ndarray, values: Array) -> dict[str, dict[str, int]]:
    """Which channel was the strongest in how many of the alerts, for every kind and for false alerts ("")."""
    kinds = trials["kind"]
    above = values > threshold(values[kinds == ""], RATE)
    counts = {kind: Counter(trials["channel"][above & (kinds == kind)].tolist()) for kind in ("", *KINDS)}
    return {kind: dict(count.most_common()) for kind, count in counts.items() if count}
