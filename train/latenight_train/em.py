"""Expectation-maximisation of one group's linear model: modes, prior and variance from noisy, gappy spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from latenight_train.regions import learn_regions

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 5  # a sixth lowers the -log p of held-out spectra by less than 1e-3 per pixel
BATCH = 512
HUBER = 4.0  # residuals beyond weigh as much as this: contamination must not become a mode
# Residuals enter the variance as no more than this many sigma: round by round it grows where more than 1 / 36 of the
# spectra stray (lines of active stars and nuclei), and what is rarer stays an anomaly.
CLIPPED = 6.0
VARIANCE = (1e-5, 1.0)  # bounds of s2 in units of norm^2
# Bins where more than this share of the spectra strays beyond 5 sigma are restless: known lines of objects that are
# ordinary but rare. Without trouble it is 6e-7; a mean over 9 bins of 1000 spectra tells .004 from chance.
STRAY, RESTLESS_SHARE, RESTLESS_BINS = 5.0, 0.004, 9
MIN_STRAY = 3.0  # spectra: where few were seen, one that strays tells nothing of the line


@dataclass(frozen=True)
class LinearModel:
    """y = modes' c + noise with variance 1/w + s2 and c ~ N(mean, prior^-1).

    Attributes:
        modes: (k, bins).
        s2: (bins,) variance that ordinary spectra have beyond their noise, uncertainty of the modes included.
        mean: (k,).
        prior: (k, k).
        quiet: (bins,) 0 in restless bins, else 1.
        regions: as learn_regions gives them, of coefficients whose means are 0.
    """

    modes: Tensor
    s2: Tensor
    mean: Tensor
    prior: Tensor
    quiet: Tensor
    regions: tuple[Tensor, Tensor, Tensor]


@torch.inference_mode()
def learn(y: Tensor, w: Tensor, k: int, smooth: int, seed: int, quiet: Tensor | None = None) -> LinearModel:
    """Learn the model of spectra on one rest-frame grid.

    Args:
        y: (N, bins) spectra in units of their norm.
        w: (N, bins) their ivar, 0 where nothing was observed.
        k: number of modes.
        smooth: bins of the running mean towards which badly known modes are drawn.
        seed: of the first guess.
        quiet: (bins,) of a model of more spectra, these among them; by default these tell.
    """
    covariance = torch.zeros(len(y), k, k)
    robust = torch.ones_like(w, dtype=torch.float16)
    coefficients = _first_guess(y, w, k, seed)
    s2 = torch.full((y.shape[1],), 4e-4)
    modes = raw = torch.zeros(0)
    for _ in range(ROUNDS):
        h, g = _moments(y, w, s2, robust, coefficients, covariance)
        modes, raw, h_prior = _maximise(h, g, modes, raw, smooth)
        modes, raw, coefficients, mean, prior = _whiten(modes, raw, coefficients, covariance)
        s2 = _expect(y, w, s2, robust, modes, mean, prior, coefficients, covariance)
    # How well the modes themselves are known adds to the variance: tr(Cov(B_j) (S + m m')).
    second = torch.linalg.inv(prior) + mean[:, None] * mean
    s2 = s2 + torch.einsum("jkl,kl->j", _inverse(h_prior), second).clamp(0, 1)
    quiet = _quiet(w, robust) if quiet is None else quiet
    regions = learn_regions(coefficients - mean, covariance, modes, seed)
    return LinearModel(modes, s2, mean, prior, quiet, regions)


def _quiet(w: Tensor, robust: Tensor) -> Tensor:
    """0 in restless bins, else 1, (bins,), from the ivar and the robust weights (N, bins) of the spectra."""
    stray, seen = (robust < HUBER / STRAY).sum(0), (w > 0).sum(0)
    often = _running_mean(torch.stack([stray / seen.clamp(min=1), stray.float()]), RESTLESS_BINS)
    return 1 - ((often[0] >= RESTLESS_SHARE) & (often[1] >= MIN_STRAY)).float()


def _first_guess(y: Tensor, w: Tensor, k: int, seed: int) -> Tensor:
    """Coefficients (N, k) from a weighted SVD of the spectra in about 400 coarse bins; the first is constant."""
    torch.manual_seed(seed)
    q = max(y.shape[1] // 400, 1)
    n = y.shape[1] // q
    wc = w[:, : n * q].reshape(-1, n, q).sum(2)
    yc = (y * w)[:, : n * q].reshape(-1, n, q).sum(2) / wc.clamp(min=1e-9)
    wc = torch.where(wc > 0, 1 / (1 / wc.clamp(min=1e-9) + 4e-4), torch.zeros(()))
    mean = (yc.clamp(-5, 10) * wc.clamp(max=100)).sum(0) / wc.clamp(max=100).sum(0).clamp(min=1e-6)
    x = (yc - mean).clamp(-10, 20) * (wc / (wc + 4))
    u, _, _ = torch.svd_lowrank(x, q=k - 1, niter=4)
    return torch.cat([torch.ones(len(y), 1), u / u.std(0).clamp(min=1e-6)], 1)


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses of positive definite matrices (n, k, k): four times as fast as torch.linalg.inv.

    Rounding of float32 sums leaves some indefinite; then LU, which does not mind, does them all.
    """
    factor, failed = torch.linalg.cholesky_ex(matrices)
    return torch.linalg.inv(matrices) if failed.any() else torch.cholesky_inverse(factor)


