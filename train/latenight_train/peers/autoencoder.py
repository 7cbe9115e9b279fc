"""A plain autoencoder in the observed frame: mean squared error in training and as the score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from latenight.spectra import N_JOINT
from latenight_train.peers.training import observed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from latenight.spectra import Spectra
    from latenight_train.peers.training import Score, Training

    # (flux, ivar, reconstruction, mean and log sigma of the latent) -> loss per spectrum
    Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

HIDDEN = (512, 256)  # widths of the layers of our own network
LATENT = 78  # 7781 / 78: the compression by 100 of the seed paper
EPOCHS = 15
BATCH = 64
LEARNING_RATE = 1e-3


class Network(nn.Module):
    """Spectrum -> mean and log sigma of the latent -> spectrum."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (N_JOINT, *HIDDEN)
        self.encoder = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]), nn.SiLU(), nn.Linear(sizes[1], sizes[2]), nn.SiLU(),
            nn.Linear(sizes[2], 2 * LATENT),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, sizes[2]), nn.SiLU(), nn.Linear(sizes[2], sizes[1]), nn.SiLU(),
            nn.Linear(sizes[1], N_JOINT),
        )  # fmt: skip
        with torch.no_grad():  # start at a flat spectrum
            self.decoder[-1].weight.mul_(0.1)  # type: ignore[operator]
            self.decoder[-1].bias.fill_(1.0)  # type: ignore[operator]

    def encode(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sigma of the latent, (N, 78) each; a bad pixel looks like the mean spectrum, 1."""
        seen = torch.where(ivar > 0, flux - 1.0, torch.zeros(())).clamp(-20.0, 20.0)
        mean, log_sigma = self.encoder(seen).chunk(2, dim=1)
        return mean, log_sigma.clamp(-8.0, 2.0)


def train(training: Training, loss: Loss, *, draws: bool) -> Network:
    """Train a network; with draws its decoder sees draws from the latent's distribution, else the mean."""
    torch.manual_seed(training.seed)
    rng, rows = np.random.default_rng(training.seed), training.rows
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    per_epoch = max(len(rows) // BATCH, 1)
    n_steps = EPOCHS * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=n_steps)
    batches = (part for _ in range(EPOCHS) for part in np.array_split(rng.permutation(rows), per_epoch))
    for batch in tqdm(batches, desc="training", total=n_steps, disable=None, leave=False):
        flux, ivar = training.observed(np.sort(batch))
        mean, log_sigma = network.encode(flux, ivar)
        latent = mean + log_sigma.exp() * torch.randn(mean.shape) if draws else mean
        optimizer.zero_grad(set_to_none=True)
        loss(flux, ivar, network.decoder(latent), mean, log_sigma).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def fit(training: Training) -> dict[str, Score]:
    """Mean squared error over good pixels."""
    network = train(training, _squared_error, draws=False)

    @torch.inference_mode()
    def score(spectra: Spectra) -> NDArray[np.float64]:
        flux, ivar = observed(spectra.flux, spectra.ivar)
        mean, log_sigma = network.encode(flux, ivar)
        return _squared_error(flux, ivar, network.decoder(mean), mean, log_sigma).double().numpy()

    return {"autoencoder, MSE": score}


def _squared_error(flux: Tensor, ivar: Tensor, recon: Tensor, _mean: Tensor, _log_sigma: Tensor) -> Tensor:
    good = (ivar > 0).to(flux.dtype)
    return (good * (flux - recon).square()).sum(1) / good.sum(1).clamp(min=1.0)
