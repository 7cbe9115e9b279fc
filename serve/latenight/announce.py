"""Coadd files -> messages of the spectra topic: which files, when, and what is said of each."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latenight.broker import Record, until_now
from latenight.broker.topics import MAX_MESSAGE_BYTES
from latenight.desi import describe, find_coadds, read_coadd, redrock_beside
from latenight.errors import BadInput, Unavailable
from latenight.pointer import CONTENT_POINTER, Pointer, decode_pointer, encode_pointer
from latenight.wire import CONTENT_ARROW, encode_spectra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from latenight.broker import Message, Sink, Source
    from latenight.progress import Progress

log = logging.getLogger(__name__)

Payload = Literal["pointer", "inline"]
Version = tuple[Path, float, int]  # path, mtime [s], size

POLL_S = 2.0
BATCH = 1000  # messages read at a time to see what has been announced
RETRY_S = 60.0  # until a watch tries a file again that was there and could not be read
# A redrock job of one petal takes minutes; after this long a coadd is announced without redshifts.
REDROCK_TIMEOUT_S = 1800.0


def pointer_for(path: Path) -> Pointer:
    """The pointer to a coadd and its redrock file.

    Raises:
        BadInput, Unavailable: the file is no complete coadd, or not there.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100  resolving links would change the name people know
    try:
        status = path.stat()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    redrock = redrock_beside(path)
    return Pointer(
        path=str(path),
        size=status.st_size,
        mtime=status.st_mtime,
        redrock=str(redrock) if redrock else None,
        **describe(path),
    )


def make_record(path: Path, payload: Payload, topic: str) -> Record:
    """The message that announces one coadd: key TILEID-PETAL, or the file name where it mixes tiles.

    Raises:
        BadInput, Unavailable: the file is no complete coadd, or not there.
    """
    pointer = pointer_for(path)
    is_tile = pointer.tileid >= 0 and pointer.petal >= 0
    key = f"{pointer.tileid}-{pointer.petal}" if is_tile else Path(pointer.path).name
    if payload == "inline":
        content_type, value = CONTENT_ARROW, encode_spectra(read_coadd(Path(pointer.path)))
        if len(value) >= MAX_MESSAGE_BYTES:
            raise BadInput(f"{path}: {len(value)} bytes do not fit a message; announce a pointer instead")
    else:
        content_type, value = CONTENT_POINTER, encode_pointer(pointer)
    return Record(topic, os.fsencode(key), value, (("content-type", content_type.encode()),))


def announce_records(paths: Iterable[Path], payload: Payload, topic: str) -> Iterator[Record]:
    """The messages of the coadds, one at a time: an inline petal is 33 MB.

    Raises:
        BadInput, Unavailable: as make_record.
    """
    return (make_record(path, payload, topic) for path in paths)


def announce(
    paths: Iterable[Path],
    payload: Payload,
    topic: str,
    sink: Sink,
    again: Callable[[Path], None] = lambda _: None,
) -> int:
    """Publish a message for each coadd; one that cannot be announced is logged and keeps back no other.

    Args:
        paths: the coadds.
        payload: what the messages hold.
        topic: of spectra.
        sink: takes the messages.
        again: is told of a file that cannot be read now, so that it comes once more among the paths.

    Returns:
        How many were not announced.

    Raises:
        Unavailable: the broker is away.
    """
    refused: set[Path] = set()
    for path in paths:
        try:
            record = make_record(path, payload, topic)
        except (BadInput, Unavailable) as error:
            log.warning("not announced: %s", error)
            refused.add(path)
            if isinstance(error, Unavailable):
                again(path)
            continue
        sink.publish([record])
        refused.discard(path)
        log.info("announced %s", path)
    return len(refused)


def announced(source: Source) -> set[Version]:
    """The coadds that pointers in the topic name.

    The topic itself is the memory of what has been announced, so that an announcement that was interrupted anywhere
    goes on where it was, on any host; it lasts as long as the topic keeps messages (topics.Topics.settings).

    Args:
        source: reads the spectra topic from the beginning, without a group.
    """
    return {
        version for batch in until_now(source, BATCH) for message in batch for version in _pointed(message)
    }


def not_yet(paths: Iterable[Path], told: AbstractSet[Version]) -> list[Path]:
    """The coadds that have not been told as they are now: same path, size and time of writing."""
    return [path for path in paths if told.isdisjoint(_version(path))]


