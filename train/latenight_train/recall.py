"""How well a score separates anomalies from ordinary spectra: recall, ranks, intervals.

Scores are numbers of which larger means stranger; a missing score is -inf and never alerts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Statistic = Callable[[Array, Array], float]

N_RESAMPLED = 200  # bootstrap samples: the ends of a 95 % interval then lie within 1.5 % of its probability


def threshold(ordinary: Array, rate: float) -> float:
    """The score above which at most a share `rate` of the ordinary spectra lies."""
    ordered = np.sort(ordinary)[::-1]
    return float(ordered[min(int(rate * len(ordered)), len(ordered) - 1)])


def recall(ordinary: Array, anomalies: Array, rate: float) -> float:
    """Share of the anomalies that alert when at most a share `rate` of the ordinary spectra does."""
    return float(np.mean(anomalies > threshold(ordinary, rate)))


def auroc(ordinary: Array, anomalies: Array) -> float:
    """Probability that an anomaly scores higher than an ordinary spectrum; ties count half."""
    ordered = np.sort(ordinary)
    below = np.searchsorted(ordered, anomalies, side="left")
    not_above = np.searchsorted(ordered, anomalies, side="right")
    return float(np.mean(below + not_above) / (2 * len(ordered)))


def average_precision(ordinary: Array, anomalies: Array) -> float:
    """Area under precision against recall: mean, over the anomalies, of the precision at their own score."""
    found = len(anomalies) - np.searchsorted(np.sort(anomalies), anomalies, side="left")
    false = len(ordinary) - np.searchsorted(np.sort(ordinary), anomalies, side="left")
    return float(np.mean(found / (found + false)))


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rank correlation; NaN where one of them does not vary."""
    a, b = (_ranks(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else float("nan")


def _ranks(values: Array) -> Array:
    """Ranks from 0; equal values share their mean rank."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count + 1) / 2)[inverse], np.float64)


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a probability of which k of n trials tell (Wilson 1927, JASA 22, 209)."""
    q = 1.96
    centre, half = k + q * q / 2, q * np.sqrt(k * (n - k) / n + q * q / 4)
    return float(max(centre - half, 0.0) / (n + q * q)), float(min(centre + half, n + q * q) / (n + q * q))


def bootstrap(
    rng: np.random.Generator,
    statistic: Statistic,
    ordinary: Array,
    anomalies: Array,
    cluster: NDArray[np.integer],
) -> tuple[float, float]:
    """95 % interval of a statistic of both samples.

    Args:
        rng: source of randomness.
        statistic: of the scores of ordinary spectra and of anomalies.
        ordinary: (n,) scores.
        anomalies: (m,) scores.
        cluster: (m,) anomalies of one cluster are one fault, and are drawn together.
    """
    members = clusters(cluster)
    return interval(
        [
            statistic(rng.choice(ordinary, len(ordinary)), anomalies[drawn(rng, members)])
            for _ in range(N_RESAMPLED)
        ]
    )


def clusters(cluster: NDArray[np.integer]) -> list[NDArray[np.intp]]:
    """The rows of each cluster."""
    _, inverse = np.unique(cluster, return_inverse=True)
    return np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])


def drawn(rng: np.random.Generator, members: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    """The rows of as many clusters as there are, drawn with replacement."""
    return np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])


def interval(values: Sequence[float] | Array) -> tuple[float, float]:
    """The middle 95 % of bootstrapped values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def purity(
    rng: np.random.Generator, ordinary: Array, anomalies: Array, *, prevalence: float, n: int, top: int
) -> float:
    """Share of anomalies among the `top` strangest of n spectra, of which a share `prevalence` is anomalous."""
    found = []
    n_anomalies = round(prevalence * n)
    for _ in range(N_RESAMPLED):
        scores = np.concatenate([rng.choice(anomalies, n_anomalies), rng.choice(ordinary, n - n_anomalies)])
        strangest = np.lexsort((rng.random(n), -scores))[:top]
        found.append(np.mean(strangest < n_anomalies))
    return float(np.mean(found))
