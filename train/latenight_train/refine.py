"""The exact refinement: the linear modes of a spectrum's group, solved per spectrum inside the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import WAVE
from latenight_train.blocks import taken
from latenight_train.modes import N_MODES, TYPICAL, VARIANCE
from latenight_train.pixels import nearest, norm_of, profile_at

STEPS = 2
UNSEEN = 1e-20  # weight of a bad pixel: nothing, and yet what the fit says there can be read off
OUTLIER = 5.0  # sigma; pixels beyond weigh as much as this, so that a spike does not bend the model


class Refinement(nn.Module):
    """Fits the modes of one group to spectra: their weights are inputs, the graph is the same for all groups."""

    ln_wave: Tensor
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ln_wave", torch.log(torch.from_numpy(WAVE)))
        self.register_buffer("unit", torch.eye(N_MODES))
        self.units = torch.split(torch.eye(N_MODES), 1)

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
            flux: (N, 7958), finite also in bad pixels.
            ivar: (N, 7958), 0 in bad pixels.
            z: (N,).
            modes: (points, N_MODES) on the rest-frame grid.
            profiles: (3, points) mean spectrum, variance, and 1 in quiet bins.
            grid: (3,) float64: ln(wavelength) of the first point, points per unit of it, number of the last.
            precision: (N_MODES, N_MODES) inverse prior covariance of the coefficients.

        Returns:
            mean and variance (N, 7958) of the reconstruction, coefficients (N, N_MODES), norm (N,).
        """
        norm = norm_of(flux, ivar)
        at = nearest(self.ln_wave, z, grid)
        typical, s2 = (profile_at(profiles, which, at) for which in (TYPICAL, VARIANCE))
        root = (1 / (ivar * norm * norm).clamp(min=UNSEEN) + s2).rsqrt()
        # (N, 7958, N_MODES) in sigma, as all below: products need no other pass over them.
        modes = functional.embedding(at, modes) * root[:, :, None]
        y = (flux / norm - typical) * root
        inverse = self.inverse(modes, precision)
        coefficients = inverse @ self.pull(modes, y)  # (N, K, 1)
        fitted = self.product(modes, coefficients)
        robust = OUTLIER / (y - fitted).abs().clamp(min=OUTLIER)
        # Each step solves for the change, from the residual, by the inverse of the unweighted outliers: it takes less
        # of what is left the more outliers weighed. On 317 spectra, injected anomalies among them, 2 steps end within
        # 2e-3 sigma in the worst pixel of the worst (3 steps 1e-4), and what float32 lost in the steps before (2 % in
        # weakly constrained directions of bright spectra) is made good.
        for _ in range(STEPS):
            right = self.pull(modes, robust * (y - fitted)) - precision @ coefficients
            coefficients = coefficients + inverse @ right
            fitted = self.product(modes, coefficients)
        mean = typical + fitted / root
        return mean * norm, s2 * (norm * norm), coefficients.flatten(1), norm[:, 0]

    @staticmethod
    def pull(modes: Tensor, y: Tensor) -> Tensor:
        """M'y, (N, N_MODES, 1)."""
        return modes.transpose(1, 2) @ y[:, :, None]

    @staticmethod
    def product(modes: Tensor, coefficients: Tensor) -> Tensor:
        """M c, (N, 7958)."""
        return (modes @ coefficients).flatten(1)

    def inverse(self, modes: Tensor, precision: Tensor) -> Tensor:
        """(M'M + P)^-1, (N, N_MODES, N_MODES), by Gauss-Jordan.

        ONNX has no solver. Without pivoting: the matrix is positive definite. In place (the sweep operator): with
        v = row k - unit vector k and p the pivot, A - v'v / p holds in row and column k what the elimination of k
        makes of A and of the identity beside it; only its diagonal is 2 too large, and the sign is the other one.
        """
        normal = modes.transpose(1, 2) @ modes + precision
        # Unit diagonal: rounding then is relative to each mode's own weight.
        scale = (normal * self.unit).sum(2).rsqrt()
        scale = scale[:, :, None] * scale[:, None, :]
        system = normal * scale
        for k in range(N_MODES):
            at = np.array([k])
            row = taken(system, 1, at)
            away = row - self.units[k]
            system = system - away.reshape(-1, N_MODES, 1) * (away / taken(row, 2, at))
        return (2 * self.unit - system) * scale
