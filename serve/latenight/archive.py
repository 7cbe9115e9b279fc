"""Score tables from Kafka -> Parquet files, a folder for each night: every table once, however often it comes."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING

from latenight.broker import has_reached
from latenight.errors import BadInput, Unavailable
from latenight.wire import scores_by_night, write_table

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from latenight.broker import Message, Source

log = logging.getLogger(__name__)

POLL_S = 1.0
BATCH = 50  # messages between two commits, 100 KB each


def archive(source: Source, folder: Path, *, stop: Event, drain: bool = False) -> int:
    """Store the score tables until told to stop, or until what the topic holds now is stored.

    The place in the topic is committed when the files are on the disk. What is read again after a crash, and
    a table that was published twice, gives the same files again.

    Args:
        source: of the scores, as a group.
        folder: gets NIGHT/TILEID-PETAL-HASH.parquet, "unknown" for tables without a night.
        stop: set when the batch in hand shall be the last.
        drain: end where the topic ends now.

    Returns:
        How many messages were stored.

    Raises:
        Unavailable: broker or disk are away; what is not committed comes again.
    """
    ends = source.ends() if drain else None
    n_stored = 0
    while not stop.is_set() and not (ends is not None and has_reached(source.positions(), ends)):
        messages = source.poll(POLL_S, BATCH)
        if not messages:
            continue
        files = [path for message in messages for path in _store(message, folder)]
        _sync({folder, *(path.parent for path in files)})
        _commit(source)
        n_stored += len(messages)
        fields = {"messages": [str(message) for message in messages], "files": len(files)}
        log.info("archived", extra={"fields": fields})
    return n_stored


def _store(message: Message, folder: Path) -> list[Path]:
    """The files that hold the message's rows, one for each night, written if they are not there."""
    try:
        nights = scores_by_night(message.value)
    except BadInput as error:
        fields = {"message": str(message), "reason": str(error)}
        log.warning("not archived: not a table of scores", extra={"fields": fields})
        return []
    # The name tells the content, so that the same table has the same name in every run and on every host.
    digest = hashlib.sha256(message.value).hexdigest()[:16]
    paths = []
    for night, table in nights.items():
        tileid, petal = (table[name][0].as_py() for name in ("tileid", "petal"))
        path = folder / (str(night) if night >= 0 else "unknown") / f"{tileid}-{petal}-{digest}.parquet"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_table(path, table)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}; nothing of this batch is committed") from error
        paths.append(path)
    return paths


def _sync(folders: set[Path]) -> None:
    """Make the names of the files survive a loss of power, as their content does."""
    for folder in folders:
        if folder.exists():
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _commit(source: Source) -> None:
    try:
        source.commit()
    except Unavailable as error:  # whoever has the partitions now finds the files
        log.warning("not committed", extra={"fields": {"reason": str(error)}})
