"""Operations on pixels that the graphs are made of: cleaning, joining arms, rest-frame bins and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import ARMS, N_JOINT, PIXEL, WAVE

if TYPE_CHECKING:
    from latenight_train.vae import LogGrid

MAX_FLUX = 1e6  # 1e-11 erg s-1 cm-2 A-1: beyond any target; keeps squares of artefacts inside float32
MAX_IVAR = 1e12
BLOCK = 64  # pixels of a block of the running sums
FIRST_PIXEL = 4500.0  # 3600 A / 0.8 A


def clean(flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Flux and ivar with zero in every bad pixel; NaN compares false, so it is bad."""
    ok = (ivar > 0) & (ivar < 3e38) & (flux > -3e38) & (flux < 3e38)
    zero = torch.zeros(())
    flux = torch.where(ok, flux.clamp(-MAX_FLUX, MAX_FLUX), zero)
    return flux, torch.where(ok, ivar.clamp(max=MAX_IVAR), zero)


def to_joint(values: Tensor) -> Tensor:
    """Sum of the arms on the joint grid: (N, 7958) -> (N, 7781)."""
    b, r, z = torch.split(values, [arm.n for arm in ARMS], dim=1)
    br = ARMS[1].joint_start
    rz = ARMS[2].joint_start - ARMS[1].joint_start
    both_br, both_rz = ARMS[0].n - br, ARMS[1].n - rz  # pixels that two arms share: 51 and 126
    parts = (
        b[:, :br],
        b[:, br:] + r[:, :both_br],
        r[:, both_br:rz],
        r[:, rz:] + z[:, :both_rz],
        z[:, both_rz:],
    )
    return torch.cat(parts, dim=1)


def first_arm(values: Tensor) -> Tensor:
    """One value per wavelength, of the bluer arm where two overlap: (N, 7958) -> (N, 7781).

    For values that depend on wavelength alone, such as a reconstruction.
    """
    _, r, z = ARMS
    parts = (values[:, : r.joint_start], values[:, r.start : r.start + z.joint_start - r.joint_start])
    return torch.cat((*parts, values[:, z.start :]), dim=1)


def to_arms(joint: Tensor) -> Tensor:
    """The joint grid seen by each arm: (N, 7781) -> (N, 7958)."""
    return torch.cat([joint[:, arm.joint_pixels] for arm in ARMS], dim=1)


def norm_of(flux: Tensor, ivar: Tensor) -> Tensor:
    """Scale of each spectrum, (N, 1): its mean flux, at least 0.3 of its typical noise.

    Weighted by sqrt(ivar), between a plain mean (ruled by the noisy edges) and an ivar-weighted one (ruled by
    the clean gaps in the z arm). The floor keeps spectra without signal from being blown up.
    """
    weight = ivar.sqrt()
    total = weight.sum(1, keepdim=True).clamp(min=1e-12)
    n_good = (ivar > 0).to(ivar.dtype).sum(1, keepdim=True)
    return torch.maximum((weight * flux).sum(1, keepdim=True) / total, 0.3 * n_good / total).clamp(min=1e-9)


def nearest(ln_wave: Tensor, z: Tensor, grid: Tensor) -> Tensor:
    """The point of a rest-frame grid next to each observed pixel, (N, pixels).

    Args:
        ln_wave: (pixels,) float64 ln(observed wavelength).
        z: (N,) redshifts.
        grid: (3,) float64: ln(wavelength) of the first point, points per unit of it, number of the last.
    """
    position = (ln_wave - torch.log(1 + z.double())[:, None] - grid[0]) * grid[1]
    return torch.minimum(position.clamp(min=0.0), grid[2]).round().long()


def profile_at(profiles: Tensor, which: int, at: Tensor) -> Tensor:
    """One of the profiles (k, points) at points (N, pixels), (N, pixels).

    GatherElements of one long row: Gather, which copies with a call per number, takes ten times as long.
    """
    row = profiles[which : which + 1]
    return row.gather(1, at.reshape(1, -1)).reshape(-1, int(at.shape[1]))


class RestBins(nn.Module):
    """Sums of observed joint-grid pixels over the bins of a rest-frame grid.

    Each pixel belongs wholly to one bin, so noise stays independent. Running sums are two float64 products
    with triangular matrices (within blocks of 64 pixels, then over blocks), read off at the bin edges.
    """

    edges: Tensor  # (n + 1,) float64, rest-frame edges / 0.8 A
    within: Tensor
    before: Tensor

    def __init__(self, grid: LogGrid) -> None:
        super().__init__()
        self.n_blocks = -(-N_JOINT // BLOCK)
        # In pixels, so that only numbers that float32 holds exactly (1 and 4500) appear in the graph: the
        # exporter writes constants such as 0.8 as float32, which moved a pixel to the next bin.
        self.register_buffer("edges", grid.edges() / PIXEL)
        self.register_buffer("within", torch.ones(BLOCK, BLOCK, dtype=torch.float64).triu())
        ones = torch.ones(self.n_blocks, self.n_blocks, dtype=torch.float64)
        self.register_buffer("before", ones.triu(diagonal=1))

    def forward(self, values: Tensor, z: Tensor) -> Tensor:
        """Sum per bin, (N, bins), of values (N, 7781) at redshifts z (N, 1)."""
        padded = functional.pad(values, (0, self.n_blocks * BLOCK - N_JOINT)).double()
        sums = padded.reshape(-1, self.n_blocks, BLOCK) @ self.within  # (N, blocks, 64)
        sums = sums + (sums[:, :, -1] @ self.before)[:, :, None]
        running = functional.pad(sums.reshape(-1, self.n_blocks * BLOCK), (1, 0))  # (N, 1 + padded)
        first = self.edges * (1 + z.double()) - FIRST_PIXEL
        at = running.gather(1, first.ceil().clamp(0.0, float(N_JOINT)).long())  # (N, bins + 1)
        return (at[:, 1:] - at[:, :-1]).float()


class Interpolate(nn.Module):
    """Linear interpolation from a rest-frame grid to the observed pixels of the arms."""

    position: Tensor
    steps_per_unit: Tensor

    def __init__(self, grid: LogGrid) -> None:
        super().__init__()
        self.last = grid.n - 2  # the last point with a right neighbour; integers survive the exporter exactly
        steps = torch.log(torch.from_numpy(WAVE) / grid.wave_min) / grid.step
        self.register_buffer("position", steps)
        self.register_buffer("steps_per_unit", torch.tensor(1 / grid.step, dtype=torch.float64))

    def where(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Grid index (N, 7958) left of each pixel and the distance to it in steps, at z (N, 1)."""
        # float64: at position 14000 float32 resolves only 1e-3 of a step, 1e-5 of the flux on a steep line.
        position = self.position - torch.log(1 + z.double()) * self.steps_per_unit
        position = position.clamp(0.0, float(self.last))
        left = position.floor()
        return left.long(), (position - left).float()

    def forward(self, values: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        """Values (N, grid) at the observed pixels, (N, 7958)."""
        left, fraction = where
        low = values.gather(1, left)
        return low + fraction * (values.gather(1, left + 1) - low)
