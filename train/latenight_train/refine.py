"""The exact refinement: the linear modes of a spectrum's group, solved per spectrum inside the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import WAVE
from latenight_train.blocks import taken
from latenight_train.modes import N_MODES, TYPICAL, VARIANCE
from latenight_train.pixels import clean, first_arm, nearest, norm_of

STEPS = 3
OUTLIER = 5.0  # sigma; pixels beyond weigh as much as this, so that a spike does not bend the model


class Refinement(nn.Module):
    """Fits the modes of one group to spectra: their weights are inputs, the graph is the same for all groups."""

    ln_wave: Tensor
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ln_wave", torch.log(torch.from_numpy(WAVE)))
        self.register_buffer("unit", torch.eye(N_MODES))
        self.units = torch.split(torch.eye(N_MODES), 1, dim=1)

    def forward(
        self,
        flux: Tensor,
        ivar: Tensor,
        z: Tensor,
        modes: Tensor,
        profiles: Tensor,
        grid: Tensor,
        precision: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fit a batch of spectra of one group.

        Args:
            flux: (N, 7958).
            ivar: (N, 7958), 0 in bad pixels.
            z: (N,).
            modes: (points, N_MODES) on the rest-frame grid.
            profiles: (3, points) mean spectrum, variance, and 1 in quiet bins.
            grid: (3,) float64: ln(wavelength) of the first point, points per unit of it, number of the last.
            precision: (N_MODES, N_MODES) inverse prior covariance of the coefficients.

        Returns:
            mean and variance (N, 7781) of the reconstruction, coefficients (N, N_MODES), norm (N,).
        """
        flux, ivar = clean(flux, ivar)
        norm = norm_of(flux, ivar)
        y, w = flux / norm, ivar * norm * norm
        at = nearest(self.ln_wave, z, grid)
        typical, s2 = profiles[TYPICAL][at], profiles[VARIANCE][at]
        modes = functional.embedding(at, modes)  # (N, 7958, N_MODES)
        y = y - typical
        weight = torch.where(w > 0, 1 / (1 / torch.where(w > 0, w, torch.ones(())) + s2), torch.zeros(()))
        inverse = self.inverse(modes, weight, precision)
        coefficients = inverse @ self.pull(modes, weight, y)  # (N, K, 1)
        residual = y - (modes @ coefficients)[:, :, 0]
        weight = weight * (OUTLIER / (residual.abs() * weight.sqrt()).clamp(min=OUTLIER))
        inverse = self.inverse(modes, weight, precision)
        # Each step solves for the change, from the residual: what float32 lost in the steps before (2 % in weakly
        # constrained directions of bright spectra) is made good. With one step scores depend on the place in the
        # batch to 3e-4, with STEPS to the last bits of the residual.
        for _ in range(STEPS):
            right = self.pull(modes, weight, residual) - precision @ coefficients
            coefficients = coefficients + inverse @ right
            residual = y - (modes @ coefficients)[:, :, 0]
        mean = typical + (modes @ coefficients)[:, :, 0]
        return first_arm(mean) * norm, first_arm(s2) * norm * norm, coefficients[:, :, 0], norm[:, 0]

    @staticmethod
    def pull(modes: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        """M'Wy, (N, N_MODES, 1)."""
        return modes.transpose(1, 2) @ (weight * y)[:, :, None]

    def inverse(self, modes: Tensor, weight: Tensor, precision: Tensor) -> Tensor:
        """(M'WM + P)^-1, (N, N_MODES, N_MODES), by Gauss-Jordan.

        ONNX has no solver. Without pivoting: the matrix is positive definite.
        """
        normal = modes.transpose(1, 2) @ (modes * weight[:, :, None]) + precision
        # Unit diagonal: rounding then is relative to each mode's own weight.
        scale = torch.diagonal(normal, dim1=1, dim2=2).rsqrt()
        scale = scale[:, :, None] * scale[:, None, :]
        system = torch.cat([normal * scale, torch.zeros_like(normal) + self.unit], dim=2)  # (N, K, 2 K)
        for k in range(N_MODES):
            at = np.array([k])
            row = taken(system, 1, at)
            pivot = row / taken(row, 2, at)
            system = system - (taken(system, 2, at) - self.units[k]) * pivot
        _, inverse = torch.split(system, N_MODES, dim=2)
        return inverse * scale
