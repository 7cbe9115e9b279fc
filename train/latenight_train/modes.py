"""Rest-frame modes: what ordinary spectra of a group are made of, learned by expectation-maximisation.

Each group of spectra (class and redshift range) is a linear model y = B c + noise on a rest-frame grid at native
sampling, with V = 1/ivar + s2(wavelength) and c ~ N(m, S): a linear VAE whose posterior is exact. Solved per
spectrum it follows galaxies and stars down to the noise, where a network that must learn to place every line
leaves residuals of many sigma. The network stays for what it does better: latent space and probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from latenight.spectra import WAVE
from latenight_train.pixels import norm_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from latenight_train.data import Survey

    Floats = NDArray[np.float32]

N_MODES = 32  # columns of every group's modes; groups with fewer fill up with zeros
ROUNDS = 5  # a sixth lowers the -log p of held-out spectra by less than 1e-3 per pixel
BATCH = 512
HUBER = 4.0  # residuals beyond weigh as much as this: contamination must not become a mode
VARIANCE = (1e-5, 1.0)  # bounds of s2 in units of norm^2
MIN_SPECTRA = 60  # fewer cannot carry a group of their own
MAX_SPECTRA = 12_000  # of a group: 2.5 GB on the finest grid


@dataclass(frozen=True)
class Group:
    """Which spectra share one linear model.

    Attributes:
        spectype: redrock's class.
        z_min, z_max: redshifts that the group serves.
        margin: the training redshifts reach this far beyond.
        wave_min, wave_max: rest-frame range of the grid [A].
        step: in ln(wavelength).
        n_modes: number of modes.
        smooth: bins of the running mean towards which badly known modes are drawn.
    """

    spectype: str
    z_min: float
    z_max: float
    margin: float
    wave_min: float
    wave_max: float
    step: float
    n_modes: int
    smooth: int

    @property
    def n_bins(self) -> int:
        """Number of grid points."""
        return int(np.log(self.wave_max / self.wave_min) / self.step) + 2


# Quasars vary smoothly and are few: coarser bins, fewer modes.
GROUPS = (
    Group("GALAXY", -0.1, 0.5, 0.1, 2230.0, 9950.0, 1e-4, 28, 21),
    Group("GALAXY", 0.5, 9.0, 0.1, 900.0, 6950.0, 1e-4, 32, 21),
    Group("QSO", -0.1, 1.6, 0.3, 1230.0, 9950.0, 4e-4, 14, 7),
    Group("QSO", 1.6, 9.0, 0.3, 600.0, 4400.0, 4e-4, 14, 7),
    Group("STAR", -0.1, 9.0, 0.0, 3500.0, 9950.0, 1e-4, 32, 21),
)


@dataclass(frozen=True)
class Modes:
    """The linear model of one group.

    Attributes:
        columns: (bins, N_MODES + 2) modes, unused ones zero; then the mean spectrum, then the variance s2.
        precision: (N_MODES, N_MODES) inverse covariance of the coefficients, whose means are 0: a spectrum is the
            mean spectrum plus modes times coefficients.
    """

    columns: Floats
    precision: Floats


def rest_binned(flux: Floats, ivar: Floats, z: Floats, group: Group) -> tuple[Tensor, Tensor]:
    """Spectra in units of their norm on the group's grid: ivar-weighted mean flux and summed ivar, (N, bins)."""
    y, w = np.zeros((2, len(flux), group.n_bins), np.float32)
    ln_wave, first = np.log(WAVE), np.log(group.wave_min)
    for i in range(len(flux)):
        at = np.rint((ln_wave - np.log1p(z[i]) - first) / group.step).astype(int)
        inside = (at >= 0) & (at < group.n_bins)
        w[i] = np.bincount(at[inside], ivar[i][inside], group.n_bins)
        sums = np.bincount(at[inside], (ivar[i] * flux[i])[inside], group.n_bins)
        y[i] = sums / np.maximum(w[i], 1e-12)
    return torch.from_numpy(y), torch.from_numpy(w)


def fit_groups(survey: Survey, rows: NDArray[np.intp], seed: int) -> list[tuple[Group, Modes]]:
    """The linear models of all groups that have enough training spectra.

    Args:
        survey: all spectra.
        rows: training rows, all eligible.
        seed: of the first guesses.
    """
    found = []
    for group in tqdm(GROUPS, desc="modes", unit="group", disable=None):
        table = survey.table[rows]
        mine = table["spectype"] == group.spectype
        mine &= (table["z"] >= group.z_min - group.margin) & (table["z"] < group.z_max + group.margin)
        chosen = rows[mine]
        if len(chosen) < MIN_SPECTRA:
            continue
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MAX_SPECTRA)).astype(int)]
        flux, ivar = (torch.from_numpy(np.array(a[chosen])) for a in (survey.flux, survey.ivar))
        norm = norm_of(flux, ivar).numpy()
        y, w = rest_binned(flux.numpy() / norm, ivar.numpy() * norm**2, survey.table["z"][chosen], group)
        found.append((group, fit_modes(y, w, group, seed)))
    return found


