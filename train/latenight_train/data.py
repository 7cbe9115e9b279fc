"""Training data: the coadds of a survey as memory-mapped arrays, and their split by petal."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from latenight.desi import find_coadds, read_coadd, redrock_beside
from latenight.errors import StartupError
from latenight.spectra import N_PIX, TABLE, UNKNOWN, Spectra, ineligible_reasons

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

HELD_OUT = 0.25  # of the petals: calibration wants at least 1000 spectra per class
# Smaller numbers are no TARGETIDs of DESI, whose upper bits name a release; some simulations count from 1 in each file.
LEAST_TARGETID = 1 << 42
OBJECT = np.dtype([("targetid", "i8"), ("ra", "f8"), ("dec", "f8")])


@dataclass(frozen=True)
class Survey:
    """All spectra of the training files, row after row.

    Attributes:
        flux: (N, 7958) float32 memory map.
        ivar: (N, 7958) float32 memory map.
        table: (N,) of dtype TABLE.
        reasons: (N,) why a row is not eligible; "" if it is.
        files: name, first row and sha256 of what was read, of each file.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    table: np.ndarray
    reasons: np.ndarray
    files: Sequence[tuple[str, int, str]]

    def spectra(self, rows: NDArray[np.intp]) -> Spectra:
        """Some rows in memory."""
        return Spectra(np.array(self.flux[rows]), np.array(self.ivar[rows]), self.table[rows], "survey")

    def messages(self) -> Iterator[tuple[slice, Spectra]]:
        """The rows and the spectra of each file: the unit that the scorer sees at once."""
        starts = [start for _, start, _ in self.files]
        for (name, start, _), stop in zip(self.files, [*starts[1:], len(self.table)], strict=True):
            rows = slice(start, stop)
            yield rows, Spectra(self.flux[rows], self.ivar[rows], self.table[rows], name)


def load_survey(paths: Sequence[Path], cache: Path) -> Survey:
    """Read all coadds below the given paths once into memory-mapped arrays.

    Args:
        paths: coadd files and directories.
        cache: directory for the arrays; what it holds of the same files, redrock's among them (path, size, mtime), is
            used again.

    Raises:
        StartupError: there is no coadd, or a path does not exist.
        BadInput: a coadd cannot be read; training on less than what was asked would go unnoticed.
    """
    files = find_coadds(paths)
    if not files:
        raise StartupError(f"no coadd-*.fits below {', '.join(map(str, paths))}: name files or directories")
    if missing := [str(file) for file in files if not file.exists()]:
        raise StartupError(f"no such file or directory: {', '.join(missing)}")
    read = [path for file in files for path in (file, redrock_beside(file)) if path is not None]
    identity = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in read]
    index = cache / "index.json"
    if not index.is_file() or json.loads(index.read_text())["identity"] != identity:
        cache.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)  # an interrupted reading leaves no old index beside new arrays
        index.write_text(json.dumps({"identity": identity, "files": _read_all(files, cache)}))
    table = np.fromfile(cache / "table", TABLE)
    shape = (len(table), N_PIX)
    flux, ivar = (np.memmap(cache / name, np.float32, mode="r", shape=shape) for name in ("flux", "ivar"))
    reasons = np.fromfile(cache / "reasons", "U12")
    return Survey(flux, ivar, table, reasons, [tuple(f) for f in json.loads(index.read_text())["files"]])


def without_repeats(survey: Survey) -> Survey:
    """The same survey, where a target counts in the first petal that shows it well: rows elsewhere are not eligible.

    DESI observes many targets on several tiles (quasars for the Lyman alpha forest four times). With one of them on
    both sides of a split, models would be calibrated on spectra that they know.
    """
    rows = np.flatnonzero(survey.reasons == "")
    rows = rows[survey.table["targetid"][rows] >= LEAST_TARGETID]
    petals = petal_numbers(survey.table)[rows]
    _, first, which = np.unique(objects(survey.table[rows]), return_index=True, return_inverse=True)
    again = petals != petals[first][which.ravel()]
    reasons = survey.reasons.copy()
    reasons[rows[again]] = "repeat"
    return replace(survey, reasons=reasons)


def objects(table: np.ndarray) -> np.ndarray:
    """What tells the target of each row from others, in whatever file it comes, (N,) of dtype OBJECT."""
    found = np.zeros(len(table), OBJECT)
    found["targetid"] = table["targetid"]
    for name in ("ra", "dec"):
        found[name] = np.nan_to_num(table[name])
    return found


def _read_all(files: Sequence[Path], cache: Path) -> list[tuple[str, int, str]]:
    """Append every file to the arrays in the cache; name, first row and digest of each."""
    found, row = [], 0
    names = ("flux", "ivar", "table", "reasons")
    streams = {name: (cache / name).open("wb") for name in names}
    try:
        for path in tqdm(files, desc="reading", unit="file", disable=None):
            spectra = read_coadd(path)
            digest = hashlib.sha256()
            values = (spectra.flux, spectra.ivar, spectra.table, ineligible_reasons(spectra).astype("U12"))
            for name, array in zip(names, values, strict=True):
                data = array.tobytes()
                streams[name].write(data)
                digest.update(data)
            found.append((path.name, row, digest.hexdigest()))
            row += len(spectra)
    finally:
        for stream in streams.values():
            stream.close()
    return found


def evenly(rows: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """At most n of the rows, spread evenly over them."""
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(len(rows), n)).astype(int)])


def without_redshift(table: np.ndarray) -> np.ndarray:
    """A copy of a table of spectra whose redshifts and classes are not known."""
    hidden = table.copy()
    hidden["z"], hidden["spectype"] = np.nan, UNKNOWN
    return hidden


def split_by_petal(table: np.ndarray, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out from the network, (N,): whole petals of a tile, never single rows.

    Fibres of one petal share noise and sky residuals; with rows of a petal on both sides, calibration would
    not see the differences between petals that every new night brings.

    Raises:
        StartupError: there are fewer than two petals, or too many spectra do not tell theirs.
    """
    unknown = np.mean(table["petal"] < 0)
    if unknown > HELD_OUT:
        raise StartupError(
            f"{unknown:.0%} of the spectra do not tell their petal, as in healpix coadds: train on coadds of tiles"
        )
    order = _shuffled_petals(table, seed)
    return np.asarray(order < max(round(HELD_OUT * (order.max() + 1)), 1))


def petal_folds(table: np.ndarray, n: int, seed: int) -> list[NDArray[np.bool_]]:
    """The rows (N,) of n parts of the petals; of fewer where there are fewer petals."""
    order = _shuffled_petals(table, seed)
    return [np.asarray(order % n == k) for k in range(min(n, order.max() + 1))]


def _shuffled_petals(table: np.ndarray, seed: int) -> NDArray[np.intp]:
    """The place of each row's petal in a random order of all petals of all tiles, (N,)."""
    petals = petal_numbers(table)
    n = int(petals.max()) + 1
    if n < 2:
        raise StartupError("fit needs spectra of at least two petals: one part is held out for calibration")
    place = np.empty(n, np.intp)
    place[np.random.default_rng(seed).permutation(n)] = np.arange(n)
    return place[petals]


def petal_numbers(table: np.ndarray) -> NDArray[np.intp]:
    """A number for the petal of each row, (N,): petals of all tiles are counted through."""
    petals = np.stack([table["tileid"], table["petal"]], axis=1)
    _, index = np.unique(petals, axis=0, return_inverse=True)
    return np.asarray(index.ravel())
