"""How pass 2 sees pixels: the three arms one above the other, each cut into blocks of 8 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from latenight.spectra import ARMS, PIXEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

BLOCK = 8  # pixels: 6.4 A, finer than any broad feature
PER_ARM = 361  # blocks; the longest arm has 2881 pixels, and the others are padded with pixels of weight 0
N_BLOCKS = len(ARMS) * PER_ARM
N_STACKED = N_BLOCKS * BLOCK
# Wavelengths go on beyond the end of an arm, (3, 2888) and (1083,).
STACKED_WAVE = np.stack([arm.wave_min + PIXEL * np.arange(PER_ARM * BLOCK) for arm in ARMS])
BLOCK_WAVE = STACKED_WAVE.reshape(N_BLOCKS, BLOCK).mean(axis=1)
ARM_OF_BLOCK = np.repeat(np.arange(len(ARMS)), PER_ARM)


def taken(values: Tensor, dim: int, index: NDArray[np.int64]) -> Tensor:
    """The entries of an index along one dimension.

    In ONNX this is one Gather; a slice becomes 13 operators, and exporting takes 5 ms for each.
    """
    return torch.index_select(values, dim, torch.from_numpy(index))


def stacked(values: Tensor) -> Tensor:
    """Values of the concatenated arms, (N, 7958), as (N, 8664): each arm padded with zeros to 2888 pixels."""
    arms = torch.split(values, [arm.n for arm in ARMS], dim=1)
    return torch.cat([functional.pad(a, (0, PER_ARM * BLOCK - a.shape[1])) for a in arms], dim=1)


def block_sums(values: Tensor) -> Tensor:
    """Sums over blocks, (N, 8664) -> (N, 1083)."""
    return values.reshape(-1, N_BLOCKS, BLOCK).sum(2)


def by_arm(blocks: Tensor) -> Tensor:
    """Values of blocks, (N, 1083, ...), as (N, 3, 361, ...)."""
    return blocks.reshape(-1, len(ARMS), PER_ARM, *blocks.shape[2:])


def spread(blocks: Tensor) -> Tensor:
    """The value of its block for every pixel, (N, 1083) -> (N, 8664)."""
    return blocks[:, :, None].expand(-1, -1, BLOCK).reshape(-1, N_STACKED)


def window_sums(values: Tensor, widths: tuple[int, ...]) -> Iterator[tuple[Tensor, int]]:
    """Sums over windows of 1, 2, 4 ... elements along dimension 2, and the step between windows, for each width.

    Windows are a quarter of their width apart (wider than 4 elements); each width comes from sums of the one
    before.

    Args:
        values: (N, 3, n, ...) elements of the arms.
        widths: powers of 2 from the first that is wanted to the last, each twice the one before.
    """
    step, width = 1, 1
    while True:
        if width >= widths[0]:
            yield values, step
        if width == widths[-1]:
            return
        width *= 2
        skip, stride = width // 2 // step, 2 if width > 4 else 1
        first = np.arange(0, values.shape[2] - skip, stride)
        values = taken(values, 2, first) + taken(values, 2, first + skip)
        step *= stride
