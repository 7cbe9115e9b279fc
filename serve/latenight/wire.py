"""Inline spectra and score tables as they travel and are stored; the only module that imports pyarrow.

They are Arrow IPC streams of one record batch, whose schema metadata name the format, so that any language
with Arrow can publish spectra or read scores. The batch is not compressed (Kafka can do that) and has no
dictionaries: a message never unpacks to more than its size.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from flatbuffers.table import Table

from latenight.errors import BadInput
from latenight.scores import SCORES
from latenight.spectra import (
    MAX_FLUX,
    MAX_IVAR,
    MAX_ROWS,
    N_PIX,
    SPECTYPES,
    TABLE,
    Spectra,
    bound,
    empty_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from latenight.scores import Scores

CONTENT_ARROW = "application/vnd.apache.arrow.stream"
SPECTRA_FORMAT = "latenight.spectra/1"
SCORES_FORMAT = "latenight.scores/1"

MAX_SOURCE = 4096  # bytes, the longest path; it stands in every row of the scores
PIXELS = pa.list_(pa.float32(), N_PIX)
TEXT_SCORES = ("bundle", "source")  # the columns of a score table that are the same in all rows of a message


def encode_spectra(spectra: Spectra) -> bytes:
    """The spectra as an Arrow stream: columns flux, ivar (fixed-size lists of 7958 float32) and TABLE's."""
    columns = {"flux": _pixels(spectra.flux), "ivar": _pixels(spectra.ivar)}
    columns |= {name: pa.array(spectra.table[name]) for name in TABLE.names or ()}
    metadata = {"format": SPECTRA_FORMAT, "source": os.fsencode(spectra.source)}
    return _encode(pa.record_batch(columns).replace_schema_metadata(metadata))


def decode_spectra(data: bytes) -> Spectra:
    """The spectra as they were encoded; arrays are read-only views of data where possible.

    flux, ivar and targetid are required; an identity column that is not there holds its missing value.
    Flux in bad pixels (ivar 0) becomes 0, and what is beyond MAX_FLUX or MAX_IVAR becomes as much.

    Raises:
        BadInput: not such a stream, wrong types or lengths, no rows, nulls, NaN or negative ivar, flux not
            finite in a good pixel; names the column. The daemon sends the message to the dead letters.
    """
    batch = _decode(data, SPECTRA_FORMAT)
    source = batch.schema.metadata.get(b"source")
    if source is None or len(source) > MAX_SOURCE or not batch.num_rows:
        raise BadInput(f"spectra: no rows, or no source of up to {MAX_SOURCE} bytes in the schema metadata")
    for required in ("flux", "ivar", "targetid"):
        if required not in batch.schema.names:
            raise BadInput(f"spectra: column {required} is missing")
    ivar = _values(batch, "ivar", PIXELS).reshape(-1, N_PIX)
    if not ((ivar >= 0) & (ivar < np.inf)).all():
        raise BadInput("spectra: column ivar holds a value that is negative or not finite")
    flux = _values(batch, "flux", PIXELS).reshape(-1, N_PIX)
    garbage = (ivar == 0) & (flux != 0)
    if garbage.any():
        flux = np.where(garbage, np.float32(0), flux)
    if not np.isfinite(flux).all():
        raise BadInput("spectra: column flux is not finite in a good pixel")
    if max(flux.max(), -flux.min()) > MAX_FLUX or ivar.max() > MAX_IVAR:
        flux, ivar = flux.copy(), ivar.copy()
        bound(flux, ivar)
    return Spectra(flux=flux, ivar=ivar, table=_identity(batch), source=os.fsdecode(source))


def _pixels(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), N_PIX)


def _identity(batch: pa.RecordBatch) -> np.ndarray:
    table = empty_table(batch.num_rows)
    for name in TABLE.names or ():
        if name not in batch.schema.names:
            continue
        values = _values(batch, name, _arrow_type(TABLE[name]))
        if values.dtype.kind == "f" and np.isinf(values).any():
            raise BadInput(f"spectra: column {name} is infinite")
        table[name] = values
    if not np.isin(table["spectype"], SPECTYPES).all():
        raise BadInput(f"spectra: column spectype holds something else than {', '.join(SPECTYPES)}")
    return table


def encode_scores(spectra: Spectra, scores: Scores) -> bytes:
    """The score table of one message as an Arrow stream: TABLE's columns, SCORES's, bundle and source."""
    return _encode(_score_batch(spectra, scores))


def decode_scores(data: bytes) -> dict[str, np.ndarray]:
    """The columns of a score table by name.

    Raises:
        BadInput: not such a stream.
    """
    return _columns(_decode(data, SCORES_FORMAT))


def _score_batch(spectra: Spectra, scores: Scores) -> pa.RecordBatch:
    text = {
        "bundle": scores.bundle_id,
        "source": os.fsencode(spectra.source).decode("utf-8", "replace"),  # a path may hold other bytes
    }
    columns = {name: pa.array(spectra.table[name]) for name in TABLE.names or ()}
    columns |= {name: pa.array(scores.table[name]) for name in SCORES.names or ()}
    columns |= {name: pa.array([text[name]] * len(spectra), pa.string()) for name in TEXT_SCORES}
    return pa.record_batch(columns).replace_schema_metadata({"format": SCORES_FORMAT})


