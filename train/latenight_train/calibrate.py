"""What ordinary petals show, and the calibration: both by the exported graphs, in the serving code.

Linear models know the spectra that they were learned from. So the calibration is cross-fitted: the statistics of each
fold of petals come from models learned on the others, and every spectrum of the survey takes part. The network is
not learned several times; its statistics are calibrated on the petals that were held out from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from latenight import petal
from latenight.errors import StartupError
from latenight.passes import FOUND, N_KINDS, REDSHIFTS, TRUSTED, Passes, redshift_of
from latenight.skyfibres import THINNED, known_median, known_variance, sky_sigma, typical_sky
from latenight.spectra import MAX_ROWS, N_PIX, SPECTYPES, UNKNOWN
from latenight.threads import default_threads
from latenight_train.data import evenly
from latenight_train.learn_calibration import fit_calibration
from latenight_train.vae import Z_RANGE
from latenight_train.versions import PARTS, versions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.calibration import Calibration
    from latenight.modes import ModeGroup
    from latenight.passes import Statistics
    from latenight_train.data import Survey

    Folds = Sequence[tuple[NDArray[np.bool_], list[ModeGroup]]]

NOISE_SPECTRA = 1000  # to measure the noise factors on: 5 % per pixel
SKY_SPECTRA = 400  # to measure the shape of the sky's variance on


def learn_petals(survey: Survey, rows: NDArray[np.intp], folder: Path) -> petal.Learned:
    """The petal step's measures, taken over spectra of many petals as if they were one.

    Args:
        survey: all spectra, without the residual of the sky.
        rows: eligible rows.
        folder: of the bundle.
    """
    sky = sky_variance(survey)
    flat = petal.Learned(np.ones(N_PIX, np.float32), sky)
    passes = Passes(folder, flat, np.array(Z_RANGE), device="cpu", threads=default_threads())
    chosen = evenly(rows, NOISE_SPECTRA)
    spectra = survey.spectra(chosen)
    mean, variance = passes.reconstruct(spectra)
    residuals = petal.Residuals(spectra.flux, spectra.ivar, mean, variance, spectra.table)
    sigma = sky_sigma(spectra.ivar, mean[:, THINNED], typical_sky(sky))
    return replace(flat, pixel_noise=petal.shared(residuals, sigma, flat.pixel_noise).noise)


def sky_variance(survey: Survey) -> NDArray[np.float32]:
    """Median noise variance of sky fibres (of all fibres where there are none), (7958,), mean 1."""
    sky = np.flatnonzero(survey.reasons == "sky")
    rows = evenly(sky if len(sky) else np.flatnonzero(survey.reasons == ""), SKY_SPECTRA)
    ivar = np.array(survey.ivar[rows])
    ivar = ivar[ivar.any(axis=1)]
    variance = known_variance(ivar)
    median = np.nan_to_num(known_median(variance / known_median(variance.T)[:, None]), nan=1.0)
    return np.asarray(median / median.mean(), np.float32)


def calibrate(
    survey: Survey,
    held_out: NDArray[np.bool_],
    groups: list[ModeGroup],
    folds: Folds,
    learned: petal.Learned,
    folder: Path,
) -> tuple[Calibration, dict[str, int]]:
    """The calibration, and how many spectra of each class it rests on.

    Args:
        survey: all spectra, as they were taken.
        held_out: (N,) rows that the network did not see.
        groups: the bundle's linear models.
        folds: rows (N,) of each fold of petals, and the models learned without them.
        learned: for the petal step.
        folder: of the bundle.

    Raises:
        StartupError: there is no eligible spectrum.
    """
    found: list[tuple[Any, ...]] = []
    names = [(g.spectype, g.z_min) for g in groups]
    for k, (fold, models) in enumerate(folds):
        # A fold may have too few spectra for a group; its rows are then scored with the models of another.
        known = np.array([names.index((g.spectype, g.z_min)) for g in models])
        index = np.concatenate([known + len(groups) * kind for kind in range(N_KINDS)])
        settings = {"device": "cpu", "threads": default_threads(), "groups": models}
        passes = Passes(folder, learned, np.array(Z_RANGE), **settings)  # type: ignore[arg-type]
        messages = [(rows, spectra) for rows, spectra in survey.messages() if fold[rows].any()]
        bar = tqdm(messages, desc="calibrating", unit="file", disable=None)
        for part, spectra, why, unseen in versions(bar, fold, survey.reasons, held_out):
            if (why == "").any():
                kept = _kept(passes(spectra, why), index, unseen[why == ""], len(found))
                found.append((*kept, PARTS * k + part % PARTS))
    if not found:
        raise StartupError("no eligible spectrum in the survey: name more coadds")
    *columns, parts = zip(*found, strict=True)
    statistics, group, snr, petals = (np.concatenate(column) for column in columns)
    part_of = np.repeat(parts, [len(rows) for rows in columns[0]])
    spectypes = np.array([g.spectype for g in groups])
    classes = np.concatenate(
        [np.where(redshift_of(kind) == FOUND, UNKNOWN, spectypes) for kind in range(N_KINDS)]
    )[group]
    sizes = {name: int(np.count_nonzero(classes == name)) for name in SPECTYPES}
    kinds = {"n_certain": len(groups), "n_whole": len(REDSHIFTS) * len(groups)}
    return fit_calibration(statistics, group, snr, _relatives(spectypes), part_of, petals, **kinds), sizes


def _relatives(spectypes: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    """For each group of Statistics.group those whose spectra may stand in for its own."""
    n = len(spectypes)
    same = [np.flatnonzero(spectypes == mine) for mine in spectypes]
    every = [np.arange(n)] * n
    return [
        rows + kind * n
        for kind in range(N_KINDS)
        for rows in (same if redshift_of(kind) == TRUSTED else every)
    ]


def _kept(
    s: Statistics, index: NDArray[np.intp], unseen: NDArray[np.bool_], message: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Statistics, group, S/N and petal of spectra; those that the network has seen tell nothing of its statistics."""
    statistics = s.stacked()
    statistics[~unseen, : statistics.shape[1] - s.values.shape[1]] = np.nan
    return statistics, index[s.group], s.snr, np.where(s.petal < 0, -1, MAX_ROWS * message + s.petal)
