"""How far a spectrum lies from the training spectra in a latent space, and how two scores become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

N_NEIGHBOURS = 10


class Bank:
    """The latents of the training spectra, each axis scaled by half of its 16-84 % range."""

    def __init__(self, latents: Tensor) -> None:
        low, high = torch.quantile(latents, torch.tensor([0.16, 0.84]), dim=0)
        self._scale = 2.0 / (high - low).clamp(min=1e-3)
        self._bank = latents * self._scale

    def distance(self, latents: Tensor) -> NDArray[np.float64]:
        """Mean distance to the 10 nearest training latents, (N,)."""
        distances = torch.cdist(latents * self._scale, self._bank)
        nearest = distances.topk(min(N_NEIGHBOURS, len(self._bank)), largest=False).values
        return nearest.mean(1).double().numpy()


def surprise(scores: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """-ln p of scores, positive numbers, among those of ordinary spectra, (N,).

    The empirical share up to the 97 % quantile, beyond it an exponential tail in ln(score) through the 85 and
    97 % quantiles: an empirical p would give all scores beyond the reference the same value.
    """
    ordinary, found = (np.log(np.maximum(values, 1e-30)) for values in (np.sort(reference), scores))
    above = len(ordinary) - np.searchsorted(ordinary, found, side="left")
    q85, q97 = np.quantile(ordinary, [0.85, 0.97])
    tail = -np.log(0.03) + np.log(5.0) * (found - q97) / max(q97 - q85, 1e-9)
    return np.where(found > q97, tail, -np.log((above + 1) / (len(ordinary) + 1)))
