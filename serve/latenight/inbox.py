"""Which spectra a message holds or points to."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from latenight.desi import read_coadd
from latenight.errors import BadInput, Gone, Unavailable
from latenight.pointer import CONTENT_POINTER, decode_pointer
from latenight.wire import CONTENT_ARROW, decode_spectra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latenight.broker import Headers
    from latenight.pointer import Pointer
    from latenight.spectra import Spectra

# File systems differ in how finely they store and report the same mtime; a coadd takes longer to write.
MTIME_TOLERANCE_S = 1e-3
# Why a path that nobody could follow cannot be followed.
BAD_PATH = (errno.ELOOP, errno.ENAMETOOLONG)
# What a file system that works says of a file that it does not give; every other error is its own.
REFUSALS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)


def read_message(value: bytes, headers: Headers, roots: Sequence[Path] = ()) -> Spectra:
    """The spectra of a message of the spectra topic, inline or by pointer: the same ones either way.

    Args:
        value: the payload.
        headers: (name, value) pairs; content-type says which payload it is.
        roots: directories that pointers may point into, links followed; none allows every absolute path.

    Raises:
        BadInput: wrong content type or payload, a file outside roots or changed since it was announced, or
            not a coadd; the daemon sends the message to the dead letters.
        Gone: a file is missing on a file system that is there; the daemon waits a little for it.
        Unavailable: the file system is away or does not answer well; the daemon retries.
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
        _find(file, roots)
    _check_unchanged(path, pointer)
    spectra = read_coadd(path, redrock)
    _check_unchanged(path, pointer)  # whoever replaced it before we opened it announces the new one
    if len(spectra) != pointer.n:
        raise BadInput(f"{path}: has {len(spectra)} spectra, but {pointer.n} were announced")
    return spectra


def _confine(path: Path, roots: Sequence[Path]) -> None:
    try:
        resolved = path.resolve()
        is_inside = not roots or any(resolved.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        if isinstance(error, OSError) and error.errno not in BAD_PATH:
            raise Unavailable(f"{path}: {error.strerror}") from error
        raise BadInput(f"{path}: cannot be resolved: {error}") from error
    if not is_inside:
        raise BadInput(f"{path}: lies outside the allowed roots {', '.join(map(str, roots))}")


def _find(path: Path, roots: Sequence[Path]) -> None:
    """Prove that the file can be opened; if not, tell whether it or its file system is gone."""
    refusal = _refusal(path)
    if refusal is None:
        return
    # Asked again after the file system has answered: it may have come back in between.
    if refusal.errno in REFUSALS and _is_mounted(path, roots) and _refusal(path):
        raise Gone(f"{path}: {refusal.strerror}, but its file system is there") from refusal
    raise Unavailable(f"{path}: {refusal.strerror}") from refusal


def _refusal(path: Path) -> OSError | None:
    """Why the file cannot be opened now, None if it can.

    Raises:
        BadInput: it is no regular file (a FIFO or a terminal might keep us waiting for ever), or cannot be one.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"{path}: is not a regular file")
        with path.open("rb"):
            return None
    except OSError as error:
        if error.errno in BAD_PATH:
            raise BadInput(f"{path}: {error.strerror}") from error
        return error


def _is_mounted(path: Path, roots: Sequence[Path]) -> bool:
    """Whether the file system of a missing file is there: one that is not leaves no folder, or an empty one.

    Its root tells. Without roots it is the nearest folder that is there; an empty one may be a mount point.
    """
    resolved = path.resolve()
    folders = [root for root in roots if resolved.is_relative_to(root.resolve())] or resolved.parents
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            return any(entries)
    return False


def _check_unchanged(path: Path, pointer: Pointer) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    if found.st_size != pointer.size or abs(found.st_mtime - pointer.mtime) > MTIME_TOLERANCE_S:
        raise BadInput(f"{path}: changed since it was announced; announce it again")
