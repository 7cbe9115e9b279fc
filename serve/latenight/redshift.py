"""Redshift and class of spectra that come without: the linear model of every group, at every redshift.

A file may come before its redshifts, and a spectrum whose redshift is not known hides its anomalies: a cosmic ray looks
like an emission line. So the leading modes of each group are fitted at all redshifts at once, on a grid in
ln(wavelength), where a redshift is a shift and the products of spectrum and modes are correlations (Tonry and Davis
1979, AJ 84, 1511; Glazebrook, Offer and Deeley 1998, ApJ 492, 98), and the most probable is taken. This is no rival of
redrock: one in four faint galaxies ends at another redshift, where the modes fit it as well.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, WAVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from latenight.modes import ModeGroup

    Floats = NDArray[np.float32]

# ln(wavelength) per bin, 120 km/s. With 2.5e-4 no more redshifts were right.
STEP = 4e-4
FIRST = float(np.log(WAVE[0]))
N_BINS = int((np.log(WAVE[-1]) - FIRST) / STEP) + 1
# Redshifts that are tried; about those that redrock tries.
RANGES = {"GALAXY": (-0.005, 1.7), "QSO": (0.05, 4.5), "STAR": (-0.003, 0.003)}
# The leading modes of a group. With 10, 16 and 20 of them a spectrum takes 7, 15 and 22 ms; of galaxies below an S/N of
# .5 a pixel 48, 66 and 68 % end at their redshift, above 4 all.
N_LEADING = 16
# Relative error that is allowed to the modes, in a bin: bright spectra show more than the leading modes.
ACCURACY = 0.05
SAMPLES = 8  # points at which a bin of the modes is averaged


@dataclass(frozen=True)
class Trials:
    """One group's model, ready to be tried at S redshifts; f frequencies.

    Attributes:
        z: (S,) redshifts, descending.
        length: of the transforms.
        shapes: (K + 1, f) transforms of the K leading modes and, last, the mean spectrum.
        products: ((K + 1) (K + 2) / 2, f) transforms of their products in pairs.
    """

    z: NDArray[np.float64]
    length: int
    shapes: NDArray[np.complex64]
    products: NDArray[np.complex64]


def trials_of(group: ModeGroup) -> Trials:
    """What is needed to try the model of a group."""
    tried = RANGES[group.spectype]
    low, high = max(group.z_min, tried[0]), min(group.z_max, tried[1])
    # Bins by which the rest frame begins earlier than the spectrum: of the highest and of the lowest redshift.
    most, least = int(np.ceil(np.log1p(high) / STEP)), int(np.floor(np.log1p(low) / STEP))
    shifts = np.arange(most, least - 1, -1)
    shapes = _shapes(group, FIRST - most * STEP, N_BINS + most - least)
    # The next product of a power of 2 and a small number: fast to transform, at most an eighth too long.
    length = min(int(k * 2 ** np.ceil(np.log2(shapes.shape[1] / k))) for k in (1, 3, 5, 9))
    a, b = np.triu_indices(len(shapes))
    spectra, products = (
        np.fft.rfft(values, length).astype(np.complex64) for values in (shapes, shapes[a] * shapes[b])
    )
    return Trials(np.expm1(shifts * STEP), length, spectra, products)


def _shapes(group: ModeGroup, first: float, n: int) -> Floats:
    """Leading modes, coefficients of unit variance, and mean spectrum, in n bins from ln(wavelength) first on."""
    start, per_unit, last = group.weights["grid"]
    at = first + STEP * (np.arange(n * SAMPLES) + 0.5) / SAMPLES
    nearest = np.clip(np.rint((at - start) * per_unit), 0, last).astype(int)
    scatter = np.linalg.cholesky(np.linalg.inv(group.weights["precision"].astype(np.float64)))
    modes, mean = (
        values[nearest].reshape(n, SAMPLES, -1).mean(axis=1)
        for values in (group.weights["modes"] @ scatter, group.weights["profiles"][0])
    )
    _, _, turn = np.linalg.svd(modes, full_matrices=False)
    return np.concatenate([modes @ turn[:N_LEADING].T, mean], axis=1).T.astype(np.float32)


def find_redshifts(
    flux: Floats, ivar: Floats, trials: Sequence[Trials], threads: int
) -> tuple[Floats, NDArray[np.intp]]:
    """The most probable redshift of each spectrum, and whose it is.

    Args:
        flux: (n, 7958) [1e-17 erg s-1 cm-2 A-1].
        ivar: (n, 7958), 0 in bad pixels.
        trials: of the groups.
        threads: how many spectra are in work at once.

    Returns:
        redshift (n,), index into trials (n,); a spectrum's depend on itself alone.
    """
    weight, weighted = _binned(flux, ivar)

    def best(row: int) -> tuple[float, float, int]:
        return max((*_best(weight[row], weighted[row], t), k) for k, t in enumerate(trials))

    with ThreadPoolExecutor(threads, "redshift") as workers:
        found = list(workers.map(best, range(len(flux))))
    return np.array([z for _, z, _ in found], np.float32), np.array([k for *_, k in found], np.intp)


def _binned(flux: Floats, ivar: Floats) -> tuple[Floats, Floats]:
    """Weight, and weight times flux, of each bin in units of the norm that the modes are in, (n, N_BINS) each."""
    norm = _norm(flux, ivar)
    weight, weighted = np.zeros((2, len(flux), N_BINS), np.float32)
    for arm in ARMS:
        bins = ((np.log(arm.wave) - FIRST) / STEP).astype(int)
        starts = np.flatnonzero(np.diff(bins, prepend=-1))
        own = ivar[:, arm.pixels]
        for total, values in ((weight, own * norm), (weighted, own * flux[:, arm.pixels])):
            total[:, bins[starts]] += np.add.reduceat(values, starts, axis=1)
    allowed = norm / (1 + weight * norm * ACCURACY**2)
    return weight * allowed, weighted * allowed


def _norm(flux: Floats, ivar: Floats) -> Floats:
    """Scale of each spectrum, (n, 1); latenight_train.pixels.norm_of, which is in the graphs, explains it."""
    root = np.sqrt(ivar)
    total = np.maximum(root.sum(axis=1, keepdims=True), 1e-12)
    n_good = np.count_nonzero(ivar, axis=1, keepdims=True).astype(np.float32)
    mean = np.einsum("np,np->n", root, flux)[:, None]
    return np.asarray(np.maximum(np.maximum(mean, 0.3 * n_good) / total, 1e-9))


def _best(weight: Floats, weighted: Floats, trials: Trials) -> tuple[float, float]:
    """Log-evidence, but for a constant of the spectrum, and redshift of the best trial of a group for one spectrum."""
    evidence = _log_evidence(weight, weighted, trials)
    at = int(evidence.argmax())
    shift = 0.0
    if 0 < at < len(evidence) - 1:  # the top of the parabola through it and its neighbours
        before, top, after = evidence[at - 1 : at + 2].tolist()
        shift = 0.5 * (before - after) / min(before - 2 * top + after, -1e-6)
    return float(evidence[at]), float((1 + trials.z[at]) * np.exp(-shift * STEP) - 1)


def _log_evidence(weight: Floats, weighted: Floats, trials: Trials) -> Floats:
    """Log of the probability of one spectrum at each redshift, (S,), all coefficients integrated out.

    With M the modes, y the spectrum without the mean spectrum and W the weights it is -(chi2 + ln |M'WM + 1|) / 2,
    chi2 = y'Wy - y'WM (M'WM + 1)^-1 M'Wy. Elimination of the modes from [M y]'W[M y] leaves chi2 in its last corner.
    """
    n = len(trials.z)

    def correlated(values: Floats, transforms: NDArray[np.complex64]) -> Floats:
        spectrum = np.conj(np.fft.rfft(values, trials.length))
        return np.asarray(np.fft.irfft(spectrum * transforms, trials.length)[:, :n], np.float32)

    k = len(trials.shapes) - 1  # modes; the mean spectrum stands behind them, and its row becomes that of y
    packed, pulls = correlated(weight, trials.products), correlated(weighted, trials.shapes)
    a, b = np.triu_indices(k + 1)
    system = np.empty((k + 1, k + 1, n), np.float32)
    system[a, b] = system[b, a] = packed
    square = np.sum(weighted**2 / np.maximum(weight, 1e-12))
    system[k, :k] = system[:k, k] = pulls[:k] - system[k, :k]
    system[k, k] = square - 2 * pulls[k] + system[k, k]
    system[range(k), range(k)] += 1
    log_det = np.zeros(n, np.float32)
    for j in range(k):
        pivot = np.maximum(system[j, j], 1.0)  # 1 is its bound; rounding may break it
        row = system[j, j + 1 :]
        log_det += np.log(pivot)
        system[j + 1 :, j + 1 :] -= row[:, None] * (row / pivot)
    return np.asarray(-0.5 * (system[-1, -1] + log_det), np.float32)
