"""DESI coadd-*, spectra-* and redrock-* files -> Spectra; the only module that imports fitsio.

HDUs and columns are taken by name, and only those that are there: their order and number differ between
releases. RESOLUTION (69 % of a coadd) is never read. Layout: https://desidatamodel.readthedocs.io.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import stat
import zlib
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fitsio
import numpy as np

from latenight import identity
from latenight.errors import BadInput, Unavailable
from latenight.spectra import ARMS, MAX_ROWS, N_PIX, PIXEL, Arm, Spectra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

COADD_NAME = re.compile(r"coadd-.*\.fits(\.gz)?")
UNFINISHED = re.compile(r".*_tmp\d+\.fits(\.gz)?")  # desispec writes <base>_tmp<PID><ext>, then renames
WAVE_TOLERANCE = 0.01  # Angstrom; 1/80 of a pixel, far below the resolution (sigma 0.63 A)
BLOCK_ROWS = 32  # rows cleaned at a time: 350 kB per array stay in the cache, 16 ms a coadd instead of 27
# Everything that fitsio 1.4 was seen to raise on corrupt bytes (make fuzz), and MemoryError for absurd sizes.
FITSIO_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, MemoryError),
    fitsio.FITSFormatError,
)
# What a file may make us hold in memory: tables have a row for each exposure of a target, strings are short, and
# CFITSIO unpacks a .gz of any size whole (a petal has 213 MB; zeros shrink by a factor of 1000).
MAX_TABLE_ROWS = 100 * MAX_ROWS
MAX_REPEAT = 256
MAX_UNZIPPED_BYTES = 2 << 30
FITS_MAGIC, GZIP_MAGIC = b"SIMPLE  =", b"\x1f\x8b"


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
    with _opened(path) as fits:
        n = fits.n_spectra()
        flux, ivar = _read_arms(fits, n)
        table = _read_table(fits, n)
    redrock = redrock or redrock_beside(path)
    if redrock is not None:
        with _opened(redrock) as fits:
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
    with _opened(path) as fits:
        n = fits.n_spectra()
        for arm in ARMS:
            fits.check_image(f"{arm.name.upper()}_IVAR", (n, arm.n))
        return fits.facts() | {"n": n}


def redrock_beside(path: Path) -> Path | None:
    """The redrock file of a coadd: same folder, same name but for the prefix, not zipped; None without."""
    name = re.sub(r"^(coadd|spectra)-(.*\.fits)(\.gz)?$", r"redrock-\2", path.name)
    redrock = path.with_name(name)
    return redrock if name != path.name and redrock.exists() else None


def find_coadds(paths: Iterable[Path]) -> list[Path]:
    """The given files, and the coadd-*.fits[.gz] under the given directories, each once.

    Directories are searched to any depth and give their files in sorted order. Unfinished files
    (*_tmp<PID>.fits) are left out, and so is a .fits.gz whose .fits lies beside it (60 times faster to read).

    Raises:
        Unavailable: a path does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            coadds = sorted(file for file in path.rglob("coadd-*") if COADD_NAME.fullmatch(file.name))
            found.update(dict.fromkeys(coadds))
        elif path.exists():
            found[path] = None
        else:
            raise Unavailable(f"{path}: no such file or directory")
    finished = [path for path in found if not UNFINISHED.fullmatch(path.name)]
    return [path for path in finished if path.suffix != ".gz" or path.with_suffix("") not in found]