def scores_by_night(data: bytes) -> dict[int, pa.Table]:
    """The rows of a score table, apart for each night (-1 if unknown); in order, with all columns.

    Raises:
        BadInput: not such a stream, or without integers tileid, petal and night.
    """
    table = pa.Table.from_batches([_decode(data, SCORES_FORMAT)])
    for name in ("tileid", "petal", "night"):
        if name not in table.schema.names or not pa.types.is_integer(table.schema.field(name).type):
            raise BadInput(f"scores: column {name} is missing or holds no integers")
    nights = _to_numpy("night", table["night"])
    return {int(night): table.filter(pa.array(nights == night)) for night in np.unique(nights)}


class ParquetScores:
    """A Parquet file of scores that is being written, one row group per message."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, spectra: Spectra, scores: Scores) -> None:
        """Append the score table of one message."""
        self._writer.write_batch(_score_batch(spectra, scores))


@contextmanager
def open_parquet(path: Path) -> Iterator[ParquetScores]:
    """A Parquet file that appears under its name when the block ends well, and not at all otherwise."""
    with _whole(path) as file, pq.ParquetWriter(file, SCORE_SCHEMA, compression="zstd") as writer:
        yield ParquetScores(writer)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of scores_by_night as a Parquet file, whole or not at all."""
    with _whole(path) as file:
        pq.write_table(table, file, compression="zstd")


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_parquet(path: Path, messages: Sequence[tuple[Spectra, Scores]]) -> None:
    """Write the score tables of the messages, in order; see open_parquet."""
    with open_parquet(path) as parquet:
        for spectra, scores in messages:
            parquet.write(spectra, scores)


def read_parquet(path: Path) -> dict[str, np.ndarray]:
    """The columns of a Parquet file of scores by name.

    Raises:
        BadInput: not a Parquet file of scores.
    """
    try:
        table = pq.read_table(path).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not a Parquet file: {error}") from error
    if (table.schema.metadata or {}).get(b"format") != SCORES_FORMAT.encode():
        raise BadInput(f"{path}: not a score table ({SCORES_FORMAT})")
    return _columns(table)


def _columns(batch: pa.RecordBatch | pa.Table) -> dict[str, np.ndarray]:
    return {name: _to_numpy(name, batch.column(name)) for name in batch.schema.names}


def _to_numpy(name: str, array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if array.null_count:
        raise BadInput(f"column {name} holds nulls")
    if pa.types.is_string(array.type):
        return np.array(array.to_pylist(), dtype=str)
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType:
    return pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)


def _values(batch: pa.RecordBatch, name: str, expected: pa.DataType) -> np.ndarray:
    """The column as numpy, lists flattened."""
    column = batch.column(batch.schema.names.index(name))
    if column.type != expected:
        raise BadInput(f"spectra: column {name} is {column.type}, expected {expected}")
    # Before it is unpacked: numpy gives every row the room of the longest text, 56 GB for 500 rows and one of 30 MB.
    longest = TABLE[name].itemsize // 4 if expected == pa.string() else 0
    if longest and (pc.max(pc.utf8_length(column)).as_py() or 0) > longest:
        raise BadInput(f"spectra: column {name} holds more than {longest} characters")
    if expected == PIXELS and not column.null_count:
        column = column.flatten()
    return _to_numpy(name, column)


def _encode(batch: pa.RecordBatch) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = stream.getvalue().to_pybytes()
    return data


def _decode(data: bytes, expected: str) -> pa.RecordBatch:
    try:
        messages = list(pa.ipc.MessageReader.open_stream(pa.py_buffer(data)))
        kinds = [message.type for message in messages]
        if kinds != ["schema", "record batch"]:
            raise BadInput(f"{expected}: expected one Arrow batch, found {', '.join(kinds) or 'nothing'}")
        schema = pa.ipc.read_schema(messages[0])
        found = (schema.metadata or {}).get(b"format", b"")
        if found != expected.encode():
            raise BadInput(f"{expected}: found Arrow of format {found!r:.80}")
        if len(set(schema.names)) != len(schema.names):  # ValueError if they are no text
            raise BadInput(f"{expected}: two columns of one name")
        if _is_compressed(messages[1]):
            raise BadInput(f"{expected}: the batch is compressed; publish it as it is, Kafka can compress it")
        batch = pa.ipc.read_record_batch(messages[1], schema)
        if batch.num_rows > MAX_ROWS:
            raise BadInput(f"{expected}: {batch.num_rows} rows, more than {MAX_ROWS}")
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{expected}: not an Arrow stream: {error}") from error
    return batch


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether a record batch names a codec: Message.header.compression of Arrow's Message.fbs."""
    metadata = message.metadata.to_pybytes()
    root = Table(metadata, int.from_bytes(metadata[:4], "little"))
    header = Table(metadata, root.Indirect(root.Pos + root.Offset(8)))
    return bool(header.Offset(10))


SCORE_SCHEMA = pa.schema(
    [
        *[(name, _arrow_type(dtype[name])) for dtype in (TABLE, SCORES) for name in dtype.names or ()],
        *[(name, pa.string()) for name in TEXT_SCORES],
    ],
    metadata={"format": SCORES_FORMAT},
)
