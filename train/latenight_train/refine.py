"""The exact refinement: the linear modes of a spectrum's group, solved per spectrum inside the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latenight.spectra import WAVE
from latenight_train.modes import N_MODES
from latenight_train.pixels import clean, first_arm, norm_of

OUTLIER = 5.0  # sigma; pixels beyond weigh as much as this, so that a spike does not bend the model


class Refinement(nn.Module):
    """Fits the modes of one group to spectra: their weights are inputs, the graph is the same for all groups."""

    ln_wave: Tensor
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ln_wave", torch.log(torch.from_numpy(WAVE)))
        self.register_buffer("unit", torch.eye(N_MODES))

    def forward(
        self, flux: Tensor, ivar: Tensor, z: Tensor, columns: Tensor, grid: Tensor, precision: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fit a batch of spectra of one group.

        Args:
            flux: (N, 7958).
            ivar: (N, 7958), 0 in bad pixels.
            z: (N,).
            columns: (bins, N_MODES + 2) modes, mean spectrum and variance on the rest-frame grid.
            grid: (3,) float64: ln(wavelength) of the first bin, bins per unit of it, number of the last but one bin.
            precision: (N_MODES, N_MODES) inverse prior covariance of the coefficients.

        Returns:
            mean and variance (N, 7781) of the reconstruction, coefficients (N, N_MODES).
        """
        flux, ivar = clean(flux, ivar)
        norm = norm_of(flux, ivar)
        y, w = flux / norm, ivar * norm * norm
        at = self.at_pixels(columns, z, grid)  # (N, 7958, N_MODES + 2)
        modes, typical, s2 = at[:, :, :N_MODES], at[:, :, N_MODES], at[:, :, N_MODES + 1]
        y = y - typical
        weight = torch.where(w > 0, 1 / (1 / torch.where(w > 0, w, torch.ones(())) + s2), torch.zeros(()))
        coefficients = self.solve(modes, weight, y, precision)  # (N, K, 1)
        residual = y - (modes @ coefficients)[:, :, 0]
        weight = weight * (OUTLIER / (residual.abs() * weight.sqrt()).clamp(min=OUTLIER))
        # The second solve is for the change: its right-hand side is made of residuals, so what float32 lost in
        # the first (up to 2 % in weakly constrained directions of bright spectra) is made good.
        pull = precision @ coefficients
        coefficients = coefficients + self.solve(modes, weight, residual, precision, pull)
        mean = typical + (modes @ coefficients)[:, :, 0]
        return first_arm(mean) * norm, first_arm(s2) * norm * norm, coefficients[:, :, 0]

    def at_pixels(self, columns: Tensor, z: Tensor, grid: Tensor) -> Tensor:
        """The columns at the observed pixels, (N, 7958, N_MODES + 2), linearly interpolated."""
        position = (self.ln_wave - torch.log(1 + z.double())[:, None] - grid[0]) * grid[1]
        position = torch.minimum(position.clamp(min=0.0), grid[2])
        left = position.floor()
        fraction = (position - left).float()[:, :, None]
        index = left.long()
        low = nn.functional.embedding(index, columns)
        return low + fraction * (nn.functional.embedding(index + 1, columns) - low)

    def solve(
        self, modes: Tensor, weight: Tensor, y: Tensor, precision: Tensor, pull: Tensor | None = None
    ) -> Tensor:
        """Coefficients (N, N_MODES, 1) of (M'WM + P) c = M'Wy - pull, by Gauss-Jordan.

        ONNX has no solver. Without pivoting: the matrix is positive definite.
        """
        weighted = (modes * weight[:, :, None]).transpose(1, 2)  # (N, K, 7958)
        right = weighted @ y[:, :, None]
        right = right if pull is None else right - pull
        system = torch.cat([weighted @ modes + precision, right], dim=2)  # (N, K, K + 1)
        for k in range(N_MODES):
            pivot = system[:, k : k + 1] / system[:, k : k + 1, k : k + 1]
            system = system - (system[:, :, k : k + 1] - self.unit[:, k : k + 1]) * pivot
        return system[:, :, N_MODES:]
