"""How pass 2 sees pixels: the three arms one above the other, each cut into blocks of 16 pixels."""

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

# 16 pixels, 12.8 A: half of the narrowest window that a broad feature is looked for in.
BLOCK = 16
PER_ARM = 181  # blocks; the longest arm has 2881 pixels, and the others are filled up with pixels of weight 0
N_BLOCKS = len(ARMS) * PER_ARM
PIXELS_PER_ARM = PER_ARM * BLOCK
N_STACKED = N_BLOCKS * BLOCK
# Wavelengths go on beyond the end of an arm, (3, 2896) and (543,).
STACKED_WAVE = np.stack([arm.wave_min + PIXEL * np.arange(PIXELS_PER_ARM) for arm in ARMS])
BLOCK_WAVE = STACKED_WAVE.reshape(N_BLOCKS, BLOCK).mean(axis=1)
ARM_OF_BLOCK = np.repeat(np.arange(len(ARMS)), PER_ARM)
# 1 for pixels of an arm, 0 for what fills it up, (8688,).
INSIDE = np.concatenate([np.arange(PIXELS_PER_ARM) < arm.n for arm in ARMS]).astype(np.float32)


def taken(values: Tensor, dim: int, index: NDArray[np.int64]) -> Tensor:
    """The entries of an index along one dimension.

    In ONNX this is one Gather; a slice becomes 13 operators, and exporting takes 5 ms for each.
    """
    return torch.index_select(values, dim, torch.from_numpy(index))


def part(values: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """The entries start to stop - 1 along one dimension."""
    return taken(values, dim, np.arange(start, stop))


def stacked(values: Tensor) -> Tensor:
    """Values of the concatenated arms, (N, 7958), as (N, 8688); what fills an arm up is arbitrary."""
    return _rows(values, [arm.start for arm in ARMS])


def stacked_joint(values: Tensor) -> Tensor:
    """Values on the joint grid, (N, 7781), as (N, 8688); an arm is filled up with what follows in wavelength."""
    return _rows(values, [arm.joint_start for arm in ARMS])


def _rows(values: Tensor, starts: list[int]) -> Tensor:
    """Rows of PIXELS_PER_ARM values from each start on, the last filled up with its last value, (N, 8688)."""
    n = values.shape[1]
    parts = [part(values, 1, start, min(start + PIXELS_PER_ARM, n)) for start in starts]
    missing = starts[-1] + PIXELS_PER_ARM - n
    return functional.pad(torch.cat(parts, dim=1)[:, None], (0, missing), mode="replicate").flatten(1)


def block_sums(values: Tensor) -> Tensor:
    """Sums over blocks, (N, 8688) -> (N, 543), or (N, k, 8688) -> (N, k, 543)."""
    return values.reshape(-1, *_sizes(values)[:-1], N_BLOCKS, BLOCK).sum(-1)


def _sizes(values: Tensor) -> list[int]:
    """All dimensions but the first, as numbers: the exporter would compute them in the graph."""
    return [int(n) for n in values.shape[1:]]


def by_arm(blocks: Tensor) -> Tensor:
    """Values of blocks, (N, 543, ...), as (N, 3, 181, ...)."""
    return blocks.reshape(-1, len(ARMS), PER_ARM, *_sizes(blocks)[1:])


def spread(blocks: Tensor) -> Tensor:
    """The value of its block for every pixel, (N, 543) -> (N, 8688).

    A product with ones, which is exact: onnxruntime's Expand takes eight times as long on a CPU (18 us a spectrum, 2).
    """
    return (blocks[:, :, None] @ torch.ones(1, BLOCK)).reshape(-1, N_STACKED)


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
