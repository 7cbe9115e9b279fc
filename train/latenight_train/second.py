"""The second solve: what the modes and errors of calibration cannot explain, and how far they could have.

A spectrum is its group's modes B, as in pass 1, and modes O of an imperfect calibration of this one object: gains
of arms and smooth gains (times the reconstruction), a shift in wavelength, a smooth error of the sky. With
M = [B, O], weights W = 1 / (1/ivar + variance + line errors) and priors P,

    residual r = y - M c,  c = (M'WM + P)^-1 M'Wy,

a pattern T has the significance t = T'Wr / sqrt(T'WT - T'WM (M'WM + P)^-1 M'WT): normal where the model holds, also
for patterns that M can imitate (generalised least squares).

All products with M are taken on blocks of 8 pixels: the (N, pixels, 50) matrix W M is never made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import PIXEL
from latenight_train.blocks import (
    ARM_OF_BLOCK,
    BLOCK,
    BLOCK_WAVE,
    N_BLOCKS,
    PER_ARM,
    STACKED_WAVE,
    block_sums,
    by_arm,
    spread,
    stacked,
    taken,
)
from latenight_train.modes import N_MODES, QUIET
from latenight_train.pixels import clean, nearest, to_arms

OUTLIER = 5.0  # sigma; pixels beyond weigh as much as this in the solve
STEPS = 2  # of the solve, each for the change: what float32 lost in the first is made good
# Widths of the priors: gain of an arm, smooth gain and tilt, shift in ln(wavelength), sky in units of its sigma.
ARM_GAIN, SMOOTH_GAIN, SHIFT, SKY = 0.008, 0.01, 1.5e-4, 0.05
N_GAINS, N_SKIES = 10, 7
SIZE = N_MODES + N_GAINS + 1 + N_SKIES
LINE_BLOCKS = 15  # 96 A: the dark sky, or the continuum, around a line
# No linear model knows every line to the end: what it misses grows with the line. As a part of the line's strength;
# recall at 1 % false alerts on a simulated night with 0, .08, .15 and .3: .348, .362, .378 and .364.
LINE_ERROR = 0.15

# What a pattern is made of, and with it the weights of block sums: 1 in sigma, W times model, sky, slope of the
# model, sky lines, and 1.
WHITE, MODEL, SKY_SIGMA, SLOPE, SKY_LINES, PLAIN = range(6)
N_INGREDIENTS = 6


def gains() -> Tensor:
    """Shapes of gains, (1083, 10), times the widths of their priors: arms, three waves, tilt."""
    x = (BLOCK_WAVE - 3600.0) / 6224.0
    arms = [np.where(k == ARM_OF_BLOCK, ARM_GAIN, 0.0) for k in range(3)]
    waves = [SMOOTH_GAIN * f(np.pi * k * x) for f in (np.cos, np.sin) for k in (1, 2, 3)]
    tilt = SMOOTH_GAIN * (BLOCK_WAVE - 6500.0) / 3000.0
    return torch.from_numpy(np.stack([*arms, *waves, tilt], axis=1)).float()


def skies() -> Tensor:
    """Shapes of a smooth error of the sky, (1083, 7), times the width of their prior."""
    x = (BLOCK_WAVE - 3600.0) / 6224.0
    waves = [f(np.pi * k * x) for f in (np.cos, np.sin) for k in (1, 2, 3)]
    return SKY * torch.from_numpy(np.stack([np.ones(N_BLOCKS), *waves], axis=1)).float()


@dataclass(frozen=True)
class Solved:
    """The residual of n spectra, and what significances need.

    Attributes:
        x: (n, 8664) residual in sigma. good: (n, 8664) 1 in good pixels. quiet: (n, 8664) 1 away from restless lines.
        products: (n, 1083, 6) block sums of residual times ingredient times W (ingredient 0: x).
        squares: (n, 1083, 6) block sums of ingredient^2 times W (ingredient 0: number of good pixels).
        projections: (n, 1083, 6, 50) block sums of M times ingredient times W (ingredient 0: M sqrt(W)).
        whitener: (n, 50, 50) R with R'R = (M'WM + P)^-1.
        change: (n, 50) coefficients of the solve, those of calibration in units of their priors.
    """

    x: Tensor
    good: Tensor
    quiet: Tensor
    products: Tensor
    squares: Tensor
    projections: Tensor
    whitener: Tensor
    change: Tensor

    def significance(self, ingredient: int, shapes: Tensor) -> Tensor:
        """The t of patterns shapes (n, T, 1083) times an ingredient, (n, T); NaN where a pattern has no light."""
        above = (shapes @ self.products[:, :, ingredient, None])[:, :, 0]
        explained = shapes @ self.projections[:, :, ingredient] @ self.whitener.transpose(1, 2)
        total = (shapes.square() @ self.squares[:, :, ingredient, None])[:, :, 0]
        # At least 3 %: the difference of two float32 numbers knows 1e-7 of them, and t shall be good to 1e-5.
        left = torch.maximum(total - explained.square().sum(2), 0.03 * total)
        return torch.where(total > 1e-9, above / left.clamp(min=1e-12).sqrt(), torch.full((), torch.nan))


class SecondSolve(nn.Module):
    """Fits modes and calibration modes to what pass 1 and the petal step left."""

    ln_wave: Tensor
    gains: Tensor
    skies: Tensor
    unit: Tensor
    own_prior: Tensor
    per_ln_wave: Tensor

    def __init__(self) -> None:
        super().__init__()
        wave = STACKED_WAVE.reshape(-1)
        self.register_buffer("ln_wave", torch.log(torch.from_numpy(wave)))
        self.register_buffer("per_ln_wave", torch.from_numpy(wave / (2 * PIXEL)).float())
        self.register_buffer("gains", gains())
        self.register_buffer("skies", skies())
        self.register_buffer("unit", torch.eye(SIZE))
        self.register_buffer("own_prior", torch.diag((torch.arange(SIZE) >= N_MODES).float()))
        self.below_columns = torch.split(torch.tril(torch.ones(SIZE, SIZE), -1), 1, dim=1)

    def forward(
        self,
        flux: Tensor,
        ivar: Tensor,
        z: Tensor,
        mean: Tensor,
        variance: Tensor,
        sky: Tensor,
        norm: Tensor,
        coefficients: Tensor,
        modes: Tensor,
        profiles: Tensor,
        grid: Tensor,
        precision: Tensor,
    ) -> Solved:
        """Solve for a batch of spectra of one group.

        Args:
            flux: (N, 7958) after the petal step.
            ivar: (N, 7958) after the petal step.
            z: (N,).
            mean: (N, 7781) reconstruction of pass 1.
            variance: (N, 7781) of the reconstruction.
            sky: (N, 7958) sigma of the sky.
            norm: (N,) of pass 1.
            coefficients: (N, N_MODES) of pass 1.
            modes: of the group, as for Refinement; so are profiles, grid and precision.
            profiles: (3, points).
            grid: (3,).
            precision: (N_MODES, N_MODES).
        """
        flux, ivar = clean(flux, ivar)
        norm = norm[:, None]
        scaled_ivar = stacked(ivar * norm * norm)
        good = (scaled_ivar > 0).to(flux.dtype)
        model, sky = stacked(to_arms(mean) / norm), stacked(sky / norm)
        y = good * (stacked(flux / norm) - model)
        s2 = stacked(to_arms(variance) / (norm * norm))
        s2 = s2 + (LINE_ERROR * (model - self.surroundings(model))).square()
        weight = good / (1 / torch.where(scaled_ivar > 0, scaled_ivar, torch.ones(())) + s2)
        root = weight.sqrt()
        robust = weight * (OUTLIER / (y.abs() * root).clamp(min=OUTLIER))
        slope, lines = self.slope(model), self.line_excess(sky)
        at = nearest(self.ln_wave, z, grid)
        modes, quiet = functional.embedding(at, modes), profiles[QUIET][at]
        sums = self.block_products(robust, (model, sky, slope, lines), modes)
        projections = self.project(sums)
        weighted = (modes * robust[:, :, None]).transpose(1, 2)
        unscaled = self.system(weighted @ modes + precision, projections)
        whitener = self.whitener_of(unscaled)
        residual, change = y, torch.zeros_like(unscaled[:, :, :1])
        for _ in range(STEPS):
            pull = self.pull(robust * residual, modes, (model, sky, slope))
            right = pull - self.prior_pull(precision, coefficients, change)
            change = change + whitener.transpose(1, 2) @ (whitener @ right)  # (N, 50, 1)
            residual = y - self.explained(change, modes, model, slope, sky)
        x = root * good * residual
        ingredients = (model, sky, slope, lines)
        limited = x.clamp(-30, 30)
        products = [limited, *(root * limited * q for q in ingredients), root * limited]
        squares = [good, *(weight * q * q for q in ingredients), weight]
        return Solved(
            x=x,
            good=good,
            quiet=good * (quiet > 0.5).to(good.dtype),
            products=torch.stack([block_sums(v) for v in products], dim=2),
            squares=torch.stack([block_sums(v) for v in squares], dim=2),
            projections=projections,
            whitener=whitener,
            change=change[:, :, 0],
        )

    def slope(self, model: Tensor) -> Tensor:
        """The derivative of the model by ln(wavelength), (N, 8664); 0 at the ends of the arms."""
        m = model.reshape(-1, 3, PER_ARM * BLOCK)
        inner = functional.pad(m[:, :, 2:] - m[:, :, :-2], (1, 1))
        return inner.reshape(-1, N_BLOCKS * BLOCK) * self.per_ln_wave

    def surroundings(self, values: Tensor) -> Tensor:
        """Running mean of LINE_BLOCKS blocks, (N, 8664)."""
        means = by_arm(block_sums(values)) / BLOCK
        around = functional.avg_pool1d(means, LINE_BLOCKS, 1, LINE_BLOCKS // 2, count_include_pad=False)
        return spread(around.reshape(-1, N_BLOCKS))

    def line_excess(self, sky: Tensor) -> Tensor:
        """By how much the sky's lines stand out, (N, 8664), in the unit of sky."""
        around = self.surroundings(sky).clamp(min=1e-9)
        excess = sky * sky / around - around
        # Where there are no lines, rounding leaves 1e-7 of the sky, which is no pattern.
        return torch.where(excess > 0.01 * around, excess, torch.zeros(()))

    def block_products(self, w: Tensor, ingredients: tuple[Tensor, ...], modes: Tensor) -> Tensor:
        """Block sums (N, 1083, 6, 35) of modes, model, sky and slope under the six weights."""
        model, sky, slope, _ = ingredients
        what = torch.cat([modes, torch.stack([model, sky, slope], dim=2)], dim=2)
        by = torch.stack([w.sqrt(), *(w * q for q in ingredients), w], dim=1)
        by = by.reshape(-1, N_INGREDIENTS, N_BLOCKS, BLOCK).transpose(1, 2)
        return by @ what.reshape(-1, N_BLOCKS, BLOCK, N_MODES + 3)

    def project(self, sums: Tensor) -> Tensor:
        """Block sums of what M is made of -> of its columns, (N, 1083, 6, 50)."""
        model, sky, slope = (sums[..., N_MODES + k : N_MODES + k + 1] for k in range(3))
        return torch.cat(
            [sums[..., :N_MODES], model * self.gains[:, None], slope * SHIFT, sky * self.skies[:, None]], 3
        )

    def own(self, sums: Tensor) -> Tensor:
        """Sums over calibration modes: (N, 1083, 6, q) -> O'W times the q things, (N, 18, q)."""
        shift = SHIFT * sums[:, :, SLOPE].sum(1, keepdim=True)
        return torch.cat(
            [self.gains.T @ sums[:, :, MODEL], shift, self.skies.T @ sums[:, :, SKY_SIGMA]], dim=1
        )

    def pull(self, residual: Tensor, modes: Tensor, ingredients: tuple[Tensor, ...]) -> Tensor:
        """M'W residual, (N, 50, 1), of a residual that is weighted already."""
        model, sky, slope = (block_sums(residual * q)[:, :, None] for q in ingredients)
        own = (self.gains.T @ model, SHIFT * slope.sum(1, keepdim=True), self.skies.T @ sky)
        return torch.cat([modes.transpose(1, 2) @ residual[:, :, None], *own], dim=1)

    def prior_pull(self, precision: Tensor, coefficients: Tensor, change: Tensor) -> Tensor:
        """P times all coefficients, (N, 50, 1)."""
        b, own = torch.split(change, [N_MODES, SIZE - N_MODES], dim=1)
        return torch.cat([precision @ (coefficients[:, :, None] + b), own], dim=1)

    def system(self, modes_part: Tensor, projections: Tensor) -> Tensor:
        """M'WM + P, (N, 50, 50)."""
        lower = self.own(projections)  # (N, 18, 50)
        upper = torch.cat([modes_part, lower[:, :, :N_MODES].transpose(1, 2)], dim=2)
        return torch.cat([upper, lower], dim=1) + self.own_prior

    def whitener_of(self, system: Tensor) -> Tensor:
        """R with R'R = system^-1, (N, 50, 50), by Gaussian elimination.

        ONNX has no solver. Without pivoting: the matrix is positive definite; its diagonal is scaled to 1 first.
        """
        scale = torch.diagonal(system, dim1=1, dim2=2).rsqrt()
        scaled = system * scale[:, :, None] * scale[:, None, :]
        work = torch.cat([scaled, torch.zeros_like(system) + self.unit], dim=2)
        for k in range(SIZE - 1):
            at = np.array([k])
            row = taken(work, 1, at)
            factor = taken(work, 2, at) * self.below_columns[k]
            work = work - factor * (row / taken(row, 2, at))
        upper, whitener = torch.split(work, SIZE, dim=2)
        pivots = torch.diagonal(upper, dim1=1, dim2=2).clamp(min=1e-7).rsqrt()
        return whitener * pivots[:, :, None] * scale[:, None, :]

    def explained(self, change: Tensor, modes: Tensor, model: Tensor, slope: Tensor, sky: Tensor) -> Tensor:
        """What the solve takes away, (N, 8664)."""
        b, g, d, h = torch.split(change, [N_MODES, N_GAINS, 1, N_SKIES], dim=1)
        gain, offset = spread((self.gains @ g)[:, :, 0]), spread((self.skies @ h)[:, :, 0])
        return (modes @ b)[:, :, 0] + gain * model + SHIFT * d[:, :, 0] * slope + offset * sky
