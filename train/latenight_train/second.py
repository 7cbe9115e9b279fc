"""The second solve: what the modes and errors of calibration cannot explain, and how far they could have.

A spectrum is its group's modes B, as in pass 1, and modes O of an imperfect calibration of this one object
(miscalibration.py): gains of arms and smooth gains (times the reconstruction), a shift in wavelength, errors of the
sky. With
M = [B, O], weights W = 1 / (1/ivar + variance + line errors) and priors P,

    residual r = y - M c,  c = (M'WM + P)^-1 M'Wy,

a pattern T has the significance t = T'Wr / sqrt(T'WT - T'WM (M'WM + P)^-1 M'WT): normal where the model holds, also
for patterns that M can imitate (generalised least squares).

All products with M are taken on blocks of 16 pixels. One array of (N, pixels, 32) is made, E = sqrt(W) B: every
pass over it costs .1 ms a spectrum, and what comes later needs no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import ARMS, PIXEL
from latenight_train.blocks import (
    BLOCK,
    INSIDE,
    N_BLOCKS,
    N_STACKED,
    OF_ARM,
    STACKED_WAVE,
    WHERE_BLOCK,
    around,
    block_sums,
    by_arm,
    part,
    pixels_by_arm,
    spread,
    stacked,
    taken,
)
from latenight_train.miscalibration import gains, shifts, skies, sky_bands
from latenight_train.modes import N_MODES, QUIET
from latenight_train.pixels import nearest, profile_at
from latenight_train.whitener import Whitener

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTLIER = 5.0  # sigma; pixels beyond weigh as much as this in the solve
STEPS = 2  # of the solve, each for the change: what float32 lost in the first is made good
LINE_BLOCKS = 7  # 90 A: the dark sky, or the continuum, around a line
# No linear model knows every line to the end: what it misses grows with the line. As a part of the line's strength;
# recall at 1 % false alerts on a simulated night with 0, .08, .15 and .3: .348, .362, .378 and .364.
LINE_ERROR = 0.15

LEFT = 0.03  # of a pattern's square, so that t is good to 1e-5
# What a pattern is made of: 1 in sigma, and model, sky, slope of the model, sky lines, 1, light of the fibre beside.
WHITE, MODEL, SKY_SIGMA, SLOPE, SKY_LINES, PLAIN, NEIGHBOUR = range(7)
# Those that calibration modes are made of, in this order.
OWN = {MODEL: gains, SKY_SIGMA: skies, SLOPE: shifts, SKY_LINES: sky_bands}
SIZE = N_MODES + sum(shapes().shape[1] for shapes in OWN.values())


@dataclass(frozen=True)
class Solved:
    """The residual of n spectra, and what significances need.

    Attributes:
        x: (n, 3, 2944) residual in sigma, the arms side by side, and so are the next two.
        good: 1 in good pixels.
        quiet: 1 in good pixels away from restless lines.
        products: (n, 7, 499) block sums of residual times ingredient times W (ingredient 0: x).
        squares: (n, 7, 499) block sums of ingredient^2 times W (ingredient 0: number of good pixels).
        projections: for each ingredient the block sums of M times ingredient times W (0: M sqrt(W)): of the modes
            (n, 499, 32), and of those of calibration (n, 28, 499), which are made by rows.
        whitener: (n, 60, 60) R with R'R = (M'WM + P)^-1.
        change: (n, 60) coefficients of the solve, those of calibration in units of their priors.
    """

    x: Tensor
    good: Tensor
    quiet: Tensor
    products: Tensor
    squares: Tensor
    projections: tuple[tuple[Tensor, Tensor], ...]
    whitener: Tensor
    change: Tensor

    def significance(self, ingredient: int, shapes: Tensor, least: float = LEFT) -> Tensor:
        """The t of patterns shapes (n, T, 499) times an ingredient, (n, T); NaN where a pattern has no light.

        At least a part of a pattern counts as left by the modes: the difference of two float32 numbers knows 1e-7.
        """
        above, total = (
            (shape @ sums[:, ingredient, :, None]).flatten(1)
            for shape, sums in ((shapes, self.products), (shapes.square(), self.squares))
        )
        modes, own = self.projections[ingredient]
        columns = torch.cat([shapes @ modes, shapes @ own.transpose(1, 2)], dim=2)  # (n, T, 60)
        explained = columns @ self.whitener.transpose(1, 2)
        left = torch.maximum(total - explained.square().sum(2), least * total)
        return torch.where(total > 1e-9, above / left.clamp(min=1e-12).sqrt(), torch.full((), torch.nan))

    def explained_blocks(self) -> Tensor:
        """What M can imitate of 1 in sigma in each block, (n, 499, 60): the square of sums over blocks is explained."""
        modes, own = self.projections[WHITE]
        of_modes, of_own = torch.split(self.whitener, [N_MODES, SIZE - N_MODES], dim=2)
        return modes @ of_modes.transpose(1, 2) + own.transpose(1, 2) @ of_own.transpose(1, 2)


class SecondSolve(nn.Module):
    """Fits modes and calibration modes to what pass 1 and the petal step left."""

    inside: Tensor
    covered: Tensor
    ln_wave: Tensor
    own_prior: Tensor
    own_shapes: Tensor
    acting: Tensor
    per_ln_wave: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inside", torch.from_numpy(INSIDE))
        self.register_buffer("ln_wave", torch.log(torch.from_numpy(STACKED_WAVE)))
        self.register_buffer("per_ln_wave", torch.from_numpy(per_ln_wave()).float())
        shapes = [torch.from_numpy(shapes().T).float() for shapes in OWN.values()]
        self.sizes = [len(some) for some in shapes]
        # (28, 499) shapes of all calibration modes; (28, 4 * 499) on the ingredient that each acts on, 0 on others.
        self.register_buffer("own_shapes", torch.cat(shapes))
        self.register_buffer("acting", torch.block_diag(*shapes))  # type: ignore[no-untyped-call]
        self.acts_on = np.repeat(np.arange(len(OWN)), self.sizes)
        covered = around(by_arm(block_sums(self.inside[None])), LINE_BLOCKS)
        self.register_buffer("covered", covered.clamp(min=1 / LINE_BLOCKS))
        self.register_buffer("own_prior", torch.diag((torch.arange(SIZE) >= N_MODES).float()))
        self.whitener = Whitener(SIZE)

    def forward(
        self,
        flux: Tensor,
        ivar: Tensor,
        z: Tensor,
        mean: Tensor,
        variance: Tensor,
        sky: Tensor,
        beside: Tensor,
        norm: Tensor,
        coefficients: Tensor,
        modes: Tensor,
        profiles: Tensor,
        grid: Tensor,
        centres: Tensor,
        expected: Tensor,
        precisions: Tensor,
    ) -> Solved:
        """Solve for a batch of spectra of one group.

        Args:
            flux: (N, 7958) after the petal step, finite also in bad pixels.
            ivar: (N, 7958) after the petal step, 0 in bad pixels.
            z: (N,).
            mean: (N, 7958) reconstruction of pass 1.
            variance: (N, 7958) of the reconstruction.
            sky: (N, 7958) sigma of the sky.
            beside: (N, 7958) light of a brighter neighbour on the detector, 0 without one.
            norm: (N,) of pass 1.
            coefficients: (N, N_MODES) of pass 1.
            modes: of the group, as for Refinement; so are profiles and grid.
            profiles: (3, points).
            grid: (3,).
            centres: (N_MODES + 1, R) and the next two: where ordinary coefficients lie, as in latenight.modes.REGIONS.
            expected: (R, N_MODES).
            precisions: (R, N_MODES * N_MODES).
        """
        norm = norm[:, None]
        scaled_ivar = stacked(ivar * norm * norm) * self.inside
        good = (scaled_ivar > 0).to(flux.dtype)
        model, sky = stacked(mean / norm), stacked(sky / norm) * self.inside
        y = good * (stacked(flux / norm) - model)
        s2 = stacked(variance / (norm * norm))
        s2 = s2 + (LINE_ERROR * (model - self.surroundings(model * self.inside))).square()
        weight = scaled_ivar / (1 + scaled_ivar * s2)
        root = weight.sqrt()
        # Outliers weigh less in the solve, by this factor of their root, and as much as others in its residual.
        less = (y.abs() * (root / OUTLIER)).clamp(min=1.0).sqrt()
        root = root / less
        # The ingredients in the order of their names, the first left out, times sqrt(W).
        lights = (model, sky, self.slope(model), self.line_excess(sky))
        patterns = [*(light * root for light in lights), root, stacked(beside / norm) * root]
        rows = torch.stack(patterns, dim=1)  # (N, 6, 7984)
        own = part(rows, 1, 0, len(OWN))
        at = nearest(self.ln_wave, z, grid)
        weighted = functional.embedding(at, modes) * root[:, :, None]
        before = y * root
        of_modes = block_products([good, *patterns, before], weighted)
        projections = tuple(zip(of_modes[:-1], self.of_own(own, patterns), strict=True))
        region = (
            coefficients @ part(centres, 0, 0, N_MODES) + part(centres, 0, N_MODES, N_MODES + 1)
        ).argmax(1)
        precision = functional.embedding(region, precisions).reshape(-1, N_MODES, N_MODES)
        off = coefficients - functional.embedding(region, expected)
        system = self.system(weighted.transpose(1, 2) @ weighted + precision, projections)
        whitener = self.whitener(system)
        residual, change = before, torch.zeros_like(system[:, :, :1])
        pulled = of_modes[-1].sum(1)[:, :, None]
        for step in range(STEPS):
            if step > 0:
                pulled = weighted.transpose(1, 2) @ residual[:, :, None]
            right = self.pull(residual, pulled, own) - self.prior_pull(precision, off, change)
            change = change + whitener.transpose(1, 2) @ (whitener @ right)  # (N, 60, 1)
            residual = before - self.explained(change, weighted, own)
        x = residual * less
        clipped, rows = x.clamp(-30, 30), rows * less[:, None]
        quiet = (profile_at(profiles, QUIET, at) > 0.5).to(good.dtype)
        return Solved(
            x=pixels_by_arm(x),
            good=pixels_by_arm(good),
            quiet=pixels_by_arm(good * quiet),
            products=torch.cat([block_sums(v) for v in (clipped[:, None], rows * clipped[:, None])], dim=1),
            squares=torch.cat([block_sums(v) for v in (good[:, None], rows.square())], dim=1),
            projections=projections,
            whitener=whitener,
            change=change.flatten(1),
        )

    def slope(self, model: Tensor) -> Tensor:
        """The derivative of the model by ln(wavelength), (N, 7984); 0 at the ends of arms."""
        n = N_STACKED
        return functional.pad(part(model, 1, 2, n) - part(model, 1, 0, n - 2), (1, 1)) * self.per_ln_wave

    def surroundings(self, values: Tensor) -> Tensor:
        """Running mean of LINE_BLOCKS blocks of an arm, (N, 7984), of values that are 0 beyond its end."""
        means = (around(by_arm(block_sums(values)), LINE_BLOCKS) / self.covered).flatten(1)
        return spread(taken(means, 1, WHERE_BLOCK))

    def line_excess(self, sky: Tensor) -> Tensor:
        """By how much the sky's lines stand out, (N, 7984), in the unit of sky."""
        dark = self.surroundings(sky).clamp(min=1e-9)
        excess = sky * sky / dark - dark
        # Where there are no lines, rounding leaves 1e-7 of the sky, which is no pattern.
        return torch.where(excess > 0.01 * dark, excess, torch.zeros(()))

    def of_own(self, own: Tensor, patterns: list[Tensor]) -> list[Tensor]:
        """For each ingredient the block sums of its products with the calibration modes, (N, 28, 499).

        Args:
            own: (N, 4, 7984) what calibration modes are made of, times sqrt(W); 0 in bad pixels.
            patterns: the ingredients but the first, (N, 7984) each, times sqrt(W).
        """
        sums = [block_sums(own), *(block_sums(own * pattern[:, None]) for pattern in patterns)]
        # By rows: to scale rows of 499 numbers takes 1 us where columns of 10 take 7.
        return [taken(some, 1, self.acts_on) * self.own_shapes for some in sums]

    def pull(self, residual: Tensor, pulled: Tensor, own: Tensor) -> Tensor:
        """M'W residual, (N, 60, 1), of a residual (N, 7984) that is times sqrt(W) as M is; the modes' part is given."""
        sums = block_sums(own * residual[:, None]).flatten(1)
        return torch.cat([pulled, (sums @ self.acting.T)[:, :, None]], dim=1)

    def prior_pull(self, precision: Tensor, off: Tensor, change: Tensor) -> Tensor:
        """P times how far all coefficients are off their expectation, (N, 60, 1)."""
        b, own = torch.split(change, [N_MODES, SIZE - N_MODES], dim=1)
        return torch.cat([precision @ (off[:, :, None] + b), own], dim=1)

    def system(self, modes_part: Tensor, projections: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
        """M'WM + P, (N, 60, 60)."""
        shapes = torch.split(self.own_shapes, self.sizes)
        mine = [projections[k] for k in OWN]
        across = torch.cat([some @ modes for some, (modes, _) in zip(shapes, mine, strict=True)], dim=1)
        within = [some @ own.transpose(1, 2) for some, (_, own) in zip(shapes, mine, strict=True)]
        upper = torch.cat([modes_part, across.transpose(1, 2)], dim=2)
        lower = torch.cat([across, torch.cat(within, dim=1)], dim=2)  # (N, 28, 60)
        return torch.cat([upper, lower], dim=1) + self.own_prior

    def explained(self, change: Tensor, weighted: Tensor, own: Tensor) -> Tensor:
        """What the solve takes away, (N, 7984), times sqrt(W)."""
        of_modes, of_own = torch.split(change, [N_MODES, SIZE - N_MODES], dim=1)
        factors = spread((of_own.flatten(1) @ self.acting).reshape(-1, len(OWN), N_BLOCKS))
        return (weighted @ of_modes).flatten(1) + (own * factors).sum(1)


def block_products(rows: list[Tensor], columns: Tensor) -> tuple[Tensor, ...]:
    """Of each of rows (N, 7984) the sums over blocks of its product with each of columns (N, 7984, k), (N, 499, k)."""
    # Stacked block by block: to transpose afterwards takes 50 us.
    left = torch.stack([row.reshape(-1, N_BLOCKS, BLOCK) for row in rows], dim=2)
    return (left @ columns.reshape(-1, N_BLOCKS, BLOCK, N_MODES)).unbind(2)


def per_ln_wave() -> NDArray[np.float64]:
    """What makes a slope by ln(wavelength) of the difference of both neighbours, (7984,); 0 at the ends of arms."""
    between = [
        np.pad(np.ones(arm.n - 2), (1, n * BLOCK - arm.n + 1)) for arm, n in zip(ARMS, OF_ARM, strict=True)
    ]
    return np.asarray(np.concatenate(between) * STACKED_WAVE / (2 * PIXEL))
