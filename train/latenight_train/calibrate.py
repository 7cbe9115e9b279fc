"""A trained VAE -> the bundle: graphs, latent bank, calibration, golden spectra, manifest.

Bank and calibration are computed by the exported graphs in the serving code, so what is calibrated is what
will be served.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

import latenight
from latenight import petal
from latenight.bundle import Bundle, write_golden, write_manifest
from latenight.calibration import Calibration, fit_calibration
from latenight.errors import StartupError
from latenight.passes import TO_ARMS, Learned, Passes, read_modes, redshift_and_group
from latenight.scorer import Scorer
from latenight.session import Graph
from latenight.spectra import N_PIX, SPECTYPES, UNKNOWN, Spectra, ineligible_reasons
from latenight.threads import default_threads
from latenight_train.export import (
    MODEL_OUTPUTS,
    REFINEMENT_OUTPUTS,
    export_model,
    export_neighbours,
    export_refinement,
    export_statistics,
)
from latenight_train.graph import Model, Neighbours, Statistics
from latenight_train.modes import write_modes
from latenight_train.refine import Refinement
from latenight_train.vae import Z_RANGE, Vae

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from latenight_train.data import Survey
    from latenight_train.modes import Group, Modes

MAX_BANK = 200_000  # rows; the exact search costs 31 MFLOP per spectrum at this size
SCALE_PETALS = 10  # whose spectra tell what a window scatters by
NOISE_SPECTRA = 1000  # to measure the noise factors on: 5 % per pixel
UNKNOWN_EVERY = 5  # every fifth training spectrum enters the bank a second time, encoded without its redshift
ACTIVE = 0.1  # half width below which a latent axis carries nothing (its posterior is the prior)
N_GOLDEN = 24
PARITY = 1e-5  # largest difference of torch and ONNX, relative to the largest value of an output


def write_bundle(
    vae: Vae,
    models: list[tuple[Group, Modes]],
    survey: Survey,
    held_out: NDArray[np.bool_],
    folder: Path,
    facts: Mapping[str, Any],
) -> str:
    """Write a complete bundle; returns its id.

    Args:
        vae: the trained network.
        models: the linear models of the groups.
        survey: all spectra.
        held_out: (N,) rows kept from training; the calibration is fitted on them.
        folder: directory of the bundle, made if need be; an existing bundle in it is replaced.
        facts: what the manifest says of the training.

    Raises:
        StartupError: too few training spectra for the latent bank, or torch and ONNX disagree.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)  # until the end the folder is no bundle
    model = Model(vae).eval()
    export_model(model, folder / "model.onnx")
    export_statistics(
        Statistics(), folder / "statistics.onnx"
    )  # for now: the window scales need a first pass
    export_refinement(Refinement(), folder / "refine.onnx")
    write_modes(models, folder / "modes.npz")
    rows = np.flatnonzero((survey.reasons == "") & ~held_out)
    scale = _write_bank(survey, rows, folder)
    export_neighbours(Neighbours(torch.from_numpy(scale)), vae.size.latent, folder / "knn.onnx")
    learned = Learned(_pixel_noise(survey, rows, folder), np.array(Z_RANGE))
    scales = _window_scales(survey, held_out, learned, folder)
    export_statistics(Statistics(scales), folder / "statistics.onnx")
    calibration, sizes = _calibrate(survey, held_out, learned, folder)
    arrays = {**calibration.arrays(), **vars(learned)}
    np.savez(folder / "calibration.npz", **arrays)
    golden = _golden_spectra(survey, held_out)
    parity = _parity(model, golden, folder)
    scorer = Scorer(Bundle(folder, {}, ""), device="cpu", threads=default_threads())
    write_golden(folder, golden, scorer.score(golden).table)
    shape = {"latent": vae.size.latent, "hidden": vae.size.hidden, "z_range": Z_RANGE}
    checks = {"parity": parity, "calibration_spectra": sizes, "active_latents": int((scale > 0).sum())}
    origin = {"versions": _versions(), "git_revision": _git_revision()}
    return write_manifest(folder, {**facts, **shape, **checks, **origin})