def _pointed(message: Message) -> list[Version]:
    """The version of the coadd that a message points to; none if it is no pointer."""
    if message.header("content-type") != CONTENT_POINTER:
        return []
    try:
        pointer = decode_pointer(message.value)
    except BadInput:
        return []
    return [(Path(pointer.path), pointer.mtime, pointer.size)]


def with_progress(paths: Iterable[Path], total: int, progress: Progress) -> Iterator[Path]:
    """The paths; says in the log now and then how many of the total are through, and when all will be."""
    for done, path in enumerate(paths):
        if fields := progress.report(done, total - done):
            log.info("announcing", extra={"fields": fields})
        yield path


def read_list(lines: Iterable[str]) -> list[Path]:
    """The paths of a list, one a line; empty lines do not count."""
    return [Path(line.strip()) for line in lines if line.strip()]


def paced(
    paths: Iterable[Path], rate: float, clock: Callable[[], float], wait: Callable[[float], bool]
) -> Iterator[Path]:
    """The paths, no more than rate of them per second; time that was lost is not made up for.

    Args:
        paths: what to give.
        rate: paths per second.
        clock: monotonic seconds.
        wait: waits that many seconds, or returns True to end (threading.Event.wait).
    """
    due = clock()
    for path in paths:
        if due > clock() and wait(due - clock()):
            return
        due = clock() + 1.0 / rate
        yield path


@dataclass
class Watch:
    """Coadds that appear under paths, each once it has its redrock file or has waited for it too long.

    A coadd that is written again counts as a new one: a tile is reduced more than once in a night. What has been given
    is kept (30 MB for a year of nights), so that a file system that was away for a while is not given once more.

    Attributes:
        paths: files and directories, as in find_coadds.
        given: what has been announced already.
        since: coadds that were written before this time [s since 1970] are left out.
        redrock_timeout_s: how long to wait for the redrock file.
    """

    paths: list[Path]
    given: set[Version] = field(default_factory=set)
    since: float = -math.inf
    redrock_timeout_s: float = REDROCK_TIMEOUT_S
    _first_seen: dict[Version, float] = field(default_factory=dict)
    _last: dict[Path, Version] = field(default_factory=dict)
    _not_before: dict[Version, float] = field(default_factory=dict)
    _unsearched: set[str] = field(default_factory=set)

    def ready(self, now: float) -> list[Path]:
        """The coadds that have become ready since the last call.

        A directory that cannot be searched is a warning, once, and the others are searched.

        Args:
            now: monotonic seconds.
        """
        errors: set[str] = set()
        paths = find_coadds(self.paths, lambda error: errors.add(str(error)))
        for error in sorted(errors - self._unsearched):
            log.warning("not searched: %s", error)
        self._unsearched = errors
        found = [version for path in paths for version in _version(path) if version[1] >= self.since]
        self._first_seen = {version: self._first_seen.get(version, now) for version in found}
        ready = [
            version
            for version in found
            if version not in self.given
            and now >= self._not_before.get(version, now)
            and (_has_redshifts(version) or now - self._first_seen[version] >= self.redrock_timeout_s)
        ]
        self.given |= set(ready)
        self._last = {version[0]: version for version in ready}
        return list(self._last)

    def again(self, path: Path, now: float) -> None:
        """Give a path of the last call once more, after RETRY_S: it could not be read."""
        version = self._last[path]
        self.given.discard(version)
        self._not_before[version] = now + RETRY_S


def _version(path: Path) -> list[Version]:
    path = Path(os.path.abspath(path))  # noqa: PTH100  as in pointer_for
    try:
        status = path.stat()
    except OSError:  # renamed or removed since it was listed, or its file system is away
        return []
    return [(path, status.st_mtime, status.st_size)]


def _has_redshifts(coadd: Version) -> bool:
    """Whether the redrock file is there and newer than the coadd: an older one is of an earlier reduction."""
    path, mtime, _ = coadd
    redrock = redrock_beside(path)
    return redrock is not None and any(version[1] >= mtime for version in _version(redrock))


def watch(watched: Watch, clock: Callable[[], float], wait: Callable[[float], bool]) -> Iterator[Path]:
    """The coadds as they become ready, those that are there first.

    Args:
        watched: what is watched.
        clock: as in paced.
        wait: as in paced.
    """
    while True:
        yield from watched.ready(clock())
        if wait(POLL_S):
            return