def _pairs(k: int) -> Tensor:
    return torch.triu_indices(k, k)


def _full(packed: Tensor, k: int) -> Tensor:
    """Symmetric matrices (n, k, k) from their upper triangles (n, k (k + 1) / 2)."""
    i, j = _pairs(k)
    out = packed.new_zeros(len(packed), k, k)
    out[:, i, j] = packed
    out[:, j, i] = packed
    return out


def _precision(w: Tensor, s2: Tensor) -> Tensor:
    """1 / (1 / w + s2), 0 where w is, (n, bins); in place: these arrays of 40 MB are what the time goes into."""
    total = torch.mul(w, s2).add_(1)
    return torch.div(w, total, out=total)


def _moments(
    y: Tensor, w: Tensor, s2: Tensor, robust: Tensor, c: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Normal equations of the modes in every bin: matrices (bins, k, k) and right-hand sides (bins, k)."""
    k = c.shape[1]
    i, j = _pairs(k)
    h, g = torch.zeros(y.shape[1], len(i)), torch.zeros(y.shape[1], k)
    for s in (slice(a, a + BATCH) for a in range(0, len(y), BATCH)):
        weight = _precision(w[s], s2).mul_(robust[s])
        h.addmm_(weight.T, c[s][:, i] * c[s][:, j] + covariance[s][:, i, j])
        g.addmm_(weight.mul_(y[s]).T, c[s])
    return _full(h, k), g


def _running_mean(x: Tensor, width: int) -> Tensor:
    """Running mean over the last axis of (k, n)."""
    half = width // 2
    return functional.avg_pool1d(functional.pad(x[None], (half, half), mode="replicate"), 2 * half + 1, 1)[0]


def _maximise(h: Tensor, g: Tensor, modes: Tensor, raw: Tensor, smooth: int) -> tuple[Tensor, Tensor, Tensor]:
    """New modes (k, bins), the same without smoothing, and the matrices with the prior of smoothness.

    A bin that few spectra cover carries the noise of those few. So each mode is drawn to its running mean, the
    stronger the less its roughness exceeds the noise of its own estimate (a local Wiener filter); without it
    the modes add 6-22 % of the flux as noise, and spectra of rare redshifts own the tail of the scores.
    """
    k = h.shape[1]
    eye = torch.eye(k)
    if not len(modes):
        ridge = 4 * eye
        ridge[0, 0] = 1e-2
        first = torch.linalg.solve(h + ridge, g).T.contiguous()
        return first, first, h + ridge
    inverse = _inverse(h + eye)
    raw = torch.einsum("jkl,jl->kj", inverse, g)
    noise = torch.diagonal(inverse, dim1=1, dim2=2).T
    weight = torch.diagonal(h, dim1=1, dim2=2).T + 1e-3
    mean = _running_mean(modes * weight, smooth) / _running_mean(weight, smooth)
    rough = _running_mean(_running_mean((raw - mean) ** 2, smooth) - noise, 61)
    pull = (1 / rough.clamp(min=1e-7)).clamp(1.0, 1e6).T  # (bins, k)
    h = h + torch.diag_embed(pull)
    return torch.linalg.solve(h, g + pull * mean.T).T.contiguous(), raw, h


def _whiten(
    modes: Tensor, raw: Tensor, c: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Turn modes and coefficients so that the coefficients have unit covariance.

    Returns:
        modes, raw, coefficients, their mean (k,) and the inverse of their covariance (k, k).
    """
    mean = c.mean(0)
    d = c - mean
    k = c.shape[1]
    spread = (d.T @ d + covariance.sum(0)) / len(c) + 1e-4 * torch.eye(k)
    root = torch.linalg.cholesky(spread)
    back = torch.linalg.inv(root)
    return root.T @ modes, root.T @ raw, c @ back.T, back @ mean, torch.eye(k)


def _expect(
    y: Tensor,
    w: Tensor,
    s2: Tensor,
    robust: Tensor,
    modes: Tensor,
    mean: Tensor,
    prior: Tensor,
    c: Tensor,
    covariance: Tensor,
) -> Tensor:
    """The new s2; posterior of all coefficients, written into c and covariance, and robust weights."""
    k = len(modes)
    i, j = _pairs(k)
    products = (modes[i] * modes[j]).T.contiguous()
    excess, squares = torch.zeros(2, len(s2))
    for s in (slice(a, a + BATCH) for a in range(0, len(y), BATCH)):
        inverse_total = _precision(w[s], s2)
        weight = inverse_total * robust[s]
        inverse = _inverse(_full(weight @ products, k) + prior)
        right = weight.mul_(y[s]) @ modes.T + prior @ mean
        c[s] = (inverse @ right[:, :, None])[:, :, 0]
        covariance[s] = inverse
        chi2 = torch.addmm(y[s], c[s], modes, alpha=-1).square_().mul_(inverse_total)
        robust[s] = torch.clamp(chi2, min=HUBER**2, out=weight).rsqrt_().mul_(HUBER)
        # The variance that explains the residuals r: sum of (r^2 - noise) / total^2 over sum of 1 / total^2, where
        # noise = total - s2.
        excess += chi2.clamp_(max=CLIPPED**2).sub_(1).mul_(inverse_total).sum(0)
        squares += inverse_total.square_().sum(0)
    s2 = (s2 * squares + excess) / squares.clamp(min=1e-9)
    return _running_mean(s2[None], 5)[0].clamp(*VARIANCE)