class _Fits:
    """An open FITS file whose every complaint names the file and the HDU."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        try:
            self._fits = fitsio.FITS(str(path))
            self._hdus = {hdu.get_extname().upper(): hdu for hdu in self._fits}
            # get_info copies deeply, 0.2 ms of FIBERMAP's 80 columns: once per HDU
            self._infos = {name: hdu.get_info() for name, hdu in self._hdus.items()}
            self._header = self._fits[0].read_header()
        except FITSIO_ERRORS as error:
            raise BadInput(f"{path}: not a FITS file: {_first_line(error)}") from error
        self._check_complete(size)

    def _check_complete(self, size: int) -> None:
        """A cut file has an HDU that ends beyond it, or pieces of a lost header after its last HDU."""
        name, info = max(self._infos.items(), key=lambda item: item[1]["data_end"])
        if info["data_end"] != size:
            raise self.bad(
                name or "PRIMARY", f"ends at byte {info['data_end']}, the file at {size}: it was cut"
            )

    def close(self) -> None:
        self._fits.close()

    def __contains__(self, name: str) -> bool:
        return name in self._hdus

    def bad(self, name: str, problem: str) -> BadInput:
        return BadInput(f"{self.path}: HDU {name}: {problem}")

    def facts(self) -> dict[str, Any]:
        """What the file says of all its rows: tileid, night, petal, survey, program."""
        return identity.file_facts(self.path.name, dict(self._header))

    def n_spectra(self) -> int:
        """Rows of B_FLUX; the shapes of all other HDUs are checked against it."""
        dims = self._info("B_FLUX").get("dims")
        if not dims or len(dims) != 2 or not 1 <= dims[0] <= MAX_ROWS:
            raise self.bad("B_FLUX", f"has shape {dims}, expected (1 to {MAX_ROWS} spectra, {ARMS[0].n})")
        return int(dims[0])

    def check_image(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse an HDU that is not there, or not a plain image of that shape."""
        info = self._info(name)
        dims = info.get("dims")
        if dims is None or tuple(dims) != shape:
            raise self.bad(name, f"has shape {dims}, expected {list(shape)}")
        if info["is_compressed_image"]:
            raise self.bad(name, "is a compressed image, which DESI does not write; unpack it with funpack")

    def image(self, name: str, shape: tuple[int, ...], kinds: str) -> np.ndarray:
        """An image of the given shape and numpy kinds, in native byte order."""
        self.check_image(name, shape)
        values = self._read(name)
        if values.dtype.kind not in kinds:
            raise self.bad(name, f"holds {values.dtype}, expected a type of kind {kinds}")
        return values

    def columns(self, name: str, wanted: identity.Wanted, n: int | None = None) -> dict[str, np.ndarray]:
        """The wanted columns that the table has, by our name and with our type (spectra.TABLE)."""
        info = self._info(name)
        n_rows = info.get("nrows", -1)
        if "colnames" not in info or not 0 <= n_rows <= MAX_TABLE_ROWS or n not in {None, n_rows}:
            raise self.bad(name, f"is no table of {n or f'up to {MAX_TABLE_ROWS}'} rows")
        have = {column.upper() for column in info["colnames"]}
        names = {ours: next((c for c in theirs if c in have), None) for ours, theirs in wanted.items()}
        chosen = {ours: column for ours, column in names.items() if column}
        if not chosen or not n_rows:
            return {}
        for column in info["colinfo"]:  # a negative type is a list of any length
            if column["name"].upper() in chosen.values() and (
                column["type"] < 0 or not 1 <= column["repeat"] <= MAX_REPEAT
            ):
                raise self.bad(name, f"column {column['name']} holds {column['tform']} a row")
        rows = self._read(name, columns=list(chosen.values()))
        columns = {column.upper(): rows[column] for column in rows.dtype.names or ()}
        try:
            return {ours: identity.convert(columns[column], ours) for ours, column in chosen.items()}
        except ValueError as error:
            raise self.bad(name, f"column {error}") from error

    def _info(self, name: str) -> dict[str, Any]:
        if name not in self._hdus:
            raise self.bad(name, f"is missing; the file has {', '.join(filter(None, self._hdus)) or 'none'}")
        info: dict[str, Any] = self._infos[name]
        return info

    def _read(self, name: str, **options: object) -> np.ndarray:
        try:
            values: np.ndarray = self._hdus[name].read(**options)
        except FITSIO_ERRORS as error:
            raise self.bad(name, f"cannot be read: {_first_line(error)}") from error
        return values


@contextmanager
def _opened(path: Path) -> Iterator[_Fits]:
    """The file for reading; afterwards it must be as it was before."""
    before = _stat(path)
    if not stat.S_ISREG(before.st_mode):
        raise BadInput(f"{path}: is not a regular file")
    if set("[(") & set(str(path)):
        raise BadInput(f"{path}: CFITSIO takes '[' and '(' in a name for a filter or an output; rename it")
    try:
        with closing(_Fits(path, _unzipped_size(path, before.st_size))) as fits:
            yield fits
    except BadInput:
        _check_readable(path)  # a failing disk is not the fault of the file
        _check_unchanged(path, before)
        raise
    _check_unchanged(path, before)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    after = _stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Unavailable(f"{path}: changed while it was read")


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _unzipped_size(path: Path, size: int) -> int:
    """Size of the FITS file [bytes], or of what a .gz holds; CFITSIO would unpack further formats, unasked.

    Raises:
        BadInput: neither FITS nor .gz, a broken .gz, or more than MAX_UNZIPPED_BYTES in it.
        Unavailable: the file cannot be read now.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(FITS_MAGIC))
            if magic == FITS_MAGIC:
                return size
            if path.suffix != ".gz" or not magic.startswith(GZIP_MAGIC):
                raise BadInput(f"{path}: not a FITS file: begins with {magic!r}")
            file.seek(0)
            with gzip.open(file) as content:
                unzipped = 0
                while chunk := content.read(1 << 20):
                    unzipped += len(chunk)
                    if unzipped > MAX_UNZIPPED_BYTES:
                        raise BadInput(f"{path}: unpacks to more than {MAX_UNZIPPED_BYTES} bytes")
                return unzipped
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: not a FITS file: {error}") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _read_table(fits: _Fits, n: int) -> np.ndarray:
    fibermap = {}
    if "FIBERMAP" in fits:
        fibermap = fits.columns("FIBERMAP", identity.FIBERMAP, n)
    else:
        log.warning("%s has no FIBERMAP: targets are unknown, sky fibres are scored as targets", fits.path)
    table = identity.from_fibermap(n, fits.facts(), fibermap)
    if "EXP_FIBERMAP" in fits and identity.needs_exposures(table):
        return identity.add_exposures(table, fits.columns("EXP_FIBERMAP", identity.EXP_FIBERMAP))
    return table


def _read_arms(fits: _Fits, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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


def _check_wave(fits: _Fits, arm: Arm) -> None:
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