def write_modes(models: list[tuple[Group, Modes]], path: Path) -> None:
    """Write modes.npz, which latenight.passes.read_modes reads."""
    arrays: dict[str, NDArray[Any]] = {
        "spectype": np.array([group.spectype for group, _ in models], "U8"),
        "z_range": np.array([(group.z_min, group.z_max) for group, _ in models]).reshape(-1, 2),
    }
    for k, (group, modes) in enumerate(models):
        last = group.n_bins - 2  # the last bin with a right neighbour
        arrays[f"grid_{k}"] = np.array([np.log(group.wave_min), 1 / group.step, last])
        arrays[f"columns_{k}"], arrays[f"precision_{k}"] = modes.columns, modes.precision
    np.savez(path, allow_pickle=False, **arrays)


@torch.inference_mode()
def fit_modes(y: Tensor, w: Tensor, group: Group, seed: int) -> Modes:
    """Learn the group's linear model.

    Args:
        y: (N, bins) spectra on the rest-frame grid, in units of their norm.
        w: (N, bins) their ivar, 0 where nothing was observed.
        group: sizes.
        seed: of the first guess.
    """
    k = min(group.n_modes, max(len(y) // 4, 2))
    coefficients = _first_guess(y, w, k, seed)
    covariance = torch.zeros(len(y), k, k)
    robust = torch.ones_like(w, dtype=torch.float16)
    s2 = torch.full((y.shape[1],), 4e-4)
    modes = raw = h_prior = torch.zeros(0)
    for _ in range(ROUNDS):
        h, g = _moments(y, w, s2, robust, coefficients, covariance)
        modes, raw, h_prior = _maximise(h, g, modes, raw, group.smooth)
        modes, raw, coefficients, mean, prior = _whiten(modes, raw, coefficients, covariance)
        s2 = _expect(y, w, s2, robust, modes, mean, prior, coefficients, covariance)
    # How well the modes themselves are known adds to the variance: tr(Cov(B_j) (S + m m')).
    second = torch.linalg.inv(prior) + mean[:, None] * mean
    s2 = s2 + torch.einsum("jkl,kl->j", torch.linalg.inv(h_prior), second).clamp(0, 1)
    return _padded(modes, s2, mean, prior)


def _padded(modes: Tensor, s2: Tensor, mean: Tensor, prior: Tensor) -> Modes:
    k, n = modes.shape
    columns = torch.zeros(n, N_MODES + 2)
    columns[:, :k], columns[:, -2], columns[:, -1] = modes.T, modes.T @ mean, s2
    precision = torch.eye(N_MODES)
    precision[:k, :k] = prior
    return Modes(columns.numpy(), precision.numpy())


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


def _pairs(k: int) -> Tensor:
    return torch.triu_indices(k, k)


def _full(packed: Tensor, k: int) -> Tensor:
    """Symmetric matrices (n, k, k) from their upper triangles (n, k (k + 1) / 2)."""
    i, j = _pairs(k)
    out = packed.new_zeros(len(packed), k, k)
    out[:, i, j] = packed
    out[:, j, i] = packed
    return out


def _weights(w: Tensor, s2: Tensor, robust: Tensor) -> Tensor:
    return robust.float() * torch.where(w > 0, 1 / (1 / w.clamp(min=1e-9) + s2), torch.zeros(()))


def _moments(
    y: Tensor, w: Tensor, s2: Tensor, robust: Tensor, c: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Normal equations of the modes in every bin: matrices (bins, k, k) and right-hand sides (bins, k)."""
    k = c.shape[1]
    i, j = _pairs(k)
    h, g = torch.zeros(y.shape[1], len(i)), torch.zeros(y.shape[1], k)
    for s in (slice(a, a + BATCH) for a in range(0, len(y), BATCH)):
        weight = _weights(w[s], s2, robust[s])
        h += weight.T @ (c[s][:, i] * c[s][:, j] + covariance[s][:, i, j])
        g += (weight * y[s]).T @ c[s]
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
    inverse = torch.linalg.inv(h + eye)
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
    """Posterior of all coefficients, written into c and covariance; robust weights; returns the new s2 (bins,)."""
    k = len(modes)
    i, j = _pairs(k)
    products = (modes[i] * modes[j]).T.contiguous()
    top, bottom = torch.zeros_like(s2), torch.zeros_like(s2)
    for s in (slice(a, a + BATCH) for a in range(0, len(y), BATCH)):
        weight = _weights(w[s], s2, robust[s])
        inverse = torch.linalg.inv(_full(weight @ products, k) + prior)
        right = (weight * y[s]) @ modes.T + prior @ mean
        c[s] = (inverse @ right[:, :, None])[:, :, 0]
        covariance[s] = inverse
        residual = y[s] - c[s] @ modes
        noise = torch.where(w[s] > 0, 1 / w[s].clamp(min=1e-9), torch.ones(()))
        sigmas = residual.abs() / (noise + s2).sqrt()
        robust[s] = torch.where(sigmas > HUBER, HUBER / sigmas, torch.ones(())).half()
        used = torch.where((w[s] > 0) & (sigmas < 6), 1 / (noise + s2) ** 2, torch.zeros(()))
        top += (used * (residual * residual - noise)).sum(0)
        bottom += used.sum(0)
    return _running_mean((top / bottom.clamp(min=1e-9))[None], 5)[0].clamp(*VARIANCE)
