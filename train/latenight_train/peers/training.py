"""What a peer is: something that learns from training spectra and then scores whole messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from latenight.spectra import Spectra
from latenight_train.pixels import clean, norm_of, to_joint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from latenight_train.data import Survey

BLOCK = 512  # spectra in memory at once: 16 MB for each array

# One score per spectrum of a message, (N,); larger is stranger, -inf where it cannot say.
Score = Callable[[Spectra], NDArray[np.float64]]


@dataclass(frozen=True)
class Training:
    """What every peer gets.

    Attributes:
        survey: the spectra.
        rows: (n,) rows to learn from.
        reference: (m,) rows of other petals, to learn how ordinary spectra score.
        seed: same seed, same scores.
    """

    survey: Survey
    rows: NDArray[np.intp]
    reference: NDArray[np.intp]
    seed: int

    def observed(self, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Flux and ivar of some rows of the survey, in the observed frame, see the function of this name."""
        return observed(self.survey.flux[rows], self.survey.ivar[rows])

    def blocks(self, rows: NDArray[np.intp]) -> Iterator[tuple[Tensor, Tensor]]:
        """Flux and ivar of some rows, block by block."""
        for start in range(0, len(rows), BLOCK):
            yield self.observed(rows[start : start + BLOCK])


# Names of scores -> scores: one training may serve several.
Fit = Callable[[Training], dict[str, Score]]


def observed(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Spectra in the observed frame on the joint grid, arms averaged by ivar, divided by their norm.

    Args:
        flux: (N, 7958) [1e-17 erg s-1 cm-2 A-1].
        ivar: (N, 7958), 0 in bad pixels.

    Returns:
        flux and ivar, (N, 7781) each, in units of the norm; both 0 where no arm has a good pixel.
    """
    good_flux, good_ivar = clean(torch.tensor(flux), torch.tensor(ivar))
    norm = norm_of(good_flux, good_ivar)
    weight = to_joint(good_ivar)
    joint = to_joint(good_flux * good_ivar) / torch.where(weight > 0, weight, torch.ones(()))
    return joint / norm, weight * norm.square()
