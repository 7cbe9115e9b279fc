"""How pass 2 sees pixels: the three arms one above the other, each cut into blocks of 16 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from latenight.spectra import ARMS, N_PIX, PIXEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

# 16 pixels, 12.8 A: half of the narrowest window that a broad feature is looked for in.
BLOCK = 16
# Blocks of each arm; the last is filled up with pixels of weight 0.
OF_ARM = tuple(-(-arm.n // BLOCK) for arm in ARMS)
N_BLOCKS = sum(OF_ARM)
N_STACKED = N_BLOCKS * BLOCK
# Wavelengths go on beyond the end of an arm, (7984,) and (499,).
STACKED_WAVE = np.concatenate(
    [arm.wave_min + PIXEL * np.arange(n * BLOCK) for arm, n in zip(ARMS, OF_ARM, strict=True)]
)
BLOCK_WAVE = STACKED_WAVE.reshape(N_BLOCKS, BLOCK).mean(axis=1)
ARM_OF_BLOCK = np.repeat(np.arange(len(ARMS)), OF_ARM)
# 1 for pixels of an arm, 0 for what fills it up, (7984,).
INSIDE = np.concatenate([np.arange(n * BLOCK) < arm.n for arm, n in zip(ARMS, OF_ARM, strict=True)]).astype(
    np.float32
)
# Scans see the arms side by side, each as long as the longest.
PER_ARM = max(OF_ARM)
# Three blocks more where they see pixels, so that windows of up to 4 pixels come in whole blocks as well.
PIXELS_PER_ARM = (PER_ARM + 3) * BLOCK
# Which block each of them is, (3, 181), one past the last where there is none; and where each block went, (499,).
_SIDE_BY_SIDE = np.arange(PER_ARM) < np.array(OF_ARM)[:, None]
WHICH_BLOCK = np.where(_SIDE_BY_SIDE, np.cumsum(_SIDE_BY_SIDE).reshape(3, PER_ARM) - 1, N_BLOCKS)
WHICH_BLOCK_OF_PIXELS = np.pad(WHICH_BLOCK, ((0, 0), (0, 3)), constant_values=N_BLOCKS)
WHERE_BLOCK = np.flatnonzero(_SIDE_BY_SIDE)


def taken(values: Tensor, dim: int, index: NDArray[np.int64]) -> Tensor:
    """The entries of an index along one dimension.

    In ONNX this is one Gather; a slice becomes 13 operators, and exporting takes 5 ms for each.
    """
    return torch.index_select(values, dim, torch.from_numpy(index))


def part(values: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """The entries start to stop - 1 along one dimension."""
    return taken(values, dim, np.arange(start, stop))


def stacked(values: Tensor) -> Tensor:
    """Values of the concatenated arms, (N, 7958), as (N, 7984); what fills an arm up is arbitrary."""
    ends = [arm.start + n * BLOCK for arm, n in zip(ARMS, OF_ARM, strict=True)]
    filled = functional.pad(values, (0, ends[-1] - N_PIX))
    return torch.cat([part(filled, 1, arm.start, end) for arm, end in zip(ARMS, ends, strict=True)], dim=1)


def block_sums(values: Tensor) -> Tensor:
    """Sums over blocks along the last dimension, as (N, 7984) -> (N, 499)."""
    sizes = _sizes(values)
    return values.reshape(-1, *sizes[:-1], sizes[-1] // BLOCK, BLOCK).sum(-1)


def _sizes(values: Tensor) -> list[int]:
    """All dimensions but the first, as numbers: the exporter would compute them in the graph."""
    return [int(n) for n in values.shape[1:]]


def by_arm(blocks: Tensor) -> Tensor:
    """Values of blocks, (N, 499, ...), as (N, 3, 181, ...), 0 beyond the end of an arm."""
    return _side_by_side(blocks, WHICH_BLOCK)


def pixels_by_arm(values: Tensor) -> Tensor:
    """Values of pixels, (N, 7984), as (N, 3, 2944), 0 beyond the last block of an arm."""
    return _side_by_side(values.reshape(-1, N_BLOCKS, BLOCK), WHICH_BLOCK_OF_PIXELS).flatten(2)


def _side_by_side(blocks: Tensor, which: NDArray[np.int64]) -> Tensor:
    """The blocks (N, 499, ...) of which, (3, k), as (N, 3, k, ...); number 499 is 0."""
    filled = functional.pad(blocks, (*[0, 0] * (blocks.dim() - 2), 0, 1))
    return taken(filled, 1, which.ravel()).reshape(-1, *which.shape, *_sizes(blocks)[1:])


def spread(blocks: Tensor) -> Tensor:
    """The value of its block for every pixel, as (N, 499) -> (N, 7984).

    A product with ones, which is exact: onnxruntime's Expand takes eight times as long on a CPU (18 us a spectrum, 2).
    """
    return (blocks[..., None] @ torch.ones(1, BLOCK)).flatten(-2)


def around(blocks: Tensor, n: int) -> Tensor:
    """Sums over n neighbouring blocks of an arm around each, divided by n, (N, 3, 181)."""
    return functional.avg_pool1d(blocks, n, 1, n // 2)


def window_sums(values: Tensor, widths: tuple[int, ...], whole: int = 1) -> Iterator[tuple[Tensor, int]]:
    """Sums over windows of 1, 2, 4 ... elements along dimension 2, and the step between windows, for each width.

    Windows are a quarter of their width apart (wider than 4 elements); each width comes from sums of the one
    before.

    Args:
        values: (N, 3, n, ...) elements of the arms.
        widths: powers of 2 from the first that is wanted to the last, each twice the one before.
        whole: the number of windows one element apart is a multiple of it; up to so many of the last are left out.
    """
    step, width = 1, 1
    while True:
        if width >= widths[0]:
            yield values, step
        if width == widths[-1]:
            return
        width *= 2
        skip, stride = width // 2 // step, 2 if width > 4 else 1
        last = values.shape[2] - skip
        first = np.arange(0, last // whole * whole if stride == 1 else last, stride)
        values = taken(values, 2, first) + taken(values, 2, first + skip)
        step *= stride
