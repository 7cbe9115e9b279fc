"""What all p-values of a spectrum say together: how much more like anomalies than like ordinary spectra they are.

The smallest of 131 p-values must be very small to count, whatever it is. But anomalies show in several statistics at
once, and some statistics are often strange in ordinary spectra. Small networks have learned both from injected
anomalies (latenight_train.learn_combiner). They see p-values only, so they belong to no survey; what they say is
calibrated like any statistic, and the smallest p keeps a share in it, for anomalies that nobody has injected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.channels import TAKES_PART

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Of -ln(smallest p), beside log-odds. Recall at 1 and .1 % of kinds that were learned, and of each kind when it was
# left out of the lessons, with 0, .25, .5 and 1: .683 .671 .661 .645, .586 .584 .566 .521; .569 .594 .600 .608,
# .473 .511 .510 .487. The smallest p alone: .591, .435.
SHARE_OF_SMALLEST = 0.3
MOST, MOST_SMALLEST = 40.0, 80.0  # -ln p beyond which the networks see no difference


@dataclass(frozen=True)
class Combiner:
    """Networks of a few layers, x w + b with SiLU between, whose mean log-odds count.

    Attributes:
        weights: of each layer, (networks, inputs, outputs) float32; the last has one output.
        biases: likewise, (networks, 1, outputs).
    """

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All arrays by name."""
        named = zip(("weights", "biases"), (self.weights, self.biases), strict=True)
        return {f"combiner_{name}_{k}": v for name, layers in named for k, v in enumerate(layers)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Combiner:
    """The combiner whose Combiner.arrays are among these."""
    n = sum(name.startswith("combiner_weights_") for name in arrays)
    weights, biases = (
        tuple(arrays[f"combiner_{name}_{k}"].astype(np.float32) for k in range(n))
        for name in ("weights", "biases")
    )
    return Combiner(weights, biases)


def strangeness(combiner: Combiner, p: Array, taught: NDArray[np.bool_]) -> Array:
    """What is calibrated to p_value, (n,): larger is stranger, NaN where every p is 1.

    Args:
        combiner: of the bundle.
        p: (n, C) p-value of each statistic in the order of channels.STATISTICS, 1 where it is missing.
        taught: (n,) whether the lessons knew such spectra; of others the smallest p alone counts.
    """
    strongest = _strengths(p).max(axis=1)
    found = SHARE_OF_SMALLEST * strongest
    if taught.any():
        found[taught] += log_odds(combiner, p[taught])
    return np.where(strongest > 0, found, np.nan)


def log_odds(combiner: Combiner, p: Array) -> Array:
    """How much, in logarithms, more common such p-values (n, C) are among the anomalies of the lessons, (n,)."""
    x: NDArray[np.float32] = evidence(p)[None]
    for k, (weights, biases) in enumerate(zip(combiner.weights, combiner.biases, strict=True)):
        if k > 0:
            x = x * (0.5 + 0.5 * np.tanh(0.5 * x))  # SiLU, x / (1 + exp(-x)), without its overflow
        x = x @ weights + biases
    return np.asarray(x[..., 0].mean(axis=0), np.float64)


def evidence(p: Array) -> NDArray[np.float32]:
    """What the networks see of n spectra, (n, inputs): ln(1 - ln p), and -ln p as a share of the largest."""
    strength = _strengths(p)
    largest = np.clip(strength.max(axis=1, keepdims=True), 1e-3, MOST_SMALLEST)
    capped = np.minimum(strength, MOST)
    return np.hstack([np.log1p(capped), capped / largest, np.log1p(largest)]).astype(np.float32)


def _strengths(p: Array) -> Array:
    """-ln p of the statistics that take part, (n, their number)."""
    return np.asarray(-np.log(p[:, TAKES_PART]))
