"""Messages and files that nobody can score, each kind by name."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import fitsio
import numpy as np
import pyarrow as pa

from latenight.announce import make_record
from latenight.broker import Record
from latenight.broker.topics import Topics
from latenight.pointer import CONTENT_POINTER
from latenight.spectra import ARMS, MAX_ROWS, N_JOINT, N_PIX
from latenight.wire import CONTENT_ARROW, encode_spectra
from tests.coadds import NAME, REDROCK_NAME, coadd_hdus, make_redshifts, make_table, write_coadd, write_hdus
from tests.fakes import add_spikes, make_spectra
from tests.test_wire import edit, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

TOPICS = Topics("t")
N = 9
SPECTRA = add_spikes(make_spectra(N, seed=1), [0])
GOOD = encode_spectra(make_spectra(3, seed=2))
HEADERS = (("content-type", CONTENT_ARROW.encode()), ("sent-by", b"\xff"))


def inline(value: bytes, content_type: str = CONTENT_ARROW) -> Record:
    return Record(TOPICS.spectra, b"1000-0", value, (("content-type", content_type.encode()), *HEADERS[1:]))


def columns(**changes: object) -> Callable[[Path], Record]:
    """A stream whose columns are replaced (None: dropped)."""

    def change(found: dict[str, object]) -> None:
        found.update(changes)
        for name in [name for name, values in changes.items() if values is None]:
            del found[name]

    return lambda _: inline(edit(GOOD, change))


def compressed(_: Path) -> Record:
    batch = pa.ipc.open_stream(GOOD).read_next_batch()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    return inline(sink.getvalue().to_pybytes())


def row_bomb(_: Path) -> Record:
    """A million rows of which nothing is sent: a column of nulls has no buffer."""
    batch = pa.record_batch({"targetid": pa.nulls(1_000_000)})
    sink = pa.BufferOutputStream()
    schema = batch.schema.with_metadata({"format": "latenight.spectra/1", "source": "x"})
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return inline(sink.getvalue().to_pybytes())


def long_source(_: Path) -> Record:
    return inline(encode_spectra(replace(make_spectra(3, seed=2), source="x" * 1_000_000)))


def pointer(folder: Path, **changes: object) -> Record:
    """A pointer to a good coadd, with some fields changed."""
    record = make_record(write_coadd(folder, SPECTRA), "pointer", TOPICS.spectra)
    value = json.dumps(json.loads(record.value) | changes).encode()
    return replace(record, value=value, headers=(*record.headers, *HEADERS[1:]))


def pointing(**changes: object) -> Callable[[Path], Record]:
    return lambda folder: pointer(folder, **changes)


def outside(folder: Path) -> Record:
    return pointer(folder, path=f"{folder}/../secret.fits")


def linked_outside(folder: Path) -> Record:
    write_coadd(folder.parent, SPECTRA)
    (folder / "link.fits").symlink_to(folder.parent / NAME)
    return pointer(folder, path=str(folder / "link.fits"))


def fifo(folder: Path) -> Record:
    os.mkfifo(folder / "fifo.fits")
    return pointer(folder, path=str(folder / "fifo.fits"))


def after(change: Callable[[Path], object]) -> Callable[[Path], Record]:
    """A pointer to a good coadd, and then the change of the file."""

    def announce_and_change(folder: Path) -> Record:
        record = pointer(folder)
        change(folder / NAME)
        return record

    return announce_and_change


def rewritten(path: Path) -> None:
    write_coadd(path.parent, make_spectra(N, seed=5))
    os.utime(path, (2_000_000_000, 2_000_000_000))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2880)


def said_of(path: Path, spectra: int = N) -> Record:
    """A pointer that says the truth of size and time of a file that nobody would announce."""
    status = path.stat()
    return pointer_to(path, size=status.st_size, mtime=status.st_mtime, n=spectra)


def pointer_to(path: Path, **facts: object) -> Record:
    content = {"schema": "latenight.coadd/1", "path": str(path), "redrock": None, "tileid": 1000, "petal": 0,
               "night": 20260101, "survey": "main", "program": "dark", **facts}  # fmt: skip
    return inline(json.dumps(content).encode(), CONTENT_POINTER)


def of_hdus(**changes: np.ndarray | None) -> Callable[[Path], Record]:
    """A coadd with some HDUs replaced (None: missing)."""

    def write(folder: Path) -> Record:
        hdus = {name: hdu for name, hdu in (coadd_hdus(SPECTRA) | changes).items() if hdu is not None}
        return said_of(write_hdus(folder / NAME, hdus))

    return write


def of_bytes(content: Callable[[bytes], bytes], name: str = NAME) -> Callable[[Path], Record]:
    """A file of bytes, made from those of a good coadd."""

    def write(folder: Path) -> Record:
        data = content(write_coadd(folder, SPECTRA).read_bytes())
        (folder / name).write_bytes(data)
        return said_of(folder / name)

    return write


def many_rows(folder: Path) -> Record:
    """A small file that claims 100 000 spectra."""
    return said_of(write_hdus(folder / NAME, coadd_hdus(SPECTRA) | {"B_FLUX": np.zeros((100_000, 1), "u1")}))


def squeezed(folder: Path) -> Record:
    """A coadd with a tile-compressed image."""
    path = write_hdus(
        folder / NAME, {name: hdu for name, hdu in coadd_hdus(SPECTRA).items() if name != "B_FLUX"}
    )
    with fitsio.FITS(str(path), "rw") as fits:
        fits.write(coadd_hdus(SPECTRA)["B_FLUX"], extname="B_FLUX", compress="gzip", qlevel=0)
    return said_of(path)


def in_a_circle(data: bytes) -> bytes:
    """A coadd whose third HDU has a negative size, so that the next one would lie before it."""
    at = data.index(b"GCOUNT  =                    1", data.index(b"B_WAVELENGTH"))
    return data[:at] + b"GCOUNT  =                   -2" + data[at + 30 :]


def broken_redrock(folder: Path) -> Record:
    record = pointer(folder)
    (folder / REDROCK_NAME).write_bytes(b"SIMPLE")
    return record


def doubled_redrock(folder: Path) -> Record:
    record = pointer(folder)
    rows = make_redshifts(SPECTRA.table)
    write_hdus(folder / REDROCK_NAME, {"REDSHIFTS": np.concatenate([rows, rows])})
    return record


@dataclass(frozen=True)
class Poison:
    """A message that becomes a dead letter.

    Attributes:
        make: writes what it points to into a folder, the only root, and gives the message.
        reason: what the letter says.
    """

    make: Callable[[Path], Record]
    reason: str


GRID = ARMS[0].wave
POISON = {
    # the message
    "no payload": Poison(lambda _: inline(b""), "expected one Arrow batch"),
    "noise": Poison(lambda _: inline(bytes(range(256)) * 99), "not an Arrow stream|expected one Arrow batch"),
    "no content type": Poison(lambda _: Record(TOPICS.spectra, None, GOOD), "content-type is ''"),
    "unknown content type": Poison(lambda _: inline(GOOD, "text/html"), "content-type is 'text/html'"),
    "truncated stream": Poison(lambda _: inline(GOOD[: len(GOOD) // 2]), "not an Arrow stream"),
    "compressed stream": Poison(compressed, "the batch is compressed"),
    "too many rows": Poison(row_bomb, f"1000000 rows, more than {MAX_ROWS}"),
    "endless source": Poison(long_source, "no source of up to 4096 bytes"),
    "no rows": Poison(lambda _: inline(encode_spectra(SPECTRA.take(slice(0)))), "no rows"),
    "joint grid instead of arms": Poison(columns(flux=pixels(np.zeros((3, N_JOINT), "f4"), N_JOINT)), "flux is fixed"),
    "float64 flux": Poison(columns(flux=pixels(np.zeros((3, N_PIX)))), "column flux is fixed.*double"),
    "flux missing": Poison(columns(flux=None), "column flux is missing"),
    "TARGETID missing": Poison(columns(targetid=None), "column targetid is missing"),
    "TARGETID a float": Poison(columns(targetid=pa.array(np.zeros(3))), "column targetid is double"),
    "TARGETID null": Poison(columns(targetid=pa.array([None] * 3, pa.int64())), "column targetid holds nulls"),
    "NaN in good pixels": Poison(columns(flux=pixels(np.full((3, N_PIX), np.nan, "f4"))), "flux is not finite"),
    "negative ivar inline": Poison(columns(ivar=pixels(np.full((3, N_PIX), -1, "f4"))), "ivar holds .* negative"),
    "NaN ivar inline": Poison(columns(ivar=pixels(np.full((3, N_PIX), np.nan, "f4"))), "ivar holds .* not finite"),
    "infinite redshift": Poison(columns(z=pa.array(np.full(3, np.inf, "f4"))), "column z is infinite"),
    "unknown spectype": Poison(columns(spectype=pa.array(["ALIEN"] * 3)), "column spectype holds something else"),
    # the pointer
    "pointer no JSON": Poison(lambda _: inline(b"{", CONTENT_POINTER), "pointer: not JSON"),
    "pointer of another schema": Poison(pointing(schema="latenight.coadd/9"), "schema 'latenight.coadd/1'"),
    "pointer with a relative path": Poison(pointing(path="coadd.fits"), "expected an absolute path"),
    "pointer with half a character": Poison(pointing(path="/\ud800"), "expected an absolute path"),
    "pointer of a megabyte": Poison(pointing(survey="x" * 1_000_000), "more than 65536"),
    "pointer out of the roots": Poison(outside, "outside the allowed roots"),
    "link out of the roots": Poison(linked_outside, "outside the allowed roots"),
    "redrock out of the roots": Poison(pointing(redrock="/etc/passwd"), "passwd: lies outside"),
    "a folder": Poison(lambda folder: pointer(folder, path=str(folder)), "not a regular file"),
    "a FIFO": Poison(fifo, "not a regular file"),
    "another number of spectra": Poison(pointing(n=N + 1), f"has {N} spectra, but {N + 1} were announced"),
    # the file
    "a file that vanished": Poison(after(Path.unlink), "No such file"),
    "a redrock file that vanished": Poison(after(lambda path: path.with_name(REDROCK_NAME).unlink()), "No such file"),
    "a file reduced again in place": Poison(after(rewritten), "changed since it was announced"),
    "a file cut after its announcement": Poison(after(cut), "changed since it was announced"),
    "a truncated file": Poison(of_bytes(lambda data: data[:-2880]), "it was cut"),
    "a file cut in a header": Poison(of_bytes(lambda data: data[:5000]), "not a FITS file|it was cut"),
    "an empty file": Poison(of_bytes(lambda _: b""), "the file is empty"),
    "a file of another format": Poison(of_bytes(lambda _: b"<html>404</html>"), "not a FITS file"),
    "a truncated .gz": Poison(of_bytes(lambda data: gzip.compress(data, 1)[:-99], f"{NAME}.gz"), "not a FITS file"),
    "a .gz of a cut file": Poison(of_bytes(lambda data: gzip.compress(data[:-2880], 1), f"{NAME}.gz"), "it was cut"),
    "a zipped file without the name": Poison(of_bytes(lambda data: gzip.compress(data, 1)), "not a FITS file"),
    "a file of 100 000 spectra": Poison(many_rows, "expected 1 to 10000 rows"),
    "a compressed image": Poison(squeezed, "HDU B_FLUX: is a compressed image"),
    "a missing arm": Poison(of_hdus(Z_FLUX=None), "HDU Z_FLUX: is missing"),
    "a missing mask": Poison(of_hdus(R_MASK=None), "HDU R_MASK: is missing"),
    "a missing wavelength": Poison(of_hdus(B_WAVELENGTH=None), "HDU B_WAVELENGTH: is missing"),
    "a wrong grid": Poison(of_hdus(B_WAVELENGTH=GRID + 0.1), "HDU B_WAVELENGTH: is not the DESI grid"),
    "a wrong number of pixels": Poison(of_hdus(B_IVAR=np.ones((N, 9), "f4")), "HDU B_IVAR: has shape"),
    "integer flux": Poison(of_hdus(B_FLUX=np.ones((N, ARMS[0].n), "i4")), "HDU B_FLUX: holds int32"),
    "HDUs in a circle": Poison(of_bytes(in_a_circle), "HDU .* lies at"),
    "an arm of NaN": Poison(of_hdus(Z_FLUX=np.full((N, ARMS[2].n), np.nan, "f4")), "Z_FLUX: holds no finite value"),
    "a FIBERMAP of other rows": Poison(of_hdus(FIBERMAP=make_table({"TARGETID": np.arange(3)})), "is no table of 9"),
    "TARGETID as float64": Poison(of_hdus(FIBERMAP=make_table({"TARGETID": np.ones(N)})), "targetid holds .*f8"),
    "a broken redrock file": Poison(broken_redrock, "redrock.*not a FITS file"),
    "two redshifts of one target": Poison(doubled_redrock, "two rows of one TARGETID"),
}  # fmt: skip
