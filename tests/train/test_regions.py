"""Regions of coefficients: priors that hold nearby."""

from __future__ import annotations

import torch

from latenight_train.regions import FLOOR, LEADING, PER_REGION, learn_regions

K, N = 8, 2000


def curve(seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients along a curve: the last is the square of the first, known to the given noise."""
    torch.manual_seed(seed)
    truth = torch.randn(N, K)
    truth[:, -1] = (truth[:, 0].square() - 1) / 2**0.5
    observed = truth + noise * torch.randn(N, K)
    shrink = 1 / (1 + noise**2)  # posterior under unit priors
    return shrink * observed, (shrink * noise**2 * torch.eye(K)).repeat(N, 1, 1)


MODES = torch.diag(torch.linspace(3, 1, K))  # the first directions carry most of the light


def surprise(coefficients: torch.Tensor, regions: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Squared distance from what is expected near by, in units of its scatter, (n,)."""
    centres, expected, precision = regions
    region = (coefficients @ centres[:-1] + centres[-1]).argmax(1)
    off = coefficients - expected[region]
    return torch.einsum("nk,nkl,nl->n", off, precision[region], off)


def test_what_lies_off_the_curve_is_surprising() -> None:
    """Coefficients that one normal distribution of all allows are improbable where the curve never passes."""
    regions = learn_regions(*curve(0, 0.05), MODES, seed=1)
    ordinary, _ = curve(2, 0.05)
    odd = torch.zeros(1, K)
    odd[0, -1] = 1.5  # the curve reaches it at +-1.8 of the first alone
    everywhere = torch.einsum("nk,kl,nl->n", odd, torch.linalg.inv(torch.cov(ordinary.T)), odd)
    assert everywhere < 3
    assert surprise(odd, regions) > 4 * everywhere
    assert 0.7 * K < surprise(ordinary, regions).mean() < 1.6 * K


def test_a_region_holds_its_own_centre() -> None:
    """The point that is nearest to a centre belongs to it, and centres lie in the leading directions."""
    centres, expected, precision = learn_regions(*curve(0, 0.05), MODES, seed=1)
    assert centres.shape == (K + 1, N // 250)
    points = centres[:-1].T / 2
    assert torch.equal((points @ centres[:-1] + centres[-1]).argmax(1), torch.arange(len(points)))
    assert points[:, LEADING:].abs().max() < 1e-5
    assert expected.shape == (len(points), K)
    assert precision.shape == (len(points), K, K)


def test_badly_known_coefficients_keep_their_scatter() -> None:
    """Noise as large as the scatter narrows no region: it stays near that of well known coefficients."""
    well, badly = (learn_regions(*curve(3, noise), MODES, seed=1)[2] for noise in (0.05, 0.7))
    spread = [torch.linalg.inv(p).diagonal(dim1=1, dim2=2)[:, LEADING].mean() for p in (well, badly)]
    assert spread[1] > 0.6 * spread[0] > FLOOR


def test_few_spectra_share_one_region() -> None:
    """Where there are too few for two regions, there is one, with the prior of all."""
    coefficients, covariance = (values[: 2 * PER_REGION - 1] for values in curve(4, 0.05))
    _, expected, precision = learn_regions(coefficients, covariance, MODES, seed=1)
    assert torch.equal(expected, torch.zeros(1, K))
    assert torch.equal(precision, torch.eye(K)[None])
