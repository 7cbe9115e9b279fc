"""The seed paper's recipe as far as known: a VAE with ivar chi2, isolation of its latents, detectors on them.

Nicolaou et al. (arXiv:2506.17376): spectra are strange that reconstruct badly or lie alone in the latent space.
What is not public (sizes, frame, how both are combined) is as here: observed frame, 78 latents, the smaller p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight_train.peers import autoencoder
from latenight_train.peers.detectors import fit_detectors
from latenight_train.peers.isolation import Bank, surprise
from latenight_train.peers.training import observed
from latenight_train.vae import kl_divergence, negative_log_likelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from latenight.spectra import Spectra
    from latenight_train.peers.autoencoder import Network
    from latenight_train.peers.training import Score, Training


def fit(training: Training) -> dict[str, Score]:
    """The smaller p of chi2 and of the latents' isolation; and detectors that see the latents only."""
    network = autoencoder.train(training, _negative_elbo, draws=True)
    bank = _encoded(network, training, training.rows)[0]
    isolation = Bank(bank)
    latents, chi2 = _encoded(network, training, training.reference)
    distance, chi2_reference = isolation.distance(latents), chi2.double().numpy()

    def pair_score(spectra: Spectra) -> NDArray[np.float64]:
        found, chi2 = _apply(network, *observed(spectra.flux, spectra.ivar))
        isolated = surprise(isolation.distance(found), distance)
        return np.maximum(surprise(chi2.double().numpy(), chi2_reference), isolated)

    def encode(spectra: Spectra) -> NDArray[np.float64]:
        return _apply(network, *observed(spectra.flux, spectra.ivar))[0].double().numpy()

    detectors = fit_detectors(bank.double().numpy(), encode, training.seed)
    return {"VAE, chi2 + latent kNN (as arXiv:2506.17376)": pair_score, **detectors}


def _negative_elbo(flux: Tensor, ivar: Tensor, recon: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Minus the evidence lower bound per good pixel, (N,), with the ivar of the data as the only noise."""
    good = (ivar > 0).to(flux.dtype)
    variance = 1.0 / torch.where(ivar > 0, ivar, torch.ones(()))
    nll = negative_log_likelihood(flux - recon, variance, good)
    return (nll + kl_divergence(mean, log_sigma)) / good.sum(1).clamp(min=1.0)


@torch.inference_mode()
def _apply(network: Network, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Latent (N, 78) and chi2 per good pixel (N,)."""
    mean, _ = network.encode(flux, ivar)
    n_good = (ivar > 0).sum(1).clamp(min=1)
    return mean, (ivar * (flux - network.decoder(mean)).square()).sum(1) / n_good


def _encoded(network: Network, training: Training, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
    found = [_apply(network, *block) for block in training.blocks(rows)]
    return torch.cat([latent for latent, _ in found]), torch.cat([chi2 for _, chi2 in found])
