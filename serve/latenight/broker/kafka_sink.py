"""Publishing on Kafka, in transactions that cannot hang for ever."""

from __future__ import annotations

from collections import deque
from threading import Thread
from typing import TYPE_CHECKING, Any

from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition

from latenight.broker import Consumed, PlaceLost, Record
from latenight.broker.kafka_errors import translated
from latenight.broker.topics import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# An open transaction blocks every read_committed reader: this long if we die inside one and never come back.
TRANSACTION_MS = 30_000
# kafka-python waits for ever for the end of a transaction, and after a lost connection it may never come (two in 26
# rounds of make chaos). Kafka itself ends a transaction after TRANSACTION_MS: later none can succeed.
PUBLISH_LIMIT_S = 45.0
# kafka-python's queue has no bound: it takes 150 MB in .3 s. One dead letter of the largest size fits.
MAX_UNACKNOWLEDGED = MAX_RECORD_BYTES


class KafkaSink:
    """Publishes with one idempotent producer, in transactions if it has an instance name."""

    def __init__(self, producer: Any, *, is_transactional: bool) -> None:
        self._producer = producer
        self._is_transactional = is_transactional

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        """Publish the records and commit the consumed offsets in one transaction."""
        with translated("cannot publish"):
            if self._is_transactional:
                within(PUBLISH_LIMIT_S, lambda: self._transact(records, consumed))
            else:
                self._send(records)

    def close(self) -> None:
        """Leave; what was published stays."""
        self._producer.close(timeout=10)

    def _transact(self, records: Sequence[Record], consumed: Consumed | None) -> None:
        self._producer.begin_transaction()
        try:
            self._send(records)
            if consumed is not None and consumed.offsets:
                offsets = {
                    TopicPartition(*where): OffsetAndMetadata(n) for where, n in consumed.offsets.items()
                }
                self._producer.send_offsets_to_transaction(offsets, consumed.member)
            self._producer.commit_transaction()
        except KafkaError:
            self._producer.abort_transaction()  # raises if the producer cannot go on: then that is the error
            raise

    def _send(self, records: Sequence[Record]) -> None:
        """Send and wait for every acknowledgement, MAX_UNACKNOWLEDGED bytes at a time."""
        sent: deque[tuple[Any, int]] = deque()
        for record in records:
            while sent and sum(size for _, size in sent) + len(record.value) > MAX_UNACKNOWLEDGED:
                sent.popleft()[0].get(timeout=PUBLISH_LIMIT_S)
            future = self._producer.send(
                record.topic, record.value, key=record.key, headers=list(record.headers)
            )
            sent.append((future, len(record.value)))
        self._producer.flush(timeout=PUBLISH_LIMIT_S)
        for future, _ in sent:
            future.get(timeout=PUBLISH_LIMIT_S)


def within(limit_s: float, call: Callable[[], None]) -> None:
    """Run a call that may hang for ever.

    Raises:
        PlaceLost: it has not returned in time, and nobody knows whether it will still succeed.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  (raised again below, in the thread that called)
            errors.append(error)

    thread = Thread(target=run, name="publish", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise PlaceLost(
            f"Kafka has not finished a transaction within {limit_s:.0f} s: its outcome is unknown"
        )
    if errors:
        raise errors[0]
