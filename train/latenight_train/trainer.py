"""`latenight-train fit` from start to end: read, split, train, write the bundle."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight.errors import StartupError
from latenight.passes import usable_redshift
from latenight.spectra import SPECTYPES, UNKNOWN
from latenight_train.calibrate import sky_variance
from latenight_train.cleared import cleared
from latenight_train.data import load_survey, petal_folds, petal_numbers, split_by_petal, without_repeats
from latenight_train.fit import BATCH, Plan, fit_vae
from latenight_train.make_bundle import write_bundle
from latenight_train.modes import fit_groups
from latenight_train.vae import Z_RANGE, Architecture

__all__ = ["Architecture", "Plan", "fit"]

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


# Of the cross-fitted calibration. Models of two thirds of the spectra fit worse than the bundle's: with 3 folds a
# nominal 50 % gave 45.9 %, with 5 47.4 %, and at a measured 1 % .569 and .587 of the anomalies are found (12 000
# spectra, whose fit takes 8 and 9.3 minutes). Galaxies and stars leave two of them out at once (modes.GROUPS).
FOLDS = 10
# A survey of fewer petals a fold has half as many: to open ten sets of models for two petals each took 15 s.
PETALS_PER_FOLD = 4


def fit(paths: Sequence[Path], out: Path, plan: Plan, *, device: str = "auto", resume: bool = False) -> str:
    """Train on the coadds below the given paths and write a bundle; returns its id.

    The arrays and the checkpoint lie in OUT.work beside the bundle until it is complete; after a kill, the
    same call with resume goes on from there.

    Args:
        paths: coadd files and directories.
        out: directory of the bundle.
        plan: sizes, length and seed of the training.
        device: "cpu", "cuda" or "auto".
        resume: go on from the checkpoint of an earlier call.

    Raises:
        StartupError: no data, too little data, no such device.
        BadInput: a coadd cannot be read.
    """
    device = _device(device)
    work = out.with_name(out.name + ".work")
    survey = without_repeats(load_survey(paths, work / "survey"))
    clear = cleared(survey, sky_variance(survey), work / "cleared.npy")
    held_out = split_by_petal(survey.table, plan.seed)
    eligible = survey.reasons == ""
    _, spectype = usable_redshift(survey.table, np.array(Z_RANGE))
    rows = np.flatnonzero(eligible & ~held_out & (spectype != SPECTYPES.index(UNKNOWN)))
    if not len(rows):
        raise StartupError("no eligible spectrum with a redshift: put the redrock file beside each coadd")
    if not (eligible & held_out).any():
        raise StartupError("no eligible spectrum in the petals that are held out: name more coadds")
    checkpoint = work / "checkpoint.pt"
    vae, progress = fit_vae(clear, rows, plan, device=device, checkpoint=checkpoint, resume=resume)
    n_folds = folds_of(int(petal_numbers(survey.table).max()) + 1)
    petals = petal_folds(survey.table, n_folds, plan.seed)
    models, folds = fit_groups(clear, np.flatnonzero(eligible), plan.seed, petals)
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "training": {
            "plan": asdict(plan),
            "files": {name: digest for name, _, digest in survey.files},
            "spectra": len(rows),
            "epochs": round(progress.step * BATCH / max(len(rows), 1), 2),
            "minutes": round(progress.elapsed_s / 60, 2),
            "loss": progress.loss,
            "device": device,
        },
    }
    bundle_id = write_bundle(vae, models, folds, survey, clear, rows, held_out, out, facts)
    shutil.rmtree(work)
    return bundle_id


def folds_of(n_petals: int) -> int:
    """The number of folds for a survey of so many petals."""
    return FOLDS if n_petals >= PETALS_PER_FOLD * FOLDS else FOLDS // 2


def _device(wanted: str) -> str:
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise StartupError("device cuda: torch sees no GPU; use --device cpu, or install its CUDA build")
    return "cuda" if available and wanted != "cpu" else "cpu"
