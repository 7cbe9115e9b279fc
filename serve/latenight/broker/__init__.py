"""What latenight asks of a message broker: read a topic in order, publish atomically.

Two brokers keep these contracts, proven by the same tests (tests/contract): `kafka` and, within one
process, `memory`. A Source is used by one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from latenight.errors import LatenightError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Headers = tuple[tuple[str, bytes], ...]
Partition = tuple[str, int]  # topic, number


@dataclass(frozen=True)
class Message:
    """One message as it was read.

    Attributes:
        topic: its topic.
        partition: its partition; order holds within one partition only.
        offset: its place in the partition.
        key: its key; messages of one key share a partition.
        value: its payload.
        headers: (name, value) pairs in the order they were published.
        timestamp_ms: when it was published, milliseconds since 1970 UTC.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int

    def header(self, name: str) -> str:
        """The last header of that name, "" without one."""
        return next((value.decode(errors="replace") for key, value in self.headers[::-1] if key == name), "")

    def __str__(self) -> str:
        """Where it lies: topic/partition/offset."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Record:
    """One message to publish.

    Attributes:
        topic: where to.
        key: chooses the partition; None spreads.
        value: the payload.
        headers: (name, value) pairs.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = ()


@dataclass(frozen=True)
class Consumed:
    """How far a source has read, to be committed together with what was made of it.

    Attributes:
        offsets: the next offset to read, of each partition that the source owns.
        member: the broker's own proof that the source still owns them.
    """

    offsets: Mapping[Partition, int]
    member: object


class Fenced(LatenightError):
    """Another process has taken this one's instance name; this one must end, nothing of it is committed."""


class Source(Protocol):
    """Reads topics in order; with a group, members share the partitions and the group's place is kept."""

    def poll(self, timeout_s: float, max_messages: int) -> list[Message]:
        """The next messages, [] if none came within the timeout."""

    def consumed(self) -> Consumed:
        """What poll has returned so far, to be given to Sink.publish."""

    def rewind(self) -> None:
        """Go back to the committed place: what was polled since then will be polled again."""

    def positions(self) -> dict[Partition, int]:
        """The next offset of every partition: this member's, or what the group committed elsewhere.

        Empty until the group has given this member its share.
        """

    def ends(self) -> dict[Partition, int]:
        """The offset after the last readable message of every partition, at this moment."""

    def lag(self) -> dict[Partition, int]:
        """Messages not yet polled in each partition of this member, as last seen (asks nobody)."""

    def close(self) -> None:
        """Leave; commits nothing."""


class Sink(Protocol):
    """Publishes records."""

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        """Publish all records and, in the same transaction, the consumed offsets; or nothing at all.

        Without `consumed` the records are only acknowledged, not atomic: for announcements and heartbeats.

        Raises:
            Unavailable: the broker is away or the group moved the partitions; nothing is visible.
            Fenced: another process runs under the same instance name.
        """

    def close(self) -> None:
        """Flush and leave."""
