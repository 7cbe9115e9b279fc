"""Simulates DESI nights: tiles of ten petals as coadd and redrock files, and the truth about them."""

from __future__ import annotations

import csv
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from latenight.spectra import ARMS, N_PIX
from latenight_train import fibermap, redrock, simulate_write
from latenight_train.artefacts import Spectrum
from latenight_train.inject import draw_kind, inject
from latenight_train.observe import add_missed_cosmic, draw_petal, draw_tile, observe
from latenight_train.targets import MIX, Source, draw_source
from latenight_train.templates import load_library

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

SKY_SHARE = 0.08
DEAD_SHARE = 0.008  # fibres without data: broken, stuck or far off their target
MISSED_COSMIC_SHARE = 0.01
TRUTH = (
    "TARGETID", "NIGHT", "TILEID", "PETAL", "FIBER", "TRACER", "SPECTYPE", "SUBTYPE", "Z", "MAGNITUDE", "SNR",
    "KIND", "MATCHED_SNR", "PARAMETERS", "WRONG_Z", "MISSED_COSMIC",
)  # fmt: skip


@dataclass(frozen=True)
class Night:
    """What to simulate.

    Attributes:
        out: folder that receives tiles/cumulative/TILEID/NIGHT/ and truth.csv.
        night: YYYYMMDD.
        tiles: number of tiles; the first is dark time, the second bright, and so on in turn.
        petals: petals per tile, at most 10.
        spectra: fibres per petal, at most 500.
        seed: same seed, same files.
        inject: share of the eligible spectra that receive one anomaly each.
        templates: folder of redrock templates to draw from; None: from formulas.
    """

    out: Path
    night: int
    tiles: int
    petals: int
    spectra: int
    seed: int
    inject: float
    templates: Path | None = None

    def tileid(self, tile: int) -> int:
        """TILEID of a tile: month, day, number, so that nights of a year do not share tiles."""
        return self.night % 10000 * 100 + tile


def simulate(night: Night, processes: int = 2) -> list[Path]:
    """Simulate a night and return the coadd files; each petal has its own seed: the order of work is free."""
    jobs = [(night, tile, petal) for tile in range(night.tiles) for petal in range(night.petals)]
    if processes == 1 or len(jobs) == 1:
        return _collect(night, map(_simulate_job, jobs), len(jobs))
    # spawn: a forked child of a process with threads (torch, BLAS) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return _collect(night, pool.map(_simulate_job, jobs), len(jobs))


def _collect(night: Night, results: Iterable[tuple[Path, list[dict[str, object]]]], total: int) -> list[Path]:
    paths, truth = [], []
    for path, rows in tqdm(results, total=total, unit="petal", disable=not sys.stderr.isatty()):
        paths.append(path)
        truth += rows
    _write_truth(night, truth)
    return paths


def _write_truth(night: Night, rows: list[dict[str, object]]) -> None:
    """Write truth.csv; rows of other nights that it already holds stay."""
    path = night.out / "truth.csv"
    others: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            others = [row for row in csv.DictReader(file) if row["NIGHT"] != str(night.night)]
    unfinished = path.with_name("truth.csv_tmp")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, TRUTH)
        writer.writeheader()
        writer.writerows([*others, *rows])
    unfinished.replace(path)


def _simulate_job(job: tuple[Night, int, int]) -> tuple[Path, list[dict[str, object]]]:
    return simulate_petal(*job)


