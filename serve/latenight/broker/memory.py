"""A broker within one process, for tests and the demo: the contracts of latenight.broker without a server.

Threads may share it. Groups, committed places, transactions and fencing behave as on Kafka (tests/contract
proves it); nothing is kept when the process ends.
"""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass, field
from threading import Condition
from typing import TYPE_CHECKING

from latenight.broker import Consumed, Message, Partition, PlaceLost, Record, Start, TopicFacts, next_offsets
from latenight.errors import StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass
class _Group:
    """The members of one consumer group, in the order they came, and its committed place."""

    members: list[MemorySource] = field(default_factory=list)
    committed: dict[Partition, int] = field(default_factory=dict)


class MemoryBroker:
    """Topics in memory.

    Args:
        now: the clock that stamps messages, seconds since 1970 UTC.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.changed = Condition()
        self.logs: dict[Partition, list[Message]] = {}
        self._settings: dict[str, dict[str, str]] = {}
        self._groups: dict[str, _Group] = {}
        self._sinks: dict[str, MemorySink] = {}
        self._now = now

    def create_topics(self, settings: Mapping[str, Mapping[str, str]], partitions: int) -> list[str]:
        """Create the topics that do not exist; returns their names. Settings are kept, and have no meaning here."""
        with self.changed:
            created = self.missing(list(settings))
            self._settings.update({topic: dict(settings[topic]) for topic in created})
            self.logs.update({(topic, number): [] for topic in created for number in range(partitions)})
        return created

    def missing(self, topics: Sequence[str]) -> list[str]:
        """Those of the topics that do not exist."""
        return [topic for topic in topics if (topic, 0) not in self.logs]

    def describe(self, topics: Sequence[str]) -> dict[str, TopicFacts]:
        """Facts of those of the topics that exist."""
        numbers = [topic for topic, _ in self.logs]
        return {
            topic: TopicFacts(numbers.count(topic), self._settings[topic])
            for topic in topics
            if topic in numbers
        }

    def memory_days(self) -> float:
        """For how many days the place of a group is known that has no members; NaN if we may not ask."""
        return math.inf

    def source(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        instance: str | None = None,
        start: Start = "beginning",
    ) -> MemorySource:
        """A reader of topics.

        Raises:
            StartupError: a topic does not exist.
        """
        if missing := self.missing(topics):
            raise StartupError(f"no such topics: {', '.join(missing)}; create them first")
        with self.changed:
            shared = self._groups.setdefault(group, _Group()) if group else _Group()
            source = MemorySource(self, topics, shared, instance, start)
            if start == "end":
                source.commit_begin()
            if instance is not None:
                shared.members = [member for member in shared.members if member.instance != instance]
            shared.members.append(source)
        return source

    def sink(self, *, instance: str | None = None) -> MemorySink:
        """A publisher; the instance name fences its predecessor."""
        sink = MemorySink(self, instance)
        if instance is not None:
            self._sinks[instance] = sink
        return sink

    def append(self, sink: MemorySink, records: Sequence[Record], consumed: Consumed | None) -> None:
        """Publish and commit as one step, on behalf of a sink."""
        with self.changed:
            if sink.instance is not None and self._sinks[sink.instance] is not sink:
                raise PlaceLost(f"another process publishes as instance {sink.instance}: give each its own")
            if missing := self.missing([record.topic for record in records]):
                raise Unavailable(f"no such topics: {', '.join(missing)}; create them first")
            if consumed is not None:
                self._member(consumed).commit_offsets(consumed.offsets)
            for record in records:
                self._append(record)
            self.changed.notify_all()

    def _member(self, consumed: Consumed) -> MemorySource:
        members = (member for group in self._groups.values() for member in group.members)
        for member in members:
            if member is consumed.member:
                return member
        raise Unavailable("the reader has left its group: nothing was published or committed")

    def _append(self, record: Record) -> None:
        n_partitions = sum(topic == record.topic for topic, _ in self.logs)
        spread = sum(len(log) for (topic, _), log in self.logs.items() if topic == record.topic)
        number = (spread if record.key is None else zlib.crc32(record.key)) % n_partitions
        log = self.logs[record.topic, number]
        stamp = int(self._now() * 1000)
        log.append(Message(record.topic, number, len(log), record.key, record.value, record.headers, stamp))


class MemorySource:
    """One member of a group, or a reader of its own."""

    def __init__(
        self, broker: MemoryBroker, topics: Sequence[str], group: _Group, instance: str | None, start: Start
    ) -> None:
        self.instance = instance
        self._broker = broker
        self._group = group
        self._partitions = sorted(partition for partition in broker.logs if partition[0] in topics)
        self._begin = {partition: _begin(broker.logs[partition], start) for partition in self._partitions}
        self._since = start if isinstance(start, int) else -math.inf
        self._positions: dict[Partition, int] = {}
        self._fresh: dict[Partition, int] = {}  # polled since the last commit

    def poll(self, timeout_s: float, max_messages: int) -> list[Message]:
        """The next messages, [] if none came within the timeout."""
        with self._broker.changed:
            self._check()
            self._broker.changed.wait_for(lambda: any(self.lag().values()), timeout_s)
            self._check()
            self._positions = {partition: self._position(partition) for partition in self._owned()}
            messages: list[Message] = []
            for partition, position in self._positions.items():
                log = self._broker.logs[partition]
                messages += log[position : position + max_messages - len(messages)]
            for message in messages:
                self._positions[message.topic, message.partition] = message.offset + 1
                self._fresh[message.topic, message.partition] = message.offset + 1
        return [message for message in messages if message.timestamp_ms >= self._since]

    def consumed(self, messages: Iterable[Message]) -> Consumed:
        """The place behind these messages of the last poll."""
        self._fresh = {}
        return Consumed(next_offsets(messages), self)

    def commit(self) -> None:
        """Commit what poll has returned since the last commit."""
        with self._broker.changed:
            offsets, self._fresh = self._fresh, {}
            self.commit_offsets(offsets)

    def commit_offsets(self, offsets: Mapping[Partition, int]) -> None:
        """Keep the offsets as the group's place, if this member still owns the partitions."""
        if lost := sorted(set(offsets) - set(self._owned())):
            raise Unavailable(f"the group moved the partitions {lost}: nothing was committed")
        self._group.committed.update(offsets)

    def commit_begin(self) -> None:
        """Keep where this member begins as the group's place, where it has none."""
        self._group.committed = self._begin | self._group.committed

    def rewind(self) -> None:
        """Go back to the committed place."""
        self._positions, self._fresh = {}, {}

    def positions(self) -> dict[Partition, int]:
        """The next offset of every partition."""
        with self._broker.changed:
            return {partition: self._position(partition) for partition in self._partitions}

    def ends(self) -> dict[Partition, int]:
        """The offset after the last message of every partition."""
        return {partition: len(self._broker.logs[partition]) for partition in self._partitions}

    def lag(self) -> dict[Partition, int]:
        """Messages not yet polled in each partition of this member."""
        ends = self.ends()
        return {partition: ends[partition] - self._position(partition) for partition in self._owned()}

    def close(self) -> None:
        """Leave; commits nothing."""
        with self._broker.changed:
            self._group.members = [member for member in self._group.members if member is not self]
            self._broker.changed.notify_all()

    def _owned(self) -> list[Partition]:
        """This member's share: every n-th partition."""
        members = self._group.members
        return self._partitions[members.index(self) :: len(members)] if self in members else []

    def _position(self, partition: Partition) -> int:
        """This member's next offset where it owns the partition, else the committed one."""
        place = self._group.committed.get(partition, self._begin[partition])
        return self._positions.get(partition, place) if partition in self._owned() else place

    def _check(self) -> None:
        if self not in self._group.members:
            raise PlaceLost(f"another process reads as instance {self.instance}: give each its own")


class MemorySink:
    """Publishes into the broker's memory."""

    def __init__(self, broker: MemoryBroker, instance: str | None) -> None:
        self.instance = instance
        self._broker = broker

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        """Publish the records and commit the consumed offsets, or neither."""
        self._broker.append(self, records, consumed)

    def close(self) -> None:
        """Leave."""


def _begin(log: Sequence[Message], start: Start) -> int:
    """The offset at which a reader without a committed place begins."""
    if start == "beginning":
        return 0
    if start == "end":
        return len(log)
    return next((message.offset for message in log if message.timestamp_ms >= start), len(log))
