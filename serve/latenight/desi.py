"""DESI coadd-*, spectra-* and redrock-* files -> Spectra.

HDUs and columns are taken by name, and only those that are there: their order and number differ between
releases. RESOLUTION (69 % of a coadd) is never read. Layout: https://desidatamodel.readthedocs.io.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight import identity
from latenight.errors import Unavailable
from latenight.fits import opened
from latenight.spectra import ARMS, MAX_ROWS, N_PIX, PIXEL, Arm, Spectra, bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from latenight.fits import Fits

log = logging.getLogger(__name__)

COADD_NAME = re.compile(r"coadd-.*\.fits(\.gz)?")
UNFINISHED = re.compile(r".*_tmp\d+\.fits(\.gz)?")  # desispec writes <base>_tmp<PID><ext>, then renames
WAVE_TOLERANCE = 0.01  # Angstrom; 1/80 of a pixel, far below the resolution (sigma 0.63 A)
BLOCK_ROWS = 32  # rows cleaned at a time: 350 kB per array stay in the cache, 16 ms a coadd instead of 27


def read_coadd(path: Path, redrock: Path | None = None) -> Spectra:
    """The spectra of a coadd-* or spectra-* file, with the redrock rows of the same targets.

    A file without FIBERMAP is read, and a warning logged: its rows then have targetid 0 (unknown) and are
    known by row number only, redrock cannot be joined, and sky or broken fibres cannot be recognised, so
    they are scored as targets (rows without data are still no_data). Without MASK, ivar alone tells the bad
    pixels.

    Args:
        path: the file, .fits or .fits.gz.
        redrock: its redrock file; by default the one of the matching name beside it, if there is one.

    Returns:
        One row per row of the file; `source` is the absolute path. tileid, night, petal, survey and program
        come from the primary header, else the file name, else (by row) FIBERMAP, else EXP_FIBERMAP where
        all exposures of a target agree.

    Raises:
        BadInput: not what DESI writes, names file and HDU; the daemon sends it to the dead letters.
        Unavailable: the file is gone, unreadable or being written; the daemon retries.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100  resolving links would change the name people know
    with opened(path) as fits:
        n = _n_spectra(fits)
        flux, ivar = _read_arms(fits, n)
        table = _read_table(fits, n)
    redrock = redrock or redrock_beside(path)
    if redrock is not None:
        with opened(redrock) as fits:
            redshifts = fits.columns("REDSHIFTS", identity.REDSHIFTS)
            try:
                table = identity.join_redshifts(table, redshifts)
            except ValueError as error:
                raise fits.bad("REDSHIFTS", str(error)) from error
    return Spectra(flux=flux, ivar=ivar, table=table, source=str(path))


def describe(path: Path) -> dict[str, Any]:
    """Facts of a coadd without reading its spectra (3 ms): tileid, petal, night, survey, program, n.

    What the header and the name do not tell has its missing value (spectra.MISSING). All three arms must be
    there, so that a file that is still being copied is noticed.

    Raises:
        BadInput, Unavailable: as read_coadd.
    """
    with opened(path) as fits:
        n = _n_spectra(fits)
        for arm in ARMS:
            fits.check_image(f"{arm.name.upper()}_IVAR", (n, arm.n))
        return _facts(fits) | {"n": n}


def redrock_beside(path: Path) -> Path | None:
    """The redrock file of a coadd: same folder, same name but for the prefix, not zipped; None without."""
    name = re.sub(r"^(coadd|spectra)-(.*\.fits)(\.gz)?$", r"redrock-\2", path.name)
    redrock = path.with_name(name)
    return redrock if name != path.name and redrock.exists() else None


def find_coadds(paths: Iterable[Path], unsearched: Callable[[Unavailable], None] | None = None) -> list[Path]:
    """The given files, and the coadd-*.fits[.gz] under the given directories, each once.

    Directories are searched to any depth and give their files in sorted order. Unfinished files
    (*_tmp<PID>.fits) are left out, and so is a .fits.gz whose .fits lies beside it (60 times faster to read).
    A path that does not exist counts as a file: whoever reads it is told, and the others are read.

    Args:
        paths: files and directories.
        unsearched: is told of directories that cannot be searched, while the others are.

    Raises:
        Unavailable: a directory cannot be searched, and nobody is told.
    """

    def fail(error: OSError) -> None:  # no permission, or a network file system that goes away
        problem = Unavailable(f"{error.filename}: cannot be searched: {error.strerror}")
        if unsearched is None:
            raise problem from error
        unsearched(problem)

    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_under(path, fail) if path.is_dir() else [path]))
    finished = [path for path in found if not UNFINISHED.fullmatch(path.name)]
    return [path for path in finished if path.suffix != ".gz" or path.with_suffix("") not in found]


