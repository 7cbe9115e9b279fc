"""Where ordinary spectra of a group lie: priors of the coefficients that hold nearby.

One normal distribution of all coefficients lets a spectrum be any sum of modes. But ordinary ones fill little of that
space: a white dwarf beside a red star is a sum of star modes like no star. So the space is parted into regions around
centres, by the leading directions, and pass 2 draws the coefficients of a spectrum to what those near its region's
centre are like.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEADING = 6  # directions, those that most of the light lies in
PER_REGION, MOST = 250, 24  # spectra, and regions
MEMBERS = 300  # spectra at least that tell of a region: its own, and what lies next to it
PASSES = 15  # over the spectra, for the centres
ROUNDS = 3  # of expectation-maximisation in a region
FLOOR = 0.02  # of the covariance of all


def learn_regions(
    coefficients: Tensor, covariance: Tensor, modes: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Part the space of the coefficients.

    Args:
        coefficients: (N, k) of the training spectra under a standard normal prior.
        covariance: (N, k, k) their posterior covariance.
        modes: (k, bins).
        seed: of the first centres.

    Returns:
        centres (k + 1, R): coefficients times the first k rows, plus the last, is largest for their region; expected
        coefficients (R, k) and inverse covariance (R, k, k) of each region. Too few spectra for two regions share one,
        with the prior of all.
    """
    n = min(len(coefficients) // PER_REGION, MOST)
    if n < 2:
        # So few know their own scatter no better than the prior does: spectra left out would all be odd.
        k = len(modes)
        return torch.zeros(k + 1, 1), torch.zeros(1, k), torch.eye(k)[None]
    turn = torch.linalg.eigh(modes @ modes.T).eigenvectors[:, -LEADING:]  # (k, LEADING)
    at = coefficients @ turn
    centres = _centres(at, n, seed)
    distances = torch.cdist(at, centres)
    # By how much each spectrum is nearer to another centre: 0 for a region's own.
    outside = distances - distances.min(1, keepdim=True).values
    sizes = (outside == 0).sum(0).clamp(min=MEMBERS).tolist()
    found = []
    for k, size in enumerate(sizes):
        members = outside[:, k].argsort()[:size]
        found.append(_normal(coefficients[members], covariance[members]))
    expected, precision = (torch.stack(values) for values in zip(*found, strict=True))
    return torch.cat([2 * turn @ centres.T, -centres.square().sum(1)[None]]), expected, precision


def _centres(at: Tensor, n: int, seed: int) -> Tensor:
    """Centres (n, d) of clusters of points (N, d): Lloyd's k-means."""
    generator = torch.Generator().manual_seed(seed)
    centres = at[torch.randperm(len(at), generator=generator)[:n]]
    for _ in range(PASSES):
        nearest = torch.cdist(at, centres).argmin(1)
        count = nearest.bincount(minlength=n)[:, None]
        means = torch.zeros_like(centres).index_add_(0, nearest, at) / count.clamp(min=1)
        centres = torch.where(count > 0, means, centres)
    return centres


def _normal(coefficients: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (k,) and inverse covariance (k, k) of what members (n, k), known to (n, k, k) under unit priors, are.

    Begun with the scatter of the members, which is too small where they are badly known.
    """
    unit = torch.eye(coefficients.shape[1])
    information = torch.linalg.inv(covariance)
    pull = (information @ coefficients[:, :, None])[:, :, 0]
    mean = coefficients.mean(0)
    scatter = torch.cov(coefficients.T) + FLOOR * unit
    for _ in range(ROUNDS):
        inverse = torch.linalg.inv(scatter)
        posterior = torch.linalg.inv(information - unit + inverse)
        better = (posterior @ (pull + inverse @ mean)[:, :, None])[:, :, 0]
        mean = better.mean(0)
        off = better - mean
        scatter = (off.T @ off / len(off)) + posterior.mean(0) + FLOOR * unit
    return mean, torch.linalg.inv(scatter)
