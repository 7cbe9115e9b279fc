"""The rest-frame variational autoencoder: layers, grids and the training loss.

The encoder sees the spectrum binned in rest-frame ln(wavelength) with its weights; the decoder gives mean and
variance on a rest-frame grid, from which the observed pixels are interpolated. In the rest frame lines stand
still, so a small network resolves them (reference study: recall .19 in the observed, .42 in the rest frame).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight.spectra import N_PIX, SPECTYPES, UNKNOWN

N_GROUPS = SPECTYPES.index(UNKNOWN)  # the classes with a redshift come first


@dataclass(frozen=True)
class LogGrid:
    """A grid of rest-frame wavelengths, equidistant in ln(wavelength).

    Attributes:
        wave_min: first wavelength [A].
        wave_max: the grid reaches at least this wavelength [A].
        step: distance of two points in ln(wavelength).
    """

    wave_min: float
    wave_max: float
    step: float

    @property
    def n(self) -> int:
        """Number of points."""
        return math.ceil(math.log(self.wave_max / self.wave_min) / self.step) + 1

    def edges(self) -> Tensor:
        """Edges of the n bins around the points, (n + 1,) float64 [A]."""
        k = torch.arange(self.n + 1, dtype=torch.float64) - 0.5
        return self.wave_min * torch.exp(k * self.step)


# 600-9930 A in the rest frame: all of 3600-9824 A for -0.01 < z < 5. Steps: the mean at 2e-4 (60 km/s, the
# resolution of the z arm); the encoder sums noise-limited pixels at 5e-4; the variance is smooth.
REST_RANGE = (600.0, 9930.0)
ENCODER_GRID = LogGrid(*REST_RANGE, 5e-4)
MEAN_GRID = LogGrid(*REST_RANGE, 2e-4)
VARIANCE_GRID = LogGrid(*REST_RANGE, 8e-4)
Z_RANGE = (-0.01, 4.98)
# Bounds of the log variance in units of norm^2: below, a bright spectrum's V would fall under the flux
# calibration error (0.3 %); above, a spectrum could explain itself away.
LOG_VARIANCE = (-12.0, 2.0)


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network; stored in checkpoint and manifest."""

    latent: int = 78  # 7781 / 78: the compression by 100 of the seed paper
    hidden: int = 512


class Encoder(nn.Module):
    """Binned flux and weight -> mean and log standard deviation of q(latent | spectrum)."""

    def __init__(self, size: Architecture) -> None:
        super().__init__()
        self.latent = size.latent
        self.first = nn.Linear(2 * ENCODER_GRID.n + N_GROUPS + 1, size.hidden)
        self.second = nn.Linear(size.hidden, size.hidden // 2)
        self.out = nn.Linear(size.hidden // 2, 2 * size.latent)
        with torch.no_grad():
            self.out.weight.mul_(0.3)

    def forward(self, value: Tensor, trust: Tensor, condition: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Mean and log sigma, (N, latent) each.

        Args:
            value: (N, bins) flux in a part of the bins; in all others nothing was observed, and both are 0.
            trust: (N, bins) how far it can be trusted.
            condition: (N, groups + 1).
            part: of the bins.
        """
        n = ENCODER_GRID.n
        of_value, of_trust, of_condition = torch.split(self.first.weight, [n, n, N_GROUPS + 1], dim=1)
        h = functional.linear(condition, of_condition, self.first.bias)
        h = h + functional.linear(value, of_value[:, part]) + functional.linear(trust, of_trust[:, part])
        h = functional.silu(self.second(functional.silu(h)))
        mean, log_sigma = self.out(h).split(self.latent, dim=1)
        return mean, log_sigma.clamp(-8.0, 2.0)


class Decoder(nn.Module):
    """Latent -> mean and log variance on the rest-frame grids, in units of the norm."""

    def __init__(self, size: Architecture) -> None:
        super().__init__()
        self.first = nn.Linear(size.latent + N_GROUPS + 1, size.hidden // 2)
        self.second = nn.Linear(size.hidden // 2, size.hidden)
        self.mean = nn.Linear(size.hidden, MEAN_GRID.n)
        self.log_variance = nn.Linear(size.hidden, VARIANCE_GRID.n)
        with torch.no_grad():
            self.mean.weight.mul_(0.1)
            self.mean.bias.fill_(1.0)  # a flat spectrum at the norm
            self.log_variance.weight.mul_(0.1)
            self.log_variance.bias.fill_(-4.0)

    def mean_at(self, part: slice, latent: Tensor, condition: Tensor) -> Tensor:
        """Mean at a part of its grid, (N, points)."""
        return _linear(self.mean, self._hidden(latent, condition), part)

    def log_variance_at(self, part: slice, latent: Tensor, condition: Tensor) -> Tensor:
        """Log variance at a part of its grid, (N, points)."""
        return _linear(self.log_variance, self._hidden(latent, condition), part).clamp(*LOG_VARIANCE)

    def _hidden(self, latent: Tensor, condition: Tensor) -> Tensor:
        h = functional.silu(self.first(torch.cat([latent, condition], 1)))
        return functional.silu(self.second(h))


def _linear(layer: nn.Linear, values: Tensor, part: slice) -> Tensor:
    """A part of the outputs of a layer, (N, points)."""
    return functional.linear(values, layer.weight[part], layer.bias[part])


class Vae(nn.Module):
    """Encoder, decoder and the noise correction of each observed pixel."""

    def __init__(self, size: Architecture) -> None:
        super().__init__()
        self.size = size
        self.encoder = Encoder(size)
        self.decoder = Decoder(size)
        # log of the factor on 1/ivar per observed pixel: the pipeline's ivar misses the residuals of sky
        # lines (chi rms of sky fibres 1.47 on z-arm lines, 1.23 between them).
        self.log_noise = nn.Parameter(torch.zeros(N_PIX))


def negative_log_likelihood(residual: Tensor, variance: Tensor, good: Tensor) -> Tensor:
    """Robust Gaussian -log p per spectrum, (N,): beyond 10 sigma the square becomes linear (Huber).

    Args:
        residual: (N, 7958) flux - mean, in units of the norm.
        variance: (N, 7958) of the residual, positive also in bad pixels.
        good: (N, 7958) 1 for good pixels, 0 for bad ones.
    """
    sigmas = residual.abs() / variance.sqrt()
    penalty = torch.where(sigmas < 10.0, sigmas * sigmas, 20.0 * sigmas - 100.0)
    return (0.5 * good * (penalty + variance.log())).sum(1)


def kl_divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(q(latent | x) || N(0, 1)) per spectrum, (N,) (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean * mean + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(1)
