"""A small untrained bundle: the real graphs, bank and calibration, for tests of serving and export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight.spectra import ineligible_reasons
from latenight_train.data import Survey, petal_folds, split_by_petal
from latenight_train.make_bundle import write_bundle
from latenight_train.modes import fit_groups
from latenight_train.vae import Architecture, Vae
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latenight.spectra import Spectra

PETALS = 4
ROWS = 60


def survey_of(messages: Sequence[Spectra]) -> Survey:
    """A survey held in memory."""
    starts = np.cumsum([0, *map(len, messages[:-1])])
    return Survey(
        flux=np.concatenate([m.flux for m in messages]),
        ivar=np.concatenate([m.ivar for m in messages]),
        table=np.concatenate([m.table for m in messages]),
        reasons=np.concatenate([ineligible_reasons(m) for m in messages]),
        files=[(m.source, int(start), "") for m, start in zip(messages, starts, strict=True)],
    )


def small_survey() -> Survey:
    """Four petals of 60 fake spectra."""
    return survey_of([make_spectra(ROWS, seed=k, petal=k) for k in range(PETALS)])


def untrained_vae(seed: int = 0) -> Vae:
    """A tiny network with random weights."""
    torch.manual_seed(seed)
    vae = Vae(Architecture(latent=6, hidden=16))
    with torch.no_grad():
        vae.encoder.out.weight.mul_(30)  # so that the latents differ, as trained ones do
    return vae


def make_bundle(folder: Path) -> Path:
    """Write a bundle of an untrained network, calibrated on one of the small survey's petals."""
    # Sums that are split otherwise end in another bundle: 240 spectra are few for 32 modes, and with one thread the
    # modes of one half ran wild.
    torch.set_num_threads(2)
    survey = small_survey()
    held_out = split_by_petal(survey.table, seed=1)
    eligible = survey.reasons == ""
    petals = petal_folds(survey.table, 2, 1)
    models, folds = fit_groups(survey, np.flatnonzero(eligible), seed=1, folds=petals)
    seen = np.flatnonzero(eligible & ~held_out & np.isfinite(survey.table["z"]))
    write_bundle(untrained_vae(), models, folds, survey, survey, seen, held_out, folder, {})
    return folder
