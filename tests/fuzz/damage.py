"""Good messages and coadd files -> broken ones: input number `index` of a seed is always the same."""

from __future__ import annotations

import gzip
import json
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from latenight.pointer import CONTENT_POINTER
from latenight.spectra import N_PIX
from latenight.wire import CONTENT_ARROW, encode_spectra
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from random import Random

    from latenight.broker import Headers

EDGES = [
    sign * 2**power + step for power in (0, 7, 8, 15, 16, 31, 32, 62) for sign in (1, -1) for step in (-1, 0)
]
NUMBERS = [*EDGES, 0.5, 1e300, float("nan"), float("inf"), 10**400]
JSON_VALUES: list[Any] = [
    *NUMBERS,
    None,
    True,
    "",
    "x" * 5000,
    "\ud800",
    "\0",
    [],
    {},
    [[[]]],
    "/",
    "/dev/zero",
]
CARD_VALUES = [
    *(
        "T",
        "F",
        "''",
        "'",
        "'x'",
        "NaN",
        "1E400",
        "-",
        "",
        "/ no value",
        "(1, 2)",
        "\x00",
        "\xff",
        "&",
        "'&'",
    ),
    *(
        "'1PE(999999999)'",
        "'999999999E'",
        "'0E'",
        "'-1E'",
        "'1QE(1)'",
        "'8X'",
        "'1M'",
        "'A2147483647'",
        "'(9,9)'",
    ),
    *(
        "'IMAGE   '",
        "'BINTABLE'",
        "'TABLE   '",
        "'GZIP_1'",
        "'RICE_1'",
        "'HCOMPRESS_1'",
        "'FIBERMAP'",
        "'B_FLUX'",
    ),
    *(str(edge) for edge in EDGES),
    *("-32", "-64", "8", "16", "64", "9223372036854775808", "99999999999999999999"),
]
CARD, BLOCK = 80, 2880


def damage_bytes(rng: Random, data: bytes, head: int) -> bytes:
    """One to four wounds, nine of ten within the first `head` bytes, where the structure is described."""
    wounded = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not wounded:
            break
        reach = min(head, len(wounded)) if rng.random() < 0.9 else len(wounded)
        at = rng.randrange(reach)
        match rng.randrange(8):
            case 0 | 1:
                wounded[at] = rng.randrange(256)
            case 2 | 3 | 4:
                size, letter = rng.choice([(1, "b"), (2, "h"), (4, "i"), (8, "q")])
                edge = rng.choice(EDGES) & (256**size - 1)
                at -= at % size
                wounded[at : at + size] = struct.pack(rng.choice("<>") + letter.upper(), edge)
            case 5:
                del wounded[at:]
            case 6:
                del wounded[at : at + rng.choice([1, 4, 8, 64, 1024])]
            case 7:
                wounded[at:at] = wounded[at : at + rng.choice([1, 4, 8, 64, 1024])]
    return bytes(wounded)


# Messages --------------------------------------------------------------------------------------------------------


def damaged_message(rng: Random, coadd: dict[str, Any]) -> tuple[bytes, Headers]:
    """Payload and headers of a message; `coadd` is the JSON of a pointer that can be read."""
    name = rng.choice([CONTENT_POINTER, CONTENT_ARROW])
    value = _pointer(rng, coadd) if name == CONTENT_POINTER else _stream(rng)
    if rng.random() < 0.6:
        value = damage_bytes(rng, value, head=len(value) if name == CONTENT_POINTER else 8192)
    content_type = name.encode()
    if rng.random() < 0.02:
        content_type = damage_bytes(rng, content_type, head=100)
    return value, (("content-type", content_type),)


def _pointer(rng: Random, coadd: dict[str, Any]) -> bytes:
    content = dict(coadd)
    for _ in range(rng.randrange(3)):
        content[rng.choice([*content])] = rng.choice(JSON_VALUES)
    if rng.random() < 0.05:
        return rng.choice([b"[", b'{"a":', b"9", b'"', b" "]) * rng.randrange(1, 100_000)
    return json.dumps(content).encode()


@cache
def _good_batch(n: int) -> pa.RecordBatch:
    return pa.ipc.open_stream(encode_spectra(make_spectra(n, seed=n))).read_next_batch()