def _under(folder: Path, fail: Callable[[OSError], None]) -> list[Path]:
    names = ((root, name) for root, _, files in os.walk(folder, onerror=fail) for name in files)
    return sorted(Path(root, name) for root, name in names if COADD_NAME.fullmatch(name))


def _n_spectra(fits: Fits) -> int:
    """Rows of B_FLUX; the shapes of all other HDUs are checked against it."""
    shape = fits.shape("B_FLUX")
    if len(shape) != 2 or not 1 <= shape[0] <= MAX_ROWS:
        expected = f"1 to {MAX_ROWS} rows of {ARMS[0].n}; if it has more exposures, score the coadd"
        raise fits.bad("B_FLUX", f"has shape {list(shape)}, expected {expected}")
    return shape[0]


def _facts(fits: Fits) -> dict[str, Any]:
    """What the file says of all its rows: tileid, night, petal, survey, program."""
    return identity.file_facts(fits.path.name, fits.header())


def _read_table(fits: Fits, n: int) -> np.ndarray:
    fibermap = {}
    if "FIBERMAP" in fits:
        fibermap = fits.columns("FIBERMAP", identity.FIBERMAP, n)
    else:
        log.warning("%s has no FIBERMAP: targets are unknown, sky fibres are scored as targets", fits.path)
    table = identity.from_fibermap(n, _facts(fits), fibermap)
    if "EXP_FIBERMAP" in fits and identity.needs_exposures(table):
        return identity.add_exposures(table, fits.columns("EXP_FIBERMAP", identity.EXP_FIBERMAP))
    return table


def _read_arms(fits: Fits, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    flux, ivar = np.empty((n, N_PIX), np.float32), np.empty((n, N_PIX), np.float32)
    has_mask = any(f"{arm.name.upper()}_MASK" in fits for arm in ARMS)  # in all arms or in none
    for arm in ARMS:
        _check_wave(fits, arm)
        raw = {name: fits.image(f"{arm.name.upper()}_{name}", (n, arm.n), "f") for name in ("FLUX", "IVAR")}
        mask = fits.image(f"{arm.name.upper()}_MASK", (n, arm.n), "iu") if has_mask else None
        _clean(flux[:, arm.pixels], ivar[:, arm.pixels], raw["FLUX"], raw["IVAR"], mask)
        if not ivar[:, arm.pixels].any():  # all bad may be a dead camera; all NaN is a broken file
            for name, values in raw.items():
                if not np.isfinite(values).any():
                    raise fits.bad(f"{arm.name.upper()}_{name}", "holds no finite value")
    return flux, ivar


def _check_wave(fits: Fits, arm: Arm) -> None:
    name = f"{arm.name.upper()}_WAVELENGTH"
    if not np.allclose(fits.image(name, (arm.n,), "f"), arm.wave, rtol=0.0, atol=WAVE_TOLERANCE):
        raise fits.bad(name, f"is not the DESI grid: {arm.n} pixels from {arm.wave_min} A, {PIXEL} A apart")


def _clean(
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    raw_flux: np.ndarray,
    raw_ivar: np.ndarray,
    mask: np.ndarray | None,
) -> None:
    """Fill flux and ivar of one arm; both 0 where mask != 0, a value is not finite or raw_ivar <= 0."""
    for start in range(0, len(flux), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, which is bad
            flux[rows], ivar[rows] = raw_flux[rows], raw_ivar[rows]
        bad = ~((ivar[rows] > 0) & (ivar[rows] < np.inf) & np.isfinite(flux[rows]))
        if mask is not None:
            bad |= mask[rows] != 0
        for values in (flux, ivar):
            np.copyto(values[rows], np.float32(0), where=bad)
        bound(flux[rows], ivar[rows])
