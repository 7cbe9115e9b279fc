"""FITS files as they may be broken: every complaint names file and HDU; the only module that imports fitsio."""

from __future__ import annotations

import gzip
import stat
import zlib
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import fitsio
import numpy as np

from latenight import identity
from latenight.errors import BadInput, Unavailable
from latenight.spectra import MAX_ROWS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

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
MAX_HDUS = 100  # a coadd has 18
FITS_MAGIC, GZIP_MAGIC = b"SIMPLE  =", b"\x1f\x8b"
CARD = 80  # bytes of a line of a header
# BITPIX of the images that may be read as they lie in the file, unless a card of SCALES changes their values.
STORED = {-64: ">f8", -32: ">f4", 32: ">i4", 16: ">i2"}
SCALES = (b"BSCALE", b"BZERO")


@contextmanager
def opened(path: Path) -> Iterator[Fits]:
    """The file for reading; afterwards it must be as it was before."""
    before = _stat(path)
    if not stat.S_ISREG(before.st_mode):
        raise BadInput(f"{path}: is not a regular file")
    if before.st_size == 0:
        raise BadInput(f"{path}: the file is empty")
    if set("[(") & set(str(path)):
        raise BadInput(f"{path}: CFITSIO takes '[' and '(' in a name for a filter or an output; rename it")
    try:
        size = _unzipped_size(path, before.st_size)
        with _open(path) as raw, closing(Fits(path, raw, size)) as fits:
            yield fits
    except BadInput:
        _check_readable(path)  # a failing disk is not the fault of the file
        _check_unchanged(path, before)
        raise
    _check_unchanged(path, before)


class _Ahead(fitsio.FITS):  # type: ignore[misc]  # fitsio has no types
    """A file whose every HDU begins where the last one ends; fitsio looks at one after the other.

    With a negative GCOUNT or PCOUNT (found by fuzzing) the next HDU lies before this one, and CFITSIO would walk in
    circles for ever.

    Attributes:
        infos: get_info of each HDU; it copies deeply, 0.2 ms of FIBERMAP's 80 columns, so it is asked once.
    """

    def _append_hdu_info(self, ext: int) -> None:
        super()._append_hdu_info(ext)
        self.infos: list[dict[str, Any]] = [*getattr(self, "infos", []), self.hdu_list[-1].get_info()]
        info, end = self.infos[-1], self.infos[-2]["data_end"] if ext else 0
        if info["header_start"] != end or not end < info["data_start"] <= info["data_end"] or ext >= MAX_HDUS:
            raise ValueError(
                f"HDU {ext} lies at {info['header_start']} to {info['data_end']}, or is one too many"
            )


class Fits:
    """An open FITS file whose every complaint names the file and the HDU."""

    def __init__(self, path: Path, raw: BufferedReader, size: int) -> None:
        self.path = path
        self._raw = raw
        try:
            self._fits = _Ahead(str(path))
            names = [hdu.get_extname().upper() for hdu in self._fits]
            self._hdus = dict(zip(names, self._fits, strict=True))
            self._infos = dict(zip(names, self._fits.infos, strict=True))
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
        """Close the file."""
        self._fits.close()

    def __contains__(self, name: str) -> bool:
        return name in self._hdus

    def bad(self, name: str, problem: str) -> BadInput:
        """The error that names the file and the HDU."""
        return BadInput(f"{self.path}: HDU {name}: {problem}")

    def header(self) -> dict[str, Any]:
        """The primary header."""
        return dict(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an image, () for a table."""
        return tuple(self._info(name).get("dims") or ())

    def check_image(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse an HDU that is not there, or not a plain image of that shape."""
        info = self._info(name)
        dims = info.get("dims")
        if dims is None or tuple(dims) != shape:
            raise self.bad(name, f"has shape {dims}, expected {list(shape)}")
        if info["is_compressed_image"]:
            raise self.bad(name, "is a compressed image, which DESI does not write; unpack it with funpack")

    def image(self, name: str, shape: tuple[int, ...], kinds: str) -> np.ndarray:
        """An image of the given shape and numpy kinds, in the byte order of the file or of this machine."""
        self.check_image(name, shape)
        values = self._stored(name, shape)
        if values is None:
            values = self._read(name)
        if values.dtype.kind not in kinds:
            raise self.bad(name, f"holds {values.dtype.name}, expected a type of kind {kinds}")
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

    def _stored(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The numbers of an image as they lie in the file; None if it needs CFITSIO.

        fitsio holds the lock of the interpreter while it reads: two threads then read no faster than one (33 and 32 ms
        a file of 300 spectra). This does not, and takes a third of the time.
        """
        info = self._info(name)
        if info["img_type"] not in STORED or self.path.suffix == ".gz":
            return None
        values = np.empty(shape, STORED[info["img_type"]])
        try:
            self._raw.seek(info["header_start"])
            header = self._raw.read(info["data_start"] - info["header_start"])
            if any(header.startswith(SCALES, at) for at in range(0, len(header), CARD)):
                return None
            n_read = self._raw.readinto(values.data)
        except OSError as error:
            raise self.bad(name, f"cannot be read: {error.strerror}") from error
        if n_read != values.nbytes:
            raise self.bad(name, f"ends after {n_read} of {values.nbytes} bytes")
        return values

    def _read(self, name: str, **options: object) -> np.ndarray:
        try:
            values: np.ndarray = self._hdus[name].read(**options)
        except FITSIO_ERRORS as error:
            raise self.bad(name, f"cannot be read: {_first_line(error)}") from error
        return values


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _open(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
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
                        raise BadInput(
                            f"{path}: unpacks to more than {MAX_UNZIPPED_BYTES >> 30} GiB: gunzip it first"
                        )
                return unzipped
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: not a FITS file: {error}") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
