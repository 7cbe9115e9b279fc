"""Operations on pixels that the graphs are made of: cleaning, joining arms, rest-frame bins and back."""

from __future__ import annotations

import torch
from torch import Tensor

from latenight.spectra import ARMS, MAX_FLUX, MAX_IVAR


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
    wave, shift = (ln_wave - grid[0]) * grid[1], torch.log(1 + z.double())[:, None] * grid[1]
    # In whole points and the rest, whose difference float32 knows well enough (of numbers up to 3e4 it is .002 off).
    whole = wave.floor().float() - shift.floor().float()
    rest = (wave - wave.floor()).float() - (shift - shift.floor()).float()
    return torch.minimum((whole + rest.round()).clamp(min=0.0), grid[2].float()).long()


def profile_at(profiles: Tensor, which: int, at: Tensor) -> Tensor:
    """One of the profiles (k, points) at points (N, pixels), (N, pixels).

    GatherElements of one long row: Gather, which copies with a call per number, takes ten times as long.
    """
    row = profiles[which : which + 1]
    return row.gather(1, at.reshape(1, -1)).reshape(-1, int(at.shape[1]))