def simulate_petal(night: Night, tile: int, petal: int) -> tuple[Path, list[dict[str, object]]]:
    """Simulate and write one petal.

    Returns:
        The coadd file and one row of truth (columns TRUTH) per fibre.
    """
    program = ("dark", "bright")[tile % 2]
    conditions = draw_tile(np.random.default_rng([night.seed, night.night, tile]), program)
    rng = np.random.default_rng([night.seed, night.night, tile, petal])
    fibres = fibermap.draw_fibres(rng, night.spectra, MIX[program], SKY_SHARE, DEAD_SHARE)
    library = load_library(night.templates) if night.templates else None
    sources = [None if tracer == "SKY" else draw_source(rng, tracer, library) for tracer in fibres.tracer]
    clean = np.array([np.zeros(N_PIX) if source is None else source.flux for source in sources])
    spectra = observe(clean, draw_petal(rng, conditions, night.spectra), rng)
    apply_fibre_faults(fibres, *spectra)
    rows, truth = [], []
    for i, source in enumerate(sources):
        row, facts = finish_fibre(rng, night, source, fibres.status[i], clean, i, spectra)
        rows.append(row)
        truth.append(facts)
    redshifts = np.concatenate(rows)
    label = f"{petal}-{night.tileid(tile)}-thru{night.night}"
    tables = fibermap.make_tables(rng, fibres, sources, night.night, night.tileid(tile), petal, conditions)
    redshifts["TARGETID"] = tables["FIBERMAP"]["TARGETID"]
    header = fibermap.header(night.night, night.tileid(tile), petal, program)
    folder = night.out / "tiles" / "cumulative" / str(night.tileid(tile)) / str(night.night)
    order = rng.permutation(night.spectra) if rng.random() < 0.3 else np.arange(night.spectra)
    shuffled = {"REDSHIFTS": redshifts[order], "FIBERMAP": tables["FIBERMAP"][order]}
    path = folder / f"coadd-{label}.fits"
    simulate_write.write_coadd(path, header, tables, *spectra)
    simulate_write.write_tables(folder / f"redrock-{label}.fits", header, shuffled)
    for facts, entry in zip(truth, tables["FIBERMAP"], strict=True):
        facts |= {name: entry[name].item() for name in ("TARGETID", "TILEID", "FIBER")}
        facts |= {"NIGHT": night.night, "PETAL": petal}
    return path, truth


def apply_fibre_faults(
    fibres: fibermap.Fibres, flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.int32]
) -> None:
    """Empty, in place, the fibres without data and the arms of bad amplifiers."""
    dead = (fibres.status & fibermap.DEAD_BITS) != 0
    flux[dead] = ivar[dead] = 0.0
    mask[dead] = fibermap.BADFIBER_MASK
    for bit, arm in zip(fibermap.BAD_AMPLIFIER_BITS, ARMS, strict=True):
        rows = (fibres.status & bit) != 0
        flux[rows, arm.pixels] = ivar[rows, arm.pixels] = 0.0
        mask[rows, arm.pixels] |= fibermap.BADFIBER_MASK


def finish_fibre(
    rng: np.random.Generator,
    night: Night,
    source: Source | None,
    status: int,
    clean: NDArray[np.float64],
    i: int,
    spectra: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]],
) -> tuple[np.ndarray, dict[str, object]]:
    """Redrock's answer for fibre i and the truth about it; injects an anomaly or a cosmic in place."""
    flux, ivar, mask = spectra
    if source is None:
        return redrock.sky_answer(rng), {
            "TRACER": "SKY",
            "SNR": 0.0,
            "KIND": "",
            "WRONG_Z": 0,
            "MISSED_COSMIC": 0,
        }
    used = np.where(mask[i] == 0, ivar[i], 0.0)
    row, is_wrong = redrock.answer(rng, clean[i], used, source.z, source.spectype, source.subtype)
    red = ARMS[1].pixels
    facts: dict[str, object] = {
        "TRACER": source.tracer, "SPECTYPE": source.spectype, "SUBTYPE": source.subtype,
        "Z": f"{source.z:.6f}", "MAGNITUDE": f"{source.magnitude:.3f}",
        "SNR": f"{np.median(clean[i, red] * np.sqrt(used[red])):.3f}",
        "KIND": "", "WRONG_Z": int(is_wrong), "MISSED_COSMIC": 0,
    }  # fmt: skip
    injects, hit = rng.random() < night.inject, rng.random() < MISSED_COSMIC_SHARE
    if injects and status == 0 and not is_wrong:
        donor = clean[rng.integers(len(clean))]
        spectrum = Spectrum(flux[i], used.astype(np.float32), source.z, source.spectype, clean[i], donor)
        anomaly = inject(draw_kind(rng, spectrum), rng, spectrum)
        flux[i] = np.where(used > 0, anomaly.flux, flux[i])
        ivar[i] = np.where(used > 0, anomaly.ivar, ivar[i])
        if anomaly.z != source.z:
            row["Z"] = anomaly.z
        facts |= {"KIND": anomaly.kind, "MATCHED_SNR": f"{anomaly.snr:.2f}", "PARAMETERS": anomaly.parameters}
    elif hit:
        flux[i], snr = add_missed_cosmic(rng, flux[i], used.astype(np.float32))
        facts["MISSED_COSMIC"] = int(snr > 0.0)
    return row, facts
