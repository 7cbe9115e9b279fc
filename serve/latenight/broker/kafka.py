"""Topics on Apache Kafka >= 2.5, by kafka-python (>= 3.0.12, with crc32c)."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from latenight.broker import Start, TopicFacts
from latenight.broker.kafka_sink import TRANSACTION_MS, KafkaSink
from latenight.broker.kafka_source import REQUEST_MS, KafkaSource
from latenight.broker.topics import MAX_RECORD_BYTES, MIB
from latenight.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# kafka-python may sit on records for good when a broker comes back (75 s seen): an attempt ends early, its
# transaction is aborted, and the next one goes through. Shorter than TRANSACTION_MS, after which Kafka ends it and
# fences us. 64 MiB take 5 s at 100 Mbit/s.
SEND_MS, DELIVERY_MS = 12_000, 25_000
# Between two polls lies the scoring of a batch. A rebalance waits as long for a member that does not poll; the
# watchdog ends one that hangs before.
MAX_POLL_INTERVAL_MS = 600_000
# The partitions of a member that died wait so long for it to come back under its name (Kafka's own default).
SESSION_MS = 45_000
# A fetch returns up to this much of each partition and always at least one message, whatever its size.
FETCH_BYTES = 8 * MIB


class KafkaBroker:
    """One Kafka cluster.

    Args:
        bootstrap_servers: HOST:PORT[,HOST:PORT...].
        security: settings of kafka-python (broker.security); they are never logged.
    """

    def __init__(self, bootstrap_servers: str, security: Mapping[str, object] | None = None) -> None:
        self._address = bootstrap_servers
        self._common = {"bootstrap_servers": bootstrap_servers.split(","), **(security or {})}

    def source(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        instance: str | None = None,
        start: Start = "beginning",
    ) -> KafkaSource:
        """A reader of topics, of committed messages only."""
        with self._starting():
            consumer = KafkaConsumer(
                **self._common,
                group_id=group,
                group_instance_id=instance if group else None,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="latest" if start == "end" else "earliest",
                # Not the cooperative one of kafka-python 3.0.12: where a member lost its place and joins again, it
                # keeps a partition for what that member owned before, and nobody ever gets it (1 of 23 rounds).
                partition_assignment_strategy=[RangePartitionAssignor()],
                max_partition_fetch_bytes=FETCH_BYTES,
                max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
                session_timeout_ms=SESSION_MS,
                allow_auto_create_topics=False,
            )
            numbers = {topic: consumer.partitions_for_topic(topic) for topic in topics}
            if missing := [topic for topic, found in numbers.items() if not found]:
                consumer.close()
                raise StartupError(
                    f"no such topics on {self._address}: {', '.join(missing)}; run: latenight topics create"
                )
            partitions = [TopicPartition(topic, n) for topic in topics for n in sorted(numbers[topic])]
            if group is None:
                _begin(consumer, partitions, start)
            else:
                consumer.subscribe(list(topics))
        return KafkaSource(consumer, partitions, start)

    def sink(self, *, instance: str | None = None) -> KafkaSink:
        """A publisher; the instance name makes it transactional and fences its predecessor of that name."""
        with self._starting():
            producer = KafkaProducer(
                **self._common,
                transactional_id=instance,
                transaction_timeout_ms=TRANSACTION_MS,
                request_timeout_ms=SEND_MS,
                delivery_timeout_ms=DELIVERY_MS,
                max_request_size=MAX_RECORD_BYTES,
                batch_size=MIB,
                linger_ms=20,
                allow_auto_create_topics=False,
            )
            if instance is not None:
                producer.init_transactions()
        return KafkaSink(producer, is_transactional=instance is not None)

    def create_topics(self, settings: Mapping[str, Mapping[str, str]], partitions: int) -> list[str]:
        """Create the topics that do not exist; returns their names."""
        created = self.missing(list(settings))
        if created:
            with self._starting(), KafkaAdminClient(**self._common) as admin:
                wanted = {
                    topic: {"num_partitions": partitions, "configs": dict(settings[topic])}
                    for topic in created
                }
                admin.create_topics(wanted, timeout_ms=REQUEST_MS, wait_for_metadata=True)
        return created

    def missing(self, topics: Sequence[str]) -> list[str]:
        """Those of the topics that do not exist."""
        with self._starting(), KafkaAdminClient(**self._common) as admin:
            existing = set(admin.list_topics())
        return [topic for topic in topics if topic not in existing]

    def describe(self, topics: Sequence[str]) -> dict[str, TopicFacts]:
        """Facts of those of the topics that exist."""
        with self._starting(), KafkaAdminClient(**self._common) as admin:
            found = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(list(topics))}
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name, n in found.items() if n]
            configs = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
        return {
            name: TopicFacts(found[name], {key: each["value"] for key, each in settings.items()})
            for name, settings in configs.items()
        }

    def memory_days(self) -> float:
        """For how many days the place of a group is known that has no members; NaN if we may not ask."""
        with self._starting(), KafkaAdminClient(**self._common) as admin:
            node = str(admin.describe_cluster()["brokers"][0]["broker_id"])
            found = admin.describe_configs(
                [ConfigResource(ConfigResourceType.BROKER, node)], config_filter="all"
            )
        setting = found.get("broker", {}).get(node, {}).get("offsets.retention.minutes")
        return int(setting["value"]) / (24 * 60) if setting else math.nan

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """While we start, whatever Kafka refuses is an error of the start."""
        try:
            yield
        except (KafkaError, OSError, ValueError) as error:  # ValueError: an address or setting is no good
            raise StartupError(f"cannot use Kafka at {self._address}: {error}") from error


def _begin(consumer: Any, partitions: Sequence[TopicPartition], start: Start) -> None:
    """Take all partitions without a group and go to the start."""
    consumer.assign(partitions)
    if start == "beginning":
        consumer.seek_to_beginning()
        return
    ends = consumer.end_offsets(partitions, timeout_ms=REQUEST_MS)
    found: dict[TopicPartition, Any] = {}
    if start != "end":
        found = consumer.offsets_for_times(dict.fromkeys(partitions, start), timeout_ms=REQUEST_MS)
    for partition in partitions:
        first = found.get(partition)
        consumer.seek(partition, ends[partition] if first is None else first.offset)
