"""Rest-frame grids beside observed pixels: the part that a batch sees, sums over bins, interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import N_JOINT, PIXEL, WAVE

if TYPE_CHECKING:
    from latenight_train.vae import LogGrid

BLOCK = 32  # pixels of a block of the running sums
FIRST_PIXEL = 4500.0  # 3600 A / 0.8 A
# Points of a grid are used in multiples of this many: few sizes of arrays, which the arena of the CUDA provider keeps.
PART = 256


def seen_part(grid: LogGrid, z: Tensor) -> slice:
    """The points of a grid that the observed pixels of a batch can need.

    One spectrum covers 1.0 of the 2.8 units of ln(wavelength) that the grids have, spectra of like redshift hardly
    more together: layers between grid and network need no more of their weights.

    Args:
        grid: of rest-frame wavelengths.
        z: (N, 1) redshifts.
    """
    most, least = (torch.log(1 + end.double()) / grid.step for end in (z.max(), z.min()))
    blue, red = (math.log(wave / grid.wave_min) / grid.step for wave in (WAVE[0], WAVE[-1]))
    # A point to spare on both sides: constants reach the exported graph in float32.
    first = (blue - most).floor() - 2
    last = (red - least).floor() + 4
    n = (((last - first) / PART).ceil() * PART).clamp(max=float(grid.n))
    first = torch.minimum(first.clamp(min=0.0), grid.n - n)
    return slice(first.long(), (first + n).long())


@dataclass(frozen=True)
class At:
    """Where observed pixels lie on a grid.

    Attributes:
        left: (N, 7958) number of the point left of each pixel, counted from the first of the part.
        right: (N, 7958) of the one right of it.
        fraction: (N, 7958) distance from the left one in steps.
        part: of the grid.
    """

    left: Tensor
    right: Tensor
    fraction: Tensor
    part: slice

    def values(self, points: Tensor) -> Tensor:
        """Linear interpolation of the values at the points of the part, (N, part), at the pixels, (N, 7958)."""
        low = points.gather(1, self.left)
        return low + self.fraction * (points.gather(1, self.right) - low)


class Pixels(nn.Module):
    """The observed pixels of the arms on a fine grid, and on one of which it has `coarser` times the points."""

    whole: Tensor
    part: Tensor
    steps_per_unit: Tensor

    def __init__(self, fine: LogGrid, coarse: LogGrid) -> None:
        super().__init__()
        self.fine, self.coarse = fine, coarse
        self.coarser = round(coarse.step / fine.step)
        position = torch.log(torch.from_numpy(WAVE) / fine.wave_min) / fine.step
        # In whole steps and the rest: float32 then holds both exactly enough. At position 14000 it resolves only 1e-3
        # of a step, 1e-5 of the flux on a steep line.
        self.register_buffer("whole", position.floor().float())
        self.register_buffer("part", (position - position.floor()).float())
        self.register_buffer("steps_per_unit", torch.tensor(1 / fine.step, dtype=torch.float64))

    def forward(self, z: Tensor) -> tuple[At, At]:
        """Where the pixels lie on the fine and on the coarse grid, at z (N, 1)."""
        shift = torch.log(1 + z.double()) * self.steps_per_unit
        away = self.part - (shift - shift.floor()).float()
        down = away.floor()  # 0 or -1
        left = (self.whole - shift.floor().float() + down).clamp(0.0, self.fine.n - 2.0)
        fraction = away - down
        coarse = left / self.coarser
        coarse_left = coarse.floor()
        coarse_fraction = coarse - coarse_left + fraction / self.coarser
        return _at(left, fraction, seen_part(self.fine, z)), _at(
            coarse_left, coarse_fraction, seen_part(self.coarse, z)
        )


def _at(left: Tensor, fraction: Tensor, part: slice) -> At:
    inside = (left - part.start).long()
    return At(inside, inside + 1, fraction, part)


class RestBins(nn.Module):
    """Sums of observed joint-grid pixels over the bins of a rest-frame grid.

    Each pixel belongs wholly to one bin, so noise stays independent. Running sums are two float64 products
    with triangular matrices (within blocks of pixels, then over blocks), read off at the bin edges.
    """

    edges: Tensor  # (n + 1,) float64, rest-frame edges / 0.8 A
    within: Tensor
    before: Tensor

    def __init__(self, grid: LogGrid) -> None:
        super().__init__()
        self.n_blocks = -(-(N_JOINT + 1) // BLOCK)
        # In pixels, so that only numbers that float32 holds exactly (1 and 4500) appear in the graph: the
        # exporter writes constants such as 0.8 as float32, which moved a pixel to the next bin.
        self.register_buffer("edges", grid.edges() / PIXEL)
        self.register_buffer("within", _before(BLOCK))
        self.register_buffer("before", _before(self.n_blocks))

    def first_pixels(self, z: Tensor, part: slice) -> Tensor:
        """The first pixel of each bin of a part of the grid and of the one behind, (N, bins + 1), at z (N, 1)."""
        first = self.edges[part.start : part.stop + 1] * (1 + z.double()) - FIRST_PIXEL
        return first.ceil().clamp(0.0, float(N_JOINT)).long()

    def forward(self, values: Tensor, first: Tensor) -> Tensor:
        """Sum per bin, (N, bins), of values (N, 7781) in bins that begin with the pixels `first`."""
        padded = functional.pad(values, (0, self.n_blocks * BLOCK - N_JOINT)).double()
        blocks = padded.reshape(-1, self.n_blocks, BLOCK)
        within = (blocks @ self.within).flatten(1)
        before = blocks.sum(2) @ self.before
        running = within.gather(1, first) + before.gather(1, first // BLOCK)
        return (running[:, 1:] - running[:, :-1]).float()


def _before(n: int) -> Tensor:
    """Matrix that makes of n numbers the sums of those before each."""
    return torch.ones(n, n, dtype=torch.float64).triu(diagonal=1)
