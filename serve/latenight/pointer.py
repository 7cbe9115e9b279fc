"""What an announcement says of a coadd on a shared file system: a pointer, as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from latenight.errors import BadInput

CONTENT_POINTER = "application/vnd.latenight.coadd+json"
POINTER_FORMAT = "latenight.coadd/1"
# Two paths of 4096 bytes, each byte escaped as six characters, and the rest; JSON that is decoded takes up to
# 25 times its size in memory.
MAX_POINTER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Pointer:
    """A coadd file on a file system that publisher and scorer share.

    Attributes:
        path: absolute path of the coadd.
        size: its size [bytes].
        mtime: when it was last written [s since 1970 UTC].
        redrock: absolute path of its redrock file, None if there was none.
        tileid, petal, night: -1 where the file does not tell (healpix coadds).
        survey, program: "" where the file does not tell.
        n: number of spectra.
    """

    path: str
    size: int
    mtime: float
    redrock: str | None
    tileid: int
    petal: int
    night: int
    survey: str
    program: str
    n: int


def encode_pointer(pointer: Pointer) -> bytes:
    """The pointer as JSON, schema "latenight.coadd/1"."""
    return json.dumps({"schema": POINTER_FORMAT, **asdict(pointer)}).encode()


def decode_pointer(data: bytes) -> Pointer:
    """The pointer; keys that this version does not know are ignored.

    Raises:
        BadInput: no such JSON; names the field. The daemon sends the message to the dead letters.
    """
    if len(data) > MAX_POINTER_BYTES:
        raise BadInput(f"pointer: {len(data)} bytes, more than {MAX_POINTER_BYTES}")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"pointer: not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != POINTER_FORMAT:
        raise BadInput(f"pointer: not a JSON object with schema {POINTER_FORMAT!r}")
    return Pointer(
        path=_path(content, "path"),
        size=_integer(content, "size", 0),
        mtime=_number(content, "mtime"),
        redrock=None if content.get("redrock") is None else _path(content, "redrock"),
        tileid=_integer(content, "tileid", -1),
        petal=_integer(content, "petal", -1),
        night=_integer(content, "night", -1),
        survey=_text(content, "survey"),
        program=_text(content, "program"),
        n=_integer(content, "n", 1),
    )


def _integer(content: dict[str, Any], field: str, least: int) -> int:
    value = content.get(field)
    if type(value) is not int or not least <= value < 1 << 63:
        raise BadInput(f"pointer: {field} is {value!r:.80}, expected an integer from {least}")
    return value


def _number(content: dict[str, Any], field: str) -> float:
    value = content.get(field)
    if type(value) is int and abs(value) < 1 << 63:
        return float(value)
    if type(value) is not float or not math.isfinite(value):
        raise BadInput(f"pointer: {field} is {value!r:.80}, expected a number")
    return value


def _text(content: dict[str, Any], field: str) -> str:
    value = content.get(field)
    if not isinstance(value, str):
        raise BadInput(f"pointer: {field} is {value!r:.80}, expected a string")
    return value


def _path(content: dict[str, Any], field: str) -> str:
    value = _text(content, field)
    if not value.startswith("/") or "\0" in value or not _is_encodable(value):
        raise BadInput(f"pointer: {field} is {value!r:.80}, expected an absolute path")
    return value


def _is_encodable(path: str) -> bool:
    """Whether the file system could have this name: JSON may hold half a character."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
