"""The networks of latenight.combiner: how they are trained, and those that `fit` puts into bundles."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from latenight.combiner import Combiner, evidence, from_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

FILE = Path(__file__).with_name("combiner.npz")
SEED = 11
# Three networks instead of one: recall .684 .660 .595 instead of .684 .656 .591, on a survey of another simulator .671
# .636 .542 instead of .665 .630 .523. With 32, 64 and 128 units .666, .672 and .684; with one layer .663; boosted trees
# (300 of 24 leaves) .655 .615 .533.
NETWORKS, UNITS = 3, 128
EPOCHS, BATCH, RATE, DECAY, DROPOUT = 20, 256, 2e-3, 1e-3, 0.3


@cache
def learned_combiner() -> Combiner:
    """The combiner that `fit` puts into bundles."""
    with np.load(FILE, allow_pickle=False) as file:
        return from_arrays(dict(file))


def combiner_learned_from() -> dict[str, Any]:
    """What that combiner was taught with: bundle, seed, digests of the files, lessons by kind."""
    with np.load(FILE, allow_pickle=False) as file:
        return dict(json.loads(str(file["learned_from"])))


def learn_combiner(p: Array, is_anomaly: NDArray[np.bool_], seed: int = SEED) -> Combiner:
    """Networks that tell anomalies from ordinary spectra.

    Args:
        p: (n, C) p-values in the order of channels.STATISTICS.
        is_anomaly: (n,).
        seed: same seed and data, same networks.
    """
    x = torch.from_numpy(evidence(p))
    centre, spread = x.mean(dim=0), x.std(dim=0) + 1e-3
    target = torch.from_numpy(is_anomaly.astype(np.float32))
    networks = [_trained((x - centre) / spread, target, seed + k) for k in range(NETWORKS)]
    layers = list(zip(*([m for m in net if isinstance(m, nn.Linear)] for net in networks), strict=True))
    weights = [_stacked([layer.weight.T for layer in same]) for same in layers]
    biases = [_stacked([layer.bias[None] for layer in same]) for same in layers]
    weights[0] = weights[0] / spread.numpy()[:, None]  # what the standardisation does, the first layer does
    biases[0] = biases[0] - (centre.numpy() @ weights[0])[:, None]
    return Combiner(tuple(weights), tuple(biases))


def _trained(x: Tensor, target: Tensor, seed: int) -> nn.Sequential:
    """One network, trained on standardised evidence (n, inputs)."""
    torch.manual_seed(seed)
    sizes = (x.shape[1], UNITS, UNITS)
    hidden = [
        layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.SiLU(), nn.Dropout(DROPOUT))
    ]
    network = nn.Sequential(*hidden, nn.Linear(UNITS, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    n_batches = max(len(x) // BATCH, 1)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * n_batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).tensor_split(n_batches):
            loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows])[:, 0], target[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
    return network


def _stacked(parts: Sequence[Tensor]) -> NDArray[np.float32]:
    return np.asarray(torch.stack(list(parts)).detach().numpy(), np.float32)
