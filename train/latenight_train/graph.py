"""THE definition of what is computed per spectrum: torch modules that are trained and exported verbatim.

Model       flux, ivar, z, group -> latent, reconstruction probability                          (pass 1)
Refinement  flux, ivar, z, modes of the group -> reconstruction by the exact linear model        (pass 1)
Statistics  flux, ivar after the petal step, reconstruction, modes -> every statistic           (pass 2)
Neighbours  latent, bank -> distances to the nearest training latents

Refinement is in refine.py, Statistics in statistics.py.

Rules of the graph (measured in the reference): standard operators only; no median or sort (TopK of a whole
row is the slowest operator on CUDA) and no CumSum (quadratic there); bad pixels are told by comparisons and
carry no value; the draws are stored constants, so scores are deterministic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from latenight_train.pixels import clean, norm_of, to_joint
from latenight_train.restgrids import At, Pixels, RestBins, seen_part
from latenight_train.vae import ENCODER_GRID, MEAN_GRID, N_GROUPS, VARIANCE_GRID, Vae

# Fixed Sobol draws. On 1229 simulated spectra 2, 4 and 8 draws err by 7.0, 3.5 and 2.4 % of the spread of the scores
# (against 512 draws; the mean latent alone by 17 %), and rank them alike to .9986, .9997 and .9998; a spectrum takes
# .56, .71 and 1.04 ms and core. Opposite signs in place of normal numbers err by 5 to 9 (2) and 3 to 5 % (4).
N_DRAWS = 4
MIN_IVAR = 1e-16  # in units of the norm: what has none gets a variance that float32 holds
KNN_FETCHED = 16  # the mean is over 10; the rest replaces neighbours with the spectrum's own TARGETID


def sobol_normals(n: int, dimension: int) -> Tensor:
    """Fixed quasi-random standard normal draws, (n, dimension)."""
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=20250617)  # type: ignore[no-untyped-call]
    uniform = engine.draw(n, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return (math.sqrt(2) * torch.erfinv(2 * uniform - 1)).float()


class Model(nn.Module):
    """Pass 1: the VAE on raw spectra."""

    draws: Tensor
    one_hot: Tensor

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae
        self.rest_bins = RestBins(ENCODER_GRID)
        self.pixels = Pixels(MEAN_GRID, VARIANCE_GRID)
        self.register_buffer("draws", sobol_normals(N_DRAWS, vae.size.latent))
        self.register_buffer("one_hot", torch.eye(N_GROUPS))

    def condition(self, z: Tensor, group: Tensor) -> Tensor:
        """What encoder and decoder know beside the spectrum, (N, groups + 1)."""
        return torch.cat([functional.embedding(group, self.one_hot), torch.log(1 + z)], dim=1)

    def encode(self, flux: Tensor, ivar: Tensor, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sigma of q(latent | spectrum) for flux, ivar (N, 7958) in units of the norm."""
        part = seen_part(ENCODER_GRID, z)
        first = self.rest_bins.first_pixels(z, part)
        weight = self.rest_bins(to_joint(ivar), first)
        value = self.rest_bins(to_joint(ivar * flux), first)
        # value / weight is the mean flux of a bin, weight / (1 + weight) how far to trust it.
        trust = 1 / (1 + weight)
        value, trust = (value * trust).clamp(-30, 30), weight * trust
        mean, log_sigma = self.vae.encoder(value, trust, condition, part)
        return mean, log_sigma

    def means(self, latents: list[Tensor], condition: Tensor, at: At) -> list[Tensor]:
        """Mean at the observed pixels, (N, 7958) in units of the norm, of each of the latents (N, d).

        All go through the network at once: its weights are read once.
        """
        k = len(latents)
        inputs = (torch.stack(values, 1).flatten(0, 1) for values in (latents, [condition] * k))
        points = self.vae.decoder.mean_at(at.part, *inputs)
        return [at.values(points[i::k]) for i in range(k)]

    def variance(self, latent: Tensor, condition: Tensor, at: At) -> Tensor:
        """Variance at the observed pixels, (N, 7958) in units of the norm squared."""
        return at.values(self.vae.decoder.log_variance_at(at.part, latent, condition)).exp()

    def forward(self, flux: Tensor, ivar: Tensor, z: Tensor, group: Tensor) -> tuple[Tensor, ...]:
        """Score a batch.

        Args:
            flux: (N, 7958) [1e-17 erg s-1 cm-2 A-1].
            ivar: (N, 7958); bad pixels have ivar <= 0 or NaN, and their flux is not looked at.
            z: (N,) redshift.
            group: (N,) int64 index into SPECTYPES.

        Returns:
            latent (N, d); log_prob (N,), the reconstruction probability (An and Cho 2015) [nats per good pixel],
            every draw with the variance at the mean latent; deviance (N,), its quadratic part, the mean over draws
            of chi2 per good pixel: the log-determinant of the full probability ranks spectra by noise level and is
            left out of p_recon; snr (N,) per pixel.
        """
        flux, ivar = clean(flux, ivar)
        z = z[:, None]
        norm = norm_of(flux, ivar)
        condition = self.condition(z, group)
        flux1, ivar1 = flux / norm, ivar * (norm * norm)
        latent, log_sigma = self.encode(flux1, ivar1, z, condition)
        drawn = [latent + log_sigma.exp() * draw for draw in self.draws]
        of_mean, of_variance = self.pixels(z)
        good = (ivar > 0).to(flux.dtype)
        n_good = good.sum(1).clamp(min=1.0)
        variance = self.variance(latent, condition, of_variance)
        total = self.vae.log_noise.exp() / ivar1.clamp(min=MIN_IVAR) + variance
        squares = torch.zeros(())
        for mean in self.means(drawn, condition, of_mean):
            squares = squares + (flux1 - mean).square()
        deviance = (good * squares / total).sum(1) / (N_DRAWS * n_good)
        log_det = (good * total.log()).sum(1) / n_good + 2 * norm[:, 0].log()
        log_prob = -0.5 * (deviance + log_det + math.log(2 * math.pi))
        snr = (flux * ivar.sqrt()).sum(1) / n_good
        return latent, log_prob, deviance, snr


class Neighbours(nn.Module):
    """Exact nearest neighbours of a latent among the bank's.

    A coarse ranking by one matrix product, then exact distances of the best 32: the result does not depend on
    the precision of the product (TF32 alone would err by 2e-4).
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)  # (d,) latents are multiplied by it; the bank is already

    def forward(self, latent: Tensor, bank: Tensor, minus_norm2: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and bank rows of the nearest 16, nearest first.

        Args:
            latent: (N, d) as the model gives it.
            bank: (M, d) scaled training latents, M >= 32.
            minus_norm2: (M,) minus the squared length of each row of bank.
        """
        latent = latent * self.scale
        coarse = torch.addmm(minus_norm2, latent, bank.T, alpha=2.0)  # (N, M)
        candidates = coarse.topk(32, dim=1).indices
        offsets = functional.embedding(candidates, bank) - latent[:, None]  # (N, 32, d)
        minus_d2, order = (-offsets.square().sum(2)).topk(KNN_FETCHED, dim=1)
        return (-minus_d2).sqrt(), candidates.gather(1, order)
