"""A pointer comes back as it was written, and nothing malformed gets through."""

from __future__ import annotations

import json

import pytest

from latenight.errors import BadInput
from latenight.pointer import MAX_POINTER_BYTES, Pointer, decode_pointer, encode_pointer

POINTER = Pointer(
    path="/data/coadd-0-1000-thru20260101.fits",
    size=223_000_000,
    mtime=1767225600.123456,
    redrock="/data/redrock-0-1000-thru20260101.fits",
    tileid=1000,
    petal=0,
    night=20260101,
    survey="main",
    program="dark",
    n=500,
)


@pytest.mark.parametrize("pointer", [POINTER, Pointer("/\udcff", 0, 0.0, None, -1, -1, -1, "", "", 1)])
def test_comes_back(pointer: Pointer) -> None:
    """A pointer survives the wire, also with unknown facts and a path that is no text."""
    assert decode_pointer(encode_pointer(pointer)) == pointer


def test_whole_seconds_are_a_time() -> None:
    """A publisher whose language writes 1767225600.0 as 1767225600 is understood."""
    content = json.loads(encode_pointer(POINTER)) | {"mtime": 1767225600}
    assert decode_pointer(json.dumps(content).encode()).mtime == pytest.approx(1767225600.0)


def test_unknown_keys_are_ignored() -> None:
    """A newer publisher may say more."""
    content = json.loads(encode_pointer(POINTER)) | {"specprod": "daily"}
    assert decode_pointer(json.dumps(content).encode()) == POINTER


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, None) for field in ("path", "size", "mtime", "tileid", "night", "survey", "n")],
        *[("path", value) for value in ("", "relative.fits", "/a\0b", "/\ud800", 3)],
        *[("size", value) for value in (-1, 1.5, True, "1", 10**400)],
        *[("mtime", value) for value in (float("nan"), float("inf"), "now", 10**400)],
        ("redrock", "redrock.fits"),
        ("tileid", -2),
        ("n", 0),
    ],
)
def test_wrong_fields_are_named(field: str, value: object) -> None:
    """A field that is missing or of wrong type or range is BadInput that names it."""
    content = json.loads(encode_pointer(POINTER)) | {field: value}
    with pytest.raises(BadInput, match=f"pointer: {field} is"):
        decode_pointer(json.dumps(content).encode())


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b'{"schema": "latenight.coadd/2"}', b"[" * 60_000, b"9" * 5000]
)
def test_what_is_no_pointer_is_bad_input(data: bytes) -> None:
    """Anything but a JSON object of our schema is BadInput."""
    with pytest.raises(BadInput, match="pointer: not"):
        decode_pointer(data)


def test_a_pointer_is_small() -> None:
    """JSON beyond 64 KiB is refused before it is decoded: it could take 25 times its size in memory."""
    data = encode_pointer(POINTER)
    assert decode_pointer(data.ljust(MAX_POINTER_BYTES)) == POINTER
    with pytest.raises(BadInput, match="more than 65536"):
        decode_pointer(data.ljust(MAX_POINTER_BYTES + 1))
