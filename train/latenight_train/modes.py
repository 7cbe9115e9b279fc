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
from tqdm import tqdm

from latenight.errors import StartupError
from latenight.modes import REGIONS, ModeGroup, weights_of
from latenight.spectra import WAVE
from latenight_train.data import evenly
from latenight_train.em import learn
from latenight_train.pixels import clean, norm_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from latenight_train.data import Survey

    Floats = NDArray[np.float32]

N_MODES = 32  # columns of every group's modes; groups with fewer fill up with zeros
TYPICAL, VARIANCE, QUIET = range(3)  # profiles
N_COLUMNS = N_MODES + 3
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
        smooth: bins of the running mean towards which badly known modes are drawn.
        n_modes: number of modes.
        parts: the folds are left out in about as many parts, one by one where there are fewer.
    """

    spectype: str
    z_min: float
    z_max: float
    margin: float
    wave_min: float
    wave_max: float
    step: float
    smooth: int
    n_modes: int = N_MODES
    parts: int = 5

    @property
    def n_bins(self) -> int:
        """Number of grid points."""
        return int(np.log(self.wave_max / self.wave_min) / self.step) + 2

    @property
    def grid(self) -> NDArray[np.float64]:
        """ln(wavelength) of the first grid point, and points per unit of it, (2,)."""
        return np.array([np.log(self.wave_min), 1 / self.step])


# Quasars vary smoothly: coarser bins. They are few: models of four fifths of them fit the rest worse than those of all
# fit new ones (a nominal 50 and 1 % gave 46.9 and .5 %), so that a tenth at a time is left out.
GROUPS = (
    Group("GALAXY", -0.1, 0.5, 0.1, 2230.0, 9950.0, 1e-4, 21),
    Group("GALAXY", 0.5, 9.0, 0.1, 900.0, 6950.0, 1e-4, 21),
    Group("QSO", -0.1, 1.6, 0.3, 1230.0, 9950.0, 4e-4, 7, parts=10),
    Group("QSO", 1.6, 9.0, 0.3, 600.0, 4400.0, 4e-4, 7, parts=10),
    Group("STAR", -0.1, 9.0, 0.0, 3500.0, 9950.0, 1e-4, 21),
)


@dataclass(frozen=True)
class Modes:
    """The linear model of one group.

    Attributes:
        columns: (bins, N_COLUMNS) modes, unused ones zero; then the mean spectrum, the variance s2, and 1 in quiet
            bins, 0 where lines of ordinary but rare objects stand.
        precision: (N_MODES, N_MODES) inverse covariance of the coefficients, whose means are 0: a spectrum is the
            mean spectrum plus modes times coefficients.
        regions: of the coefficients, by the names of latenight.modes.REGIONS.
    """

    columns: Floats
    precision: Floats
    regions: dict[str, Floats]


Models = list[tuple[Group, Modes]]  # of the groups that have enough spectra


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


def fit_groups(
    survey: Survey, rows: NDArray[np.intp], seed: int, folds: Sequence[NDArray[np.bool_]] = ()
) -> tuple[Models, list[tuple[NDArray[np.bool_], Models]]]:
    """The linear models of all groups that have enough training spectra, and each fold with those learned without it.

    Groups may leave several folds out together, which saves time.

    The models without a fold share the restless bins of the whole: statistics of other bins would be distributed
    otherwise. They share nothing else. Modes that started from those of the whole remembered the bright quasars that
    were left out: chi2 per pixel 1.11 (90 % quantile 1.28), without 1.20 (1.59), as of other nights' (1.17, 1.58).

    Args:
        survey: all spectra.
        rows: training rows, all eligible.
        seed: of the first guesses.
        folds: (N,) rows of the survey that are left out, each time.

    Raises:
        StartupError: no group has enough, or none without a fold.
    """
    found: Models = []
    without: list[tuple[NDArray[np.bool_], Models]] = [(fold, []) for fold in folds]
    for group in tqdm(GROUPS, desc="modes", unit="group", disable=None):
        chosen = evenly(rows[_of_group(survey.table[rows], group)], MAX_SPECTRA)
        if len(chosen) < MIN_SPECTRA:
            continue
        spectra = survey.spectra(chosen)
        flux, ivar = clean(torch.from_numpy(spectra.flux), torch.from_numpy(spectra.ivar))
        norm = norm_of(flux, ivar).numpy()
        y, w = rest_binned(flux.numpy() / norm, ivar.numpy() * norm**2, spectra.table["z"], group)
        whole = fit_modes(y, w, group, seed)
        found.append((group, whole))
        for numbers in left_out_together(group, len(without)):
            left_out = [without[k] for k in numbers]
            kept = torch.from_numpy(~np.any([fold[chosen] for fold, _ in left_out], axis=0))
            if kept.sum() >= MIN_SPECTRA:
                of_others = group, fit_modes(y[kept], w[kept], group, seed, whole)
                for _, models in left_out:
                    models.append(of_others)
    if not all([found, *(models for _, models in without)]):
        raise StartupError(
            f"no class of spectra has the {MIN_SPECTRA} that a linear model needs, or a fold of petals holds all of "
            "them: name more coadds"
        )
    return found, without


def left_out_together(group: Group, n_folds: int) -> list[range]:
    """The numbers of the folds that a group leaves out at once: as many parts of equal size as it wants, or more."""
    size = max(n_folds // group.parts, 1)
    return [range(first, min(first + size, n_folds)) for first in range(0, n_folds, size)]


def _of_group(table: np.ndarray, group: Group) -> NDArray[np.bool_]:
    """Which spectra a group is learned from."""
    mine = table["spectype"] == group.spectype
    mine &= (table["z"] >= group.z_min - group.margin) & (table["z"] < group.z_max + group.margin)
    return np.asarray(mine)


def served(models: Models) -> list[ModeGroup]:
    """The linear models as the scorer uses them."""
    found = []
    for group, modes in models:
        weights = weights_of(modes.columns, group.grid, modes.precision) | modes.regions
        found.append(ModeGroup(group.spectype, group.z_min, group.z_max, weights))
    return found


def write_modes(models: Models, path: Path) -> None:
    """Write modes.npz, which latenight.modes.read_modes reads."""
    arrays: dict[str, NDArray[Any]] = {
        "spectype": np.array([group.spectype for group, _ in models], "U8"),
        "z_range": np.array([(group.z_min, group.z_max) for group, _ in models]).reshape(-1, 2),
    }
    for k, (group, modes) in enumerate(models):
        arrays |= {f"columns_{k}": modes.columns, f"grid_{k}": group.grid, f"precision_{k}": modes.precision}
        arrays |= {f"{name}_{k}": values for name, values in modes.regions.items()}
    np.savez(path, allow_pickle=False, **arrays)


def fit_modes(y: Tensor, w: Tensor, group: Group, seed: int, whole: Modes | None = None) -> Modes:
    """Learn the group's linear model.

    Args:
        y: (N, bins) spectra on the rest-frame grid, in units of their norm.
        w: (N, bins) their ivar, 0 where nothing was observed.
        group: sizes.
        seed: of the first guess.
        whole: model of more spectra, whose restless bins this one shares.
    """
    k = min(group.n_modes, max(len(y) // 4, 2))
    quiet = None if whole is None else torch.from_numpy(whole.columns[:, N_MODES + QUIET])
    model = learn(y, w, k, group.smooth, seed, quiet)
    columns = torch.zeros(y.shape[1], N_COLUMNS)
    columns[:, :k] = model.modes.T
    columns[:, N_MODES:] = torch.stack([model.modes.T @ model.mean, model.s2, model.quiet], dim=1)
    precision = torch.eye(N_MODES)
    precision[:k, :k] = model.prior
    return Modes(columns.numpy(), precision.numpy(), _filled(*model.regions))


def _filled(centres: Tensor, expected: Tensor, precisions: Tensor) -> dict[str, Floats]:
    """Regions of k modes as those of N_MODES, of which the others are not used."""
    n, k = expected.shape
    all_centres, all_expected = torch.zeros(N_MODES + 1, n), torch.zeros(n, N_MODES)
    all_centres[:k], all_centres[-1] = centres[:-1], centres[-1]
    all_expected[:, :k] = expected
    all_precisions = torch.eye(N_MODES).repeat(n, 1, 1)
    all_precisions[:, :k, :k] = precisions
    regions = (all_centres, all_expected, all_precisions.flatten(1))
    return {name: values.numpy() for name, values in zip(REGIONS, regions, strict=True)}
