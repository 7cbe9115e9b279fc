"""Weighted principal components in the observed frame, by expectation maximisation (Bailey 2012, PASP 124, 1015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight_train.peers.isolation import Bank, surprise
from latenight_train.peers.training import observed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from latenight.spectra import Spectra
    from latenight_train.peers.training import Score, Training

N_COMPONENTS = 20
ROUNDS = 10  # the mean chi2 of training spectra changes by less than 1 % after these


def fit(training: Training) -> dict[str, Score]:
    """chi2 of the best fit of the components, and the smaller p of that and of the coefficients' isolation."""
    components = fit_components(training)
    chi2, coefficients = _fitted(training, training.reference, components)
    bank = Bank(_fitted(training, training.rows, components)[1])
    distance = bank.distance(coefficients)

    def chi2_score(spectra: Spectra) -> NDArray[np.float64]:
        return project(components, *observed(spectra.flux, spectra.ivar))[1].double().numpy()

    def pair_score(spectra: Spectra) -> NDArray[np.float64]:
        latents, found = project(components, *observed(spectra.flux, spectra.ivar))
        isolated = surprise(bank.distance(latents), distance)
        return np.maximum(surprise(found.double().numpy(), chi2.double().numpy()), isolated)

    return {"weighted PCA, chi2": chi2_score, "weighted PCA, chi2 + kNN": pair_score}


def fit_components(training: Training) -> Tensor:
    """The components that minimise the ivar-weighted chi2 of the training spectra, (20, 7781).

    No mean is subtracted: it is one of the directions.
    """
    generator = torch.Generator().manual_seed(training.seed)
    flux, _ = training.observed(training.rows[:1])
    components = torch.randn(N_COMPONENTS, flux.shape[1], generator=generator)
    components[0] = 1.0
    for _ in range(ROUNDS):
        components = _improved(components, training)
    return components


def _improved(components: Tensor, training: Training) -> Tensor:
    """One round: coefficients of every spectrum, then the components that fit best with them."""
    k, n_pix = components.shape
    normal = torch.zeros(n_pix, k, k, dtype=torch.float64)
    target = torch.zeros(n_pix, k, dtype=torch.float64)
    for flux, ivar in training.blocks(training.rows):
        c, _ = project(components, flux, ivar)
        products = (c[:, :, None] * c[:, None, :]).flatten(1)  # (N, k * k)
        normal += (ivar.T @ products).reshape(n_pix, k, k)
        target += (ivar * flux).T @ c
    # The same subspace, well conditioned.
    basis: Tensor = torch.linalg.qr(_solve(normal, target)).Q
    return basis.T.contiguous().float()


def project(components: Tensor, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the ivar-weighted best fit, (N, k), and its chi2 per good pixel, (N,)."""
    k = len(components)
    products = (components[:, None] * components[None]).flatten(0, 1)  # (k * k, 7781)
    normal = (ivar @ products.T).double().reshape(-1, k, k)
    c = _solve(normal, ((ivar * flux) @ components.T).double()).float()
    n_good = (ivar > 0).sum(1).clamp(min=1)
    return c, (ivar * (flux - c @ components).square()).sum(1) / n_good


def _solve(normal: Tensor, target: Tensor) -> Tensor:
    """Solutions of many normal equations, with a ridge that keeps pixels and spectra without data solvable."""
    trace = normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    ridge = 1e-6 * trace[:, None, None] * torch.eye(normal.shape[1], dtype=normal.dtype)
    solution: Tensor = torch.linalg.solve(normal + ridge, target)
    return solution


def _fitted(training: Training, rows: NDArray[np.intp], components: Tensor) -> tuple[Tensor, Tensor]:
    """chi2 and coefficients of some rows."""
    found = [project(components, *block) for block in training.blocks(rows)]
    return torch.cat([chi2 for _, chi2 in found]), torch.cat([c for c, _ in found])
