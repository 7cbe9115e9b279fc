"""Messages that could not be scored: how they are kept, listed and sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import latenight
from latenight.broker import Headers, Message, Record, until_now
from latenight.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from latenight.broker import Sink, Source

# A dead letter is the message as it came, and these headers after its own.
PREFIX = "deadletter-"
WHY = ("stage", "reason", "topic", "partition", "offset", "timestamp-ms", "version")
MAX_REASON = 1000  # characters of a reason in a header
BATCH = 4  # letters of a transaction; each may have 64 MB


def dead_letter(topic: str, message: Message, stage: str, reason: str) -> Record:
    """The record that keeps a message which was refused.

    Args:
        topic: of the dead letters.
        message: what was refused.
        stage: where: "decode", "read" or "score".
        reason: why, in words.
    """
    why = {
        "stage": stage,
        "reason": reason[:MAX_REASON],
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp-ms": message.timestamp_ms,
        "version": latenight.__version__,
    }
    headers = tuple((PREFIX + name, str(why[name]).encode("utf-8", "replace")) for name in WHY)
    return Record(topic, message.key, message.value, (*message.headers, *headers))


def original(letter: Message, topic: str) -> Record:
    """The record of a dead letter as it was before it was refused: same bytes, key and headers.

    Args:
        letter: from the topic of dead letters.
        topic: where it shall go.

    Raises:
        BadInput: it is no dead letter of ours, or holds what could not be decoded.
    """
    if (PREFIX + "stage", b"decode") in _why(letter):
        raise BadInput(
            f"{letter}: holds a record that could not be decoded: there is no message to send again"
        )
    return Record(topic, letter.key, letter.value, letter.headers[: -len(_why(letter))])


def describe(letter: Message) -> dict[str, Any]:
    """What `latenight deadletters list` says of a letter; what its headers do not say is None.

    Returns:
        reason, stage, source (topic/partition/offset of the message), time of its publication, key, size of
        the payload [bytes], content_type, and the place of the letter itself.
    """
    try:
        why = {name.removeprefix(PREFIX): value.decode(errors="replace") for name, value in _why(letter)}
    except BadInput:
        why = {}
    return {
        "reason": why.get("reason"),
        "stage": why.get("stage"),
        "source": "/".join(why[name] for name in ("topic", "partition", "offset")) if why else None,
        "timestamp_ms": int(why["timestamp-ms"]) if why else None,
        "key": None if letter.key is None else letter.key.decode(errors="replace"),
        "size": len(letter.value),
        "content_type": letter.header("content-type"),
        "letter": str(letter),
    }


def _why(letter: Message) -> Headers:
    """The headers that dead_letter added."""
    last = letter.headers[-len(WHY) :]
    if tuple(name for name, _ in last) != tuple(PREFIX + name for name in WHY):
        raise BadInput(f"{letter}: is no dead letter of latenight: its last headers are not {PREFIX}*")
    return last


def replay(source: Source, sink: Sink, topic: str, refused: Callable[[BadInput], None]) -> int:
    """Send the originals of all dead letters that were not sent before; a crash neither loses nor repeats one.

    Args:
        source: of the dead letters, as the group that remembers what has been sent.
        sink: with transactions: the originals and the place of the group are one.
        topic: where the originals go.
        refused: told of what is no dead letter; it is passed over.

    Returns:
        How many were sent.

    Raises:
        Unavailable: the broker is away; what was not sent is sent next time.
        PlaceLost: another replay runs.
    """
    n_sent = 0
    for batch in until_now(source, BATCH):
        records = []
        for letter in batch:
            try:
                records.append(original(letter, topic))
            except BadInput as error:
                refused(error)
        sink.publish(records, source.consumed(batch))
        n_sent += len(records)
    return n_sent
