"""Reads topics of Apache Kafka, as a member of a group or on its own."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from kafka.errors import CommitFailedError, KafkaTimeoutError, RebalanceInProgressError
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from latenight.broker import Consumed, Message, Partition, Start, next_offsets
from latenight.broker.kafka_errors import translated
from latenight.broker.kafka_records import Undecodable
from latenight.broker.kafka_sink import TRANSACTION_MS
from latenight.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REQUEST_MS = 30_000  # one request; a broker that is killed and started again answers after about 25 s
# Nobody learns the committed place of a partition while a transaction that moves it is open. Longer than this it
# hangs: Kafka has lost track of it (seen when an unreplicated broker was killed with -9 right after a commit).
NO_PLACE_S = 3 * TRANSACTION_MS / 1000
NO_GENERATION = -1  # of a reader outside its group
MIN_ASK_MS = 1000  # to ask for a committed place


class KafkaSource:
    """Reads partitions, as a member of a group or on its own."""

    def __init__(self, consumer: Any, partitions: Sequence[TopicPartition], start: Start) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._since_ms = start if isinstance(start, int) else -math.inf  # a record may have no time stamp, -1
        self._begins_at_end = start == "end"
        self._first: dict[TopicPartition, int] = {}  # where poll began: where to rewind to without a commit
        self._fresh: dict[TopicPartition, OffsetAndMetadata] = {}  # polled since the last commit
        self._generation = NO_GENERATION  # of the group, when its committed places were last asked for
        self._placed = time.monotonic()  # when all our partitions last had a place

    def poll(self, timeout_s: float, max_messages: int) -> list[Message]:
        """The next messages, [] if none came within the timeout."""
        with translated("cannot read"):
            self._end_joining()
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_messages)
            for partition, records in polled.items():
                self._first.setdefault(partition, records[0].offset)
            if self._joined_anew(max(int(timeout_s * 1000), MIN_ASK_MS)):
                return []
            if not polled:
                self._check_places()
        for partition, records in polled.items():
            self._fresh[partition] = OffsetAndMetadata(records[-1].offset + 1, "", records[-1].leader_epoch)
        messages = [_message(record) for records in polled.values() for record in records]
        return [message for message in messages if message.timestamp_ms >= self._since_ms]

    def _end_joining(self) -> None:
        """Have a join that has begun brought to its end.

        kafka-python 3.0.12 joins while the topics' partitions differ from those it shared out last, and notes what it
        shares out in the middle of the join. A poll that ends in between is the last that cares: the member gets
        nothing for ever and sends no heartbeat (1 of 10 starts on a busy machine).
        """
        if not self._is_settled():
            coordinator = self._consumer._coordinator  # noqa: SLF001  the public interface has no word for it
            if coordinator.rebalance_in_progress() and not coordinator.need_rejoin():
                coordinator.request_rejoin()

    def _joined_anew(self, timeout_ms: int) -> bool:
        """Whether the group was shared out anew since the last poll; then we go to the committed places.

        A member that fell out and is back keeps its places in partitions that it gets again (kafka-python 3.0.12),
        though others may have read on from there: what it polls first has been scored already.
        """
        generation = self._generation_now()
        if generation in (self._generation, NO_GENERATION):
            return False
        for partition in self._consumer.assignment() if self._is_settled() else ():
            try:
                if not self._go_back(partition, timeout_ms) and self._begins_at_end:
                    self._commit_begin(partition, timeout_ms)
            except (CommitFailedError, RebalanceInProgressError):  # shared out anew once more
                return True
            except KafkaTimeoutError:
                self._wait_for_places([partition])
                return True
        self._fresh = {}
        self._generation = generation if self._is_settled() else NO_GENERATION
        return True

    def _generation_now(self) -> int:
        is_member = self._consumer.config["group_id"] is not None
        return int(self._consumer.group_metadata().generation_id) if is_member else NO_GENERATION

    def consumed(self, messages: Iterable[Message]) -> Consumed:
        """The place behind these messages of the last poll."""
        offsets = next_offsets(messages)
        member = self._consumer.group_metadata()
        # Only in the generation that they were polled in are the messages ours. A member that fell out of its group has
        # none, and the broker takes a commit without one for that of a lone reader: it accepts it while the group is
        # empty, whoever read in between.
        held = NO_GENERATION != member.generation_id == self._generation
        if not held or not offsets.keys() <= set(map(tuple, self._consumer.assignment())):
            raise Unavailable("the group took the partitions away while their messages were being scored")
        self._fresh = {}
        return Consumed(offsets, member)

    def commit(self) -> None:
        """Commit what poll has returned since the last commit."""
        if offsets := self._take():
            with translated("cannot commit"):
                self._consumer.commit(offsets, timeout_ms=REQUEST_MS)

    def rewind(self) -> None:
        """Go back to the committed place."""
        self._fresh = {}
        with translated("cannot go back to the committed place"):
            for partition in self._consumer.assignment() & set(self._first):
                self._go_back(partition, REQUEST_MS)

    def _go_back(self, partition: TopicPartition, timeout_ms: int) -> bool:
        """Go to the committed place; where nobody has committed, to where poll began, and return False."""
        committed = self._committed(partition, timeout_ms)
        place = self._first.get(partition) if committed is None else committed
        if place is not None:
            self._consumer.seek(partition, place)
        return committed is not None

    def _commit_begin(self, partition: TopicPartition, timeout_ms: int) -> None:
        """Commit the end, where this member begins: after a stop the group would begin at the end of then."""
        place = self._first.get(partition)
        if place is None:
            place = self._consumer.position(partition, timeout_ms=timeout_ms)
        if place is None:
            raise KafkaTimeoutError(f"no place in {partition} after {timeout_ms} ms")
        self._consumer.commit({partition: OffsetAndMetadata(place, "", -1)}, timeout_ms=timeout_ms)

    def positions(self) -> dict[Partition, int]:
        """The next offset of every partition; {} while the group shares out its partitions."""
        if not self._is_settled():
            return {}
        with translated("cannot ask for the committed place"):
            return {tuple(partition): self._position(partition) for partition in self._partitions}

    def ends(self) -> dict[Partition, int]:
        """The offset after the last readable message of every partition."""
        with translated("cannot ask for the end of the topic"):
            ends = self._consumer.end_offsets(self._partitions, timeout_ms=REQUEST_MS)
        return {tuple(partition): end for partition, end in ends.items()}

    def lag(self) -> dict[Partition, int]:
        """Messages not yet polled in each partition of this member, as the last fetch saw it."""
        assigned = sorted(self._consumer.assignment()) if self._is_settled() else []
        seen = {partition: self._consumer.highwater(partition) for partition in assigned}
        with translated("cannot ask for the place of this member"):
            return {
                tuple(partition): max(0, end - self._position(partition))
                for partition, end in seen.items()
                if end is not None
            }

    def close(self) -> None:
        """Leave; a member with an instance name keeps its partitions until it is back or its session ends."""
        self._consumer.close(timeout_ms=5000)

    def _is_settled(self) -> bool:
        """Whether requests are answered at once: a pending JoinGroup holds back those behind it."""
        is_member = self._consumer.config["group_id"] is not None
        return not is_member or self._consumer.group_metadata().state == MemberState.STABLE

    def _check_places(self) -> None:
        """Notice partitions that stay without a place: they look as if nothing came."""
        assigned = self._consumer.assignment() if self._is_settled() else ()
        self._wait_for_places(
            [each for each in assigned if self._consumer.position(each, timeout_ms=0) is None]
        )

    def _wait_for_places(self, lost: list[TopicPartition]) -> None:
        if not lost:
            self._placed = time.monotonic()
        elif time.monotonic() - self._placed > NO_PLACE_S:
            names = ", ".join(f"{topic}/{number}" for topic, number in sorted(lost))
            raise Unavailable(
                f"Kafka does not tell the committed place of {names}: a transaction hangs in it; find and end it "
                "with kafka-transactions.sh find-hanging and abort"
            )

    def _take(self) -> dict[TopicPartition, OffsetAndMetadata]:
        assigned = self._consumer.assignment()
        fresh, self._fresh = self._fresh, {}
        return {partition: place for partition, place in fresh.items() if partition in assigned}

    def _position(self, partition: TopicPartition) -> int:
        """The next offset; 0 where nobody has begun."""
        if partition in self._consumer.assignment():
            position = self._consumer.position(partition, timeout_ms=REQUEST_MS)
        else:
            position = self._committed(partition)
        return position or 0

    def _committed(self, partition: TopicPartition, timeout_ms: int = REQUEST_MS) -> int | None:
        if self._consumer.config["group_id"] is None:
            return None
        committed: int | None = self._consumer.committed(partition, timeout_ms=timeout_ms)
        return committed


def _message(record: Any) -> Message:
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=bytes(record.value or b""),
        headers=tuple((name, text or b"") for name, text in record.headers),
        timestamp_ms=record.timestamp,
        damage=record.value.reason if isinstance(record.value, Undecodable) else "",
    )