def _stream(rng: Random) -> bytes:
    batch = _good_batch(rng.choice([1, 1, 1, 2, 3]))
    columns = {name: batch.column(name) for name in batch.schema.names}
    for _ in range(rng.randrange(3)):
        name = rng.choice([*columns, "another"])
        columns[name] = _column(rng, batch.num_rows)
        if rng.random() < 0.2:
            del columns[name]
    metadata = dict(batch.schema.metadata)
    if rng.random() < 0.1:
        metadata[rng.choice([b"format", b"source"])] = rng.choice([b"", b"\xff", b"x" * 100_000, b"a/1"])
    batch = pa.record_batch(columns).replace_schema_metadata(metadata)
    options = pa.ipc.IpcWriteOptions(compression=rng.choice([None] * 8 + ["lz4", "zstd"]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        for _ in range(rng.choice([1] * 18 + [0, 2])):
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _column(rng: Random, n: int) -> pa.Array:
    """A column that may be right, of a wrong type, or of values that nobody expects."""
    pixels = np.full(n * N_PIX, rng.choice([0.0, -1.0, 1e38, -3e38, 1e-45, np.nan, np.inf]), np.float32)
    pixels[rng.randrange(n * N_PIX)] = rng.choice([0.0, 1.0, -1.0, np.nan, -np.inf, 3e38])
    text = rng.choice(["", "GALAXY", "STAR", "x" * 17, "\0", "a\0b", "\N{GRINNING FACE}" * 8, "x" * 10_000])
    number = rng.choice([0, 1, -1, 2**15 - 1, 2**31 - 1])
    builders = [
        lambda: pa.FixedSizeListArray.from_arrays(pa.array(pixels), N_PIX),
        lambda: pa.array([pixels.tolist()[:10]] * n, pa.list_(pa.float32())),
        lambda: pa.array([None] * n, pa.list_(pa.float32(), N_PIX)),
        lambda: pa.array([text] * n),
        lambda: pa.array([text] * n).dictionary_encode(),
        lambda: pa.array([text.encode()] * n, pa.large_binary()),
        lambda: pa.array([number] * n, rng.choice([pa.int32(), pa.int64()])),
        lambda: pa.array([rng.choice([0.0, -1.0, 1e38, np.nan, np.inf])] * n, rng.choice([pa.float32(), pa.float64()])),
        lambda: pa.nulls(n),
        lambda: pa.array([None] * n, pa.int64()),
        lambda: pa.array([{"a": number}] * n),
        lambda: pa.array([bool(number)] * n),
    ]  # fmt: skip
    return rng.choice(builders)()


# Files -----------------------------------------------------------------------------------------------------------


def damaged_file(rng: Random, data: bytes) -> bytes:
    """A FITS file with damaged header cards, HDUs or bytes; now and then zipped, and then damaged."""
    hdus = _split(data)
    match rng.randrange(10):
        case 0:
            hdus = _shuffled(rng, hdus)
        case 1 | 2 | 3 | 4 | 5 | 6:
            for _ in range(rng.randint(1, 3)):
                number = rng.randrange(len(hdus))
                hdus[number] = _damage_cards(rng, hdus[number])
        case 7:
            return gzip.compress(b"".join(hdus), 1)
        case _:
            number = rng.randrange(len(hdus))
            hdus[number] = damage_bytes(rng, hdus[number], head=BLOCK)
    data = b"".join(hdus)
    if rng.random() < 0.1:
        data = damage_bytes(rng, data, head=len(data))
    if rng.random() < 0.1:
        data = gzip.compress(data, 1)
        data = damage_bytes(rng, data, head=100) if rng.random() < 0.5 else data
    return data


def _split(data: bytes) -> list[bytes]:
    """The HDUs of a good file: every one begins with SIMPLE or XTENSION at the start of a block."""
    starts = [at for at in range(0, len(data), BLOCK) if data[at : at + 8] in (b"SIMPLE  ", b"XTENSION")]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _shuffled(rng: Random, hdus: list[bytes]) -> list[bytes]:
    hdus = list(hdus)
    for _ in range(rng.randint(1, 3)):
        one, other = rng.randrange(len(hdus)), rng.randrange(len(hdus))
        match rng.randrange(4):
            case 0:
                hdus[one], hdus[other] = hdus[other], hdus[one]
            case 1:
                hdus.insert(one, hdus[other])
            case 2:
                hdus[one] = hdus[one][: rng.randrange(len(hdus[one]))]
            case 3 if len(hdus) > 1:
                del hdus[one]
    return hdus


def _damage_cards(rng: Random, hdu: bytes) -> bytes:
    end = hdu.find(b"END     ") + CARD
    if end < CARD:  # an earlier wound took it
        return hdu
    cards = [hdu[at : at + CARD] for at in range(0, end, CARD)]
    at = rng.randrange(len(cards))
    match rng.randrange(8):
        case 0:
            del cards[at]
        case 1:
            cards.insert(rng.randrange(len(cards)), cards[at])
        case 2:
            other = rng.randrange(len(cards))
            cards[at], cards[other] = cards[other], cards[at]
        case 3:
            cards[at] = bytes(rng.randrange(256) for _ in range(CARD))
        case 4:
            key = rng.choice(["ZIMAGE", "ZBITPIX", "ZNAXIS1", "TDIM1", "TSCAL1", "TZERO1", "TNULL1", "BSCALE", "BZERO",
                              "BLANK", "THEAP", "CONTINUE", "HIERARCH", "EXTNAME", "GROUPS", "INHERIT"])  # fmt: skip
            cards.insert(-1, _card(key, rng.choice(CARD_VALUES)))
        case _:
            cards[at] = _card(cards[at][:8].decode("latin-1").strip(), rng.choice(CARD_VALUES))
    header = b"".join(cards)
    return header + b" " * (-len(header) % BLOCK) + hdu[-(-end // BLOCK) * BLOCK :]


def _card(key: str, value: str) -> bytes:
    return f"{key:8.8s}= {value:>20s}".encode("latin-1").ljust(CARD)[:CARD]
