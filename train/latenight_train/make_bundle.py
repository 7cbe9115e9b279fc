"""A trained network and linear models -> the bundle: graphs, latent bank, calibration, golden spectra, manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import latenight
from latenight.bundle import Bundle, write_golden, write_manifest
from latenight.scorer import Scorer
from latenight.threads import default_threads
from latenight_train.bank import write_bank
from latenight_train.calibrate import calibrate, learn_petals
from latenight_train.data import evenly, objects, without_redshift
from latenight_train.export import export_model, export_neighbours, export_refinement, export_statistics
from latenight_train.graph import Model, Neighbours
from latenight_train.modes import served, write_modes
from latenight_train.parity import parity
from latenight_train.refine import Refinement
from latenight_train.statistics import Statistics
from latenight_train.vae import Z_RANGE, Vae

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from latenight.spectra import Spectra
    from latenight_train.data import Survey
    from latenight_train.modes import Models

N_GOLDEN = 24


def write_bundle(
    vae: Vae,
    models: Models,
    folds: Sequence[tuple[NDArray[np.bool_], Models]],
    survey: Survey,
    clear: Survey,
    seen: NDArray[np.intp],
    held_out: NDArray[np.bool_],
    folder: Path,
    facts: Mapping[str, Any],
) -> str:
    """Write a complete bundle; returns its id.

    Args:
        vae: the trained network.
        models: the linear models of the groups, learned on all spectra.
        folds: rows (N,) of each fold of petals, and the linear models learned without them.
        survey: all spectra.
        clear: the same without the residual of the sky: what the models have learned from.
        seen: rows that the network learned from.
        held_out: (N,) rows kept from its training.
        folder: directory of the bundle, made if need be; an existing bundle in it is replaced.
        facts: what the manifest says of the training.

    Raises:
        StartupError: too few training spectra for the latent bank, or torch and ONNX disagree.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)  # until the end the folder is no bundle
    model = Model(vae).eval()
    export_model(model, folder / "model.onnx")
    export_refinement(Refinement(), folder / "refine.onnx")
    export_statistics(Statistics(), folder / "statistics.onnx")
    write_modes(models, folder / "modes.npz")
    scale = write_bank(clear, seen, folder)
    export_neighbours(Neighbours(torch.from_numpy(scale)), vae.size.latent, folder / "knn.onnx")
    golden = _golden_spectra(survey, held_out)
    agreement = parity(model, golden, folder)
    learned = learn_petals(clear, np.flatnonzero(survey.reasons == ""), folder)
    fitted = [(rows, served(own)) for rows, own in folds]
    calibration, sizes = calibrate(survey, held_out, served(models), fitted, learned, folder)
    arrays: dict[str, Any] = {**calibration.arrays(), **vars(learned), "z_range": np.array(Z_RANGE)}
    arrays["trained_objects"] = np.unique(objects(survey.table[survey.reasons == ""]))
    np.savez(folder / "calibration.npz", **arrays)
    scorer = Scorer(Bundle(folder, {}, ""), device="cpu", threads=default_threads())
    write_golden(folder, golden, scorer.score(golden).table)
    shape = {"latent": vae.size.latent, "hidden": vae.size.hidden, "z_range": Z_RANGE}
    checks = {"parity": agreement, "calibration_spectra": sizes, "active_latents": int((scale > 0).sum())}
    origin = {"versions": _versions(), "git_revision": _git_revision()}
    return write_manifest(folder, {**facts, **shape, **checks, **origin})


def _golden_spectra(survey: Survey, held_out: NDArray[np.bool_]) -> Spectra:
    """Some held-out spectra of every kind: eligible, without redshift, sky."""
    eligible = evenly(np.flatnonzero(held_out & (survey.reasons == "")), N_GOLDEN)
    sky = np.flatnonzero(held_out & (survey.reasons == "sky"))[:4]
    golden = survey.spectra(np.sort(np.concatenate([eligible, sky])))
    golden.table[::6] = without_redshift(golden.table[::6])
    return golden


def _versions() -> dict[str, str]:
    names = ("torch", "onnx", "onnxscript", "numpy", "fitsio")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"latenight": latenight.__version__, "python": platform.python_version(), **found}


def _git_revision() -> str:
    """Commit of the checkout that this code runs from; "" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