def _write_bank(survey: Survey, rows: NDArray[np.intp], folder: Path) -> NDArray[np.float32]:
    """Write bank.npy and bank_ids.npy; returns the factor (d,) that scales latents like the bank.

    Axes are scaled by half of their 16-84 % range; axes that carry nothing get weight 0, since scaling their
    noise up would drown the others.
    """
    if len(rows) < 50:
        raise StartupError(f"only {len(rows)} training spectra: the latent bank needs 50; name more coadds")
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_BANK)).astype(int)]
    graph = Graph(folder / "model.onnx", device="cpu", threads=default_threads())
    known = _latents(graph, survey, chosen, hide_redshift=False)
    unknown = _latents(graph, survey, chosen[::UNKNOWN_EVERY], hide_redshift=True)
    low, high = np.quantile(known, [0.16, 0.84], axis=0)
    half = (high - low) / 2
    scale = np.where(half > ACTIVE, 1 / np.maximum(half, ACTIVE), 0).astype(np.float32)
    targetid = survey.table["targetid"]
    np.save(folder / "bank.npy", np.concatenate([known, unknown]) * scale)
    np.save(folder / "bank_ids.npy", np.concatenate([targetid[chosen], targetid[chosen[::UNKNOWN_EVERY]]]))
    return scale


def _pixel_noise(survey: Survey, rows: NDArray[np.intp], folder: Path) -> NDArray[np.float32]:
    """Factor on the variance of each pixel, (7958,), in ordinary petals: the ivar misses residuals of sky lines.

    The petal step's measure, taken over training spectra of many petals as if they were one.
    """
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), NOISE_SPECTRA)).astype(int)]
    table = survey.table[chosen]
    ones, inert = np.ones(N_PIX, np.float32), Learned(np.ones(N_PIX, np.float32), np.array(Z_RANGE))
    passes = Passes(folder, inert, device="cpu", threads=default_threads())
    spectra = Spectra(np.array(survey.flux[chosen]), np.array(survey.ivar[chosen]), table, "noise")
    mean, variance = (v[:, TO_ARMS] for v in passes.reconstruct(spectra))
    residuals = petal.Residuals(spectra.flux, spectra.ivar, mean, variance, table)
    return petal.shared(residuals, np.arange(len(chosen)), ones)[1]


