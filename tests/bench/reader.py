"""How fast a coadd is read, beside plain fitsio and desispec: python -m tests.bench.reader [N_SPECTRA].

All readers take turns on one file, so that the ratios hold on a busy machine; the best of the rounds counts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import fitsio
import numpy as np

from latenight.desi import describe, read_coadd
from latenight.spectra import ARMS
from latenight.wire import decode_spectra, encode_spectra
from tests.coadds import NAME, REDROCK_NAME, coadd_hdus, make_redshifts, write_hdus
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9


def write_petal(folder: Path, n: int) -> Path:
    """A coadd of n rows with RESOLUTION and EXP_FIBERMAP, as large as a real one (224 MB for 500)."""
    spectra = make_spectra(n, seed=1)
    hdus = coadd_hdus(spectra)
    for arm in ARMS:
        hdus[f"{arm.name.upper()}_RESOLUTION"] = np.zeros((n, 11, arm.n), "f4")
    hdus["EXP_FIBERMAP"] = np.repeat(hdus["FIBERMAP"], 4)
    path = write_hdus(folder / NAME, hdus)
    write_hdus(folder / REDROCK_NAME, {"REDSHIFTS": make_redshifts(spectra.table)})
    return path


def read_plain(path: Path) -> list[np.ndarray]:
    """FLUX, IVAR and MASK of the three arms and nothing else: the least that any reader must do."""
    with fitsio.FITS(str(path)) as fits:
        return [fits[f"{arm}_{name}"].read() for arm in "BRZ" for name in ("FLUX", "IVAR", "MASK")]


def readers(path: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    inline = encode_spectra(read_coadd(path))
    found: dict[str, Callable[[], object]] = {
        "fitsio, FLUX + IVAR + MASK": lambda: read_plain(path),
        "latenight.desi.read_coadd": lambda: read_coadd(path),
        "latenight.desi.describe": lambda: describe(path),
        "latenight.wire.decode_spectra": lambda: decode_spectra(inline),
    }
    if find_spec("desispec"):
        from desispec.coaddition import coadd_cameras
        from desispec.io import read_spectra

        skip = ["RESOLUTION", "EXP_FIBERMAP", "SCORES"]
        found["desispec read_spectra"] = lambda: read_spectra(str(path))
        found["desispec read_spectra, no RESOLUTION"] = lambda: read_spectra(str(path), skip_hdus=skip)
        found["desispec read_spectra + coadd_cameras"] = lambda: coadd_cameras(read_spectra(str(path)))
    else:
        print("desispec is not installed (pip install desispec, 800 MB): no comparison with it")
    return found


def main(n: int) -> None:
    """Print the best time of each reader and its ratio to plain fitsio."""
    with tempfile.TemporaryDirectory() as folder:
        timed = readers(write_petal(Path(folder), n))
        best = dict.fromkeys(timed, np.inf)
        for _ in range(ROUNDS):
            for name, read in timed.items():
                start = time.perf_counter()
                read()
                best[name] = min(best[name], time.perf_counter() - start)
    plain = next(iter(best.values()))
    for name, seconds in best.items():
        ratio, speed = seconds / plain, n / seconds
        print(f"{name:38} {seconds * 1e3:8.1f} ms  {ratio:6.2f} x fitsio  {speed:9.0f} spectra/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
