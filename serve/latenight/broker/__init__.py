"""What latenight asks of a message broker: read a topic in order, publish atomically.

Two brokers keep these contracts, proven by the same tests (tests/contract): `kafka` and, within one
process, `memory`. A Source is used by one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from latenight.errors import LatenightError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Headers = tuple[tuple[str, bytes], ...]
Partition = tuple[str, int]  # topic, number
POLL_S = 1.0  # a poll of until_now that finds nothing
Start = Literal["beginning", "end"] | int  # an int is a time: milliseconds since 1970 UTC


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
        damage: why the client could not decode it, "" if it could; the payload then is the stored record.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int
    damage: str = ""

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
        offsets: the next offset to read, of each partition that was read from.
        member: the broker's own proof that the source still owns these partitions.
    """

    offsets: Mapping[Partition, int]
    member: object


@dataclass(frozen=True)
class TopicFacts:
    """What a topic is like.

    Attributes:
        partitions: how many it has.
        settings: its Kafka settings by name.
    """

    partitions: int
    settings: Mapping[str, str]


class PlaceLost(LatenightError):
    """Another process took this one's instance name, or the outcome of a transaction is unknown.

    This process must end; the broker finishes or undoes the open transaction when the next one starts.
    """


class Source(Protocol):
    """Reads topics in order; members of a group share the partitions, and the broker keeps their place."""

    def poll(self, timeout_s: float, max_messages: int) -> list[Message]:
        """The next messages, [] if none came within the timeout.

        Raises:
            Unavailable: the broker does not answer.
            PlaceLost: another process runs under the same instance name.
        """

    def consumed(self, messages: Iterable[Message]) -> Consumed:
        """The place behind these messages of the last poll, to be given to Sink.publish.

        Raises:
            Unavailable: the group has taken their partitions from this member.
        """

    def commit(self) -> None:
        """Commit what poll has returned since the last commit, where nothing is published with it.

        Raises:
            Unavailable: the broker is away or the group moved the partitions.
        """

    def rewind(self) -> None:
        """Go back to the committed place: what was polled since then will be polled again."""

    def positions(self) -> dict[Partition, int]:
        """The next offset of every partition: this member's, or what its group committed elsewhere.

        Empty while the group shares out its partitions.
        """

    def ends(self) -> dict[Partition, int]:
        """The offset after the last readable message of every partition, at this moment."""

    def lag(self) -> dict[Partition, int]:
        """Messages not yet polled in each partition of this member, as last seen (asks nobody)."""

    def close(self) -> None:
        """Leave; commits nothing."""


class Sink(Protocol):
    """Publishes records; with an instance name, all of a call or nothing."""

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        """Publish the records and commit the consumed offsets in one transaction.

        A sink without an instance name has no transactions: it returns when all records are acknowledged.

        Raises:
            Unavailable: the broker is away or the group moved the partitions; nothing is visible.
            PlaceLost: another process runs under the same instance name, or the outcome is unknown.
        """

    def close(self) -> None:
        """Leave; what was published stays."""


class Broker(Protocol):
    """Where topics live."""

    def source(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        instance: str | None = None,
        start: Start = "beginning",
    ) -> Source:
        """A reader of topics, of committed messages only.

        Args:
            topics: what to read.
            group: whose place to resume and partitions to share; None reads everything and keeps no place.
            instance: a name that survives a restart, so that the group waits for this member to come back.
            start: where to begin without a committed place; with a time, nothing older is returned. A group that
                begins at the end keeps that place: a later member reads on from there.

        Raises:
            StartupError: the broker cannot be reached or a topic does not exist.
        """

    def sink(self, *, instance: str | None = None) -> Sink:
        """A publisher; the instance name makes it transactional and fences its predecessor of that name."""

    def create_topics(self, settings: Mapping[str, Mapping[str, str]], partitions: int) -> list[str]:
        """Create the topics that do not exist; returns their names."""

    def missing(self, topics: Sequence[str]) -> list[str]:
        """Those of the topics that do not exist."""

    def describe(self, topics: Sequence[str]) -> dict[str, TopicFacts]:
        """Facts of those of the topics that exist."""

    def memory_days(self) -> float:
        """For how many days the place of a group is known that has no members; NaN if we may not ask."""


def next_offsets(messages: Iterable[Message]) -> dict[Partition, int]:
    """The offset behind the last of the messages, of each of their partitions."""
    return {(message.topic, message.partition): message.offset + 1 for message in messages}


def has_reached(positions: Mapping[Partition, int], ends: Mapping[Partition, int]) -> bool:
    """Whether every partition has been read up to the given end; False while the positions are unknown."""
    return bool(positions) and all(positions[partition] >= end for partition, end in ends.items())


def until_now(source: Source, max_messages: int) -> Iterator[list[Message]]:
    """What the topics of a source hold at this moment, in batches of up to max_messages."""
    ends = source.ends()
    while not has_reached(source.positions(), ends):
        if batch := source.poll(POLL_S, max_messages):
            yield batch