@torch.inference_mode()
def _window_scales(
    survey: Survey, held_out: NDArray[np.bool_], learned: Learned, folder: Path
) -> list[torch.Tensor]:
    """What each window of the scan scatters by in ordinary training spectra: (3, windows) for each width.

    Robust (median absolute significance), at least 1: pixels of one sky band err together, so a window there
    strays farther than its pixels' noise says.
    """
    passes = Passes(folder, learned, device="cpu", threads=default_threads())
    module, found = Statistics(), []
    messages = [(rows, spectra) for rows, spectra in survey.messages() if not held_out[rows].any()]
    for rows, spectra in tqdm(
        messages[:: max(len(messages) // SCALE_PETALS, 1)], desc="windows", disable=None
    ):
        s = passes(spectra, survey.reasons[rows])
        arrays = (torch.from_numpy(a) for a in (s.flux, s.ivar, s.mean, s.variance))
        found.append([w.half() for w, _ in module.windows(*module.residual_sigmas(*arrays))])
    columns = (torch.cat(column).float().abs() for column in zip(*found, strict=True))
    return [(c.median(dim=0).values / 0.6745).clamp(min=1.0) for c in columns]


def _latents(
    graph: Graph, survey: Survey, rows: NDArray[np.intp], *, hide_redshift: bool
) -> NDArray[np.float32]:
    parts = []
    for start in tqdm(range(0, len(rows), 1024), desc="latent bank", disable=None):
        block = rows[start : start + 1024]
        table = _without_redshift(survey.table[block]) if hide_redshift else survey.table[block]
        z, group = redshift_and_group(table, np.array(Z_RANGE))
        inputs: dict[str, np.ndarray] = {"flux": survey.flux[block], "ivar": survey.ivar[block]}
        inputs |= {"z": z, "group": group}
        parts.append(graph(inputs, outputs=("latent",))["latent"])
    return np.concatenate(parts)


def _without_redshift(table: np.ndarray) -> np.ndarray:
    hidden = table.copy()
    hidden["z"], hidden["spectype"] = np.nan, UNKNOWN
    return hidden


def _calibrate(
    survey: Survey, held_out: NDArray[np.bool_], learned: Learned, folder: Path
) -> tuple[Calibration, dict[str, int]]:
    """Calibration on the held-out petals, each seen whole; once with and once without their redshifts."""
    passes = Passes(folder, learned, device="cpu", threads=default_threads())
    found = []
    for rows, spectra in tqdm(list(survey.messages()), desc="calibrating", unit="file", disable=None):
        reasons = np.where(held_out[rows], survey.reasons[rows], "not held out")
        if (reasons == "").any():
            hidden = replace(spectra, table=_without_redshift(spectra.table))
            found += [passes(spectra, reasons), passes(hidden, reasons)]
    if not found:
        raise StartupError("no eligible spectrum in the held-out petals: name more coadds")
    statistics = np.concatenate([s.stacked() for s in found])
    group = np.concatenate([s.group for s in found])
    snr = np.concatenate([s.snr for s in found])
    sizes = {name: int((group == k).sum()) for k, name in enumerate(SPECTYPES)}
    return fit_calibration(statistics, group, snr), sizes


def _golden_spectra(survey: Survey, held_out: NDArray[np.bool_]) -> Spectra:
    """Some held-out spectra of every kind: eligible, without redshift, sky."""
    eligible = np.flatnonzero(held_out & (survey.reasons == ""))
    sky = np.flatnonzero(held_out & (survey.reasons == "sky"))[:4]
    spread = eligible[np.linspace(0, len(eligible) - 1, min(N_GOLDEN, len(eligible))).astype(int)]
    rows = np.sort(np.concatenate([spread, sky]))
    table = survey.table[rows]
    table[::6] = _without_redshift(table[::6])
    return Spectra(np.array(survey.flux[rows]), np.array(survey.ivar[rows]), table, "golden")


@torch.inference_mode()
def _parity(model: Model, golden: Spectra, folder: Path) -> dict[str, float]:
    """Largest difference of torch and ONNX on the golden spectra, relative to each output's largest value."""
    rows = ineligible_reasons(golden) == ""
    z, group = redshift_and_group(golden.table[rows], np.array(Z_RANGE))
    spectra: dict[str, np.ndarray] = {"flux": golden.flux[rows], "ivar": golden.ivar[rows], "z": z}
    found = {
        "model": _difference(model, MODEL_OUTPUTS, folder / "model.onnx", {**spectra, "group": group}, {})
    }
    found["refine"] = 0.0
    for modes in read_modes(folder / "modes.npz"):
        served = (group == SPECTYPES.index(modes.spectype)) & (z >= modes.z_min) & (z < modes.z_max)
        mine = {name: values[served] for name, values in spectra.items()}
        if served.any():
            refine = (Refinement(), REFINEMENT_OUTPUTS, folder / "refine.onnx")
            found["refine"] = max(found["refine"], _difference(*refine, mine, modes.weights))
    for name, worst in found.items():
        if not worst <= PARITY:
            raise StartupError(f"torch and ONNX differ by {worst:.2g} in {name}, {PARITY:.0e} is allowed")
    return found


def _difference(
    module: torch.nn.Module,
    outputs: tuple[str, ...],
    path: Path,
    rows: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
) -> float:
    """Largest difference of a module and its exported file, relative to each output's largest value."""
    graph = Graph(path, device="cpu", threads=default_threads(), bucket=8)
    served = graph(rows, constants=constants)
    trained = module(*(torch.from_numpy(values) for values in (*rows.values(), *constants.values())))
    pairs = [(values.numpy(), served[name]) for name, values in zip(outputs, trained, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


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
