"""Which spectra a message holds or points to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latenight.desi import read_coadd
from latenight.errors import BadInput, Unavailable
from latenight.wire import CONTENT_ARROW, CONTENT_POINTER, decode_pointer, decode_spectra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latenight.broker import Headers
    from latenight.spectra import Spectra
    from latenight.wire import Pointer

# File systems differ in how finely they store and report the same mtime; a coadd takes longer to write.
MTIME_TOLERANCE_S = 1e-3


def read_message(value: bytes, headers: Headers, roots: Sequence[Path] = ()) -> Spectra:
    """The spectra of a message of the spectra topic, inline or by pointer: the same ones either way.

    Args:
        value: the payload.
        headers: (name, value) pairs; content-type says which payload it is.
        roots: directories that pointers may point into, links followed; none allows every absolute path.

    Raises:
        BadInput: wrong content type or payload, a file outside roots or changed since it was announced, or
            not a coadd; the daemon sends the message to the dead letters.
        Unavailable: the file is not there or cannot be read now; the daemon retries.
    """
    content_type = next((text for name, text in reversed(headers) if name == "content-type"), b"").decode(
        errors="replace"
    )
    if content_type == CONTENT_ARROW:
        return decode_spectra(value)
    if content_type == CONTENT_POINTER:
        return _read_pointed(decode_pointer(value), roots)
    raise BadInput(f"content-type is {content_type!r:.80}, expected {CONTENT_POINTER} or {CONTENT_ARROW}")


def _read_pointed(pointer: Pointer, roots: Sequence[Path]) -> Spectra:
    path, redrock = Path(pointer.path), Path(pointer.redrock) if pointer.redrock else None
    for file in filter(None, (path, redrock)):
        _confine(file, roots)
    _check_unchanged(path, pointer)
    spectra = read_coadd(path, redrock)
    if len(spectra) != pointer.n:
        raise BadInput(f"{path}: has {len(spectra)} spectra, but {pointer.n} were announced")
    return spectra


def _confine(path: Path, roots: Sequence[Path]) -> None:
    try:
        resolved = path.resolve()
        is_inside = not roots or any(resolved.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise BadInput(f"{path}: cannot be resolved: {error}") from error
    if not is_inside:
        raise BadInput(f"{path}: lies outside the allowed roots {', '.join(map(str, roots))}")


def _check_unchanged(path: Path, pointer: Pointer) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    if found.st_size != pointer.size or abs(found.st_mtime - pointer.mtime) > MTIME_TOLERANCE_S:
        raise BadInput(f"{path}: changed since it was announced; announce it again")
