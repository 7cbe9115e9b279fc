"""What only a real Kafka can show: open transactions, processes that die, a broker that does not answer."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from types import SimpleNamespace

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition

from latenight.broker import PlaceLost, Record, kafka_source
from latenight.broker.kafka import KafkaBroker
from latenight.broker.kafka_sink import MAX_UNACKNOWLEDGED, KafkaSink, within
from latenight.broker.kafka_source import _message
from latenight.broker.topics import MAX_MESSAGE_BYTES, MAX_RECORD_BYTES, Topics
from latenight.deadletters import MAX_REASON, dead_letter
from latenight.errors import Unavailable
from tests.contract.test_broker import fill, read_all, records, take, values, wait_until
from tests.kafka_server import free_ports


@pytest.fixture
def broker(kafka_server: str) -> KafkaBroker:
    return KafkaBroker(kafka_server)


@pytest.fixture
def topics(broker: KafkaBroker) -> Topics:
    topics = Topics(f"k{uuid.uuid4().hex[:12]}")
    broker.create_topics(topics.settings(), 2)
    return topics


@pytest.mark.kafka
def test_a_transaction_left_open_is_undone_by_the_successor(broker: KafkaBroker, topics: Topics) -> None:
    """What a process sent before it died is never seen, and stops nobody once its successor is there."""
    dead = broker.sink(instance=topics.prefix)
    dead._producer.begin_transaction()
    dead._send([Record(topics.scores, b"k", b"unfinished")])
    successor = broker.sink(instance=topics.prefix)
    successor.publish([Record(topics.scores, b"k", b"finished")])
    assert values(read_all(broker, topics.scores)) == [b"finished"]
    dead.close()
    successor.close()


@pytest.mark.kafka
def test_a_member_that_fell_out_of_its_group_commits_nothing(broker: KafkaBroker, topics: Topics) -> None:
    """Without its place in the group a member publishes nothing, even if the group is empty by then."""
    fill(broker, records(topics.spectra, 2))
    source = broker.source([topics.spectra], group=topics.prefix, instance="pod-0")
    messages = take(source, 2)
    source._consumer._coordinator.reset_generation()  # what the heartbeat does when the broker knows us no more
    with pytest.raises(Unavailable, match="took the partitions away"):
        source.consumed(messages)
    source.close()


@pytest.mark.kafka
def test_a_member_that_joins_anew_reads_on_where_others_have_been(
    broker: KafkaBroker, topics: Topics
) -> None:
    """After a rebalance a member goes to the committed place, and what it polled before is no longer its own."""
    fill(broker, records(topics.spectra, 6))
    source = broker.source([topics.spectra], group=topics.prefix, instance="pod-0")
    messages = take(source, 2)
    partition = TopicPartition(messages[0].topic, messages[0].partition)
    # While it was frozen the group was shared out anew, and others scored four messages.
    source._consumer.commit({partition: OffsetAndMetadata(4)}, timeout_ms=10_000)
    source._consumer._coordinator.request_rejoin()
    generation = source._generation_now()

    def rejoined() -> bool:
        source._consumer.poll(timeout_ms=100)
        return source._generation_now() > generation

    wait_until(rejoined)
    with pytest.raises(Unavailable, match="took the partitions away"):
        source.consumed(messages)
    assert [message.offset for message in take(source, 2)] == [4, 5]
    source.close()


@pytest.mark.kafka
def test_every_partition_has_an_owner_after_a_member_lost_its_place(
    broker: KafkaBroker, topics: Topics
) -> None:
    """A member that fell out joins again together with a new one: between them they read all partitions."""
    keys = [f"{tile}-0".encode() for tile in range(20)]
    fill(broker, [Record(topics.spectra, key, b"before") for key in keys])
    first = broker.source([topics.spectra], group=topics.prefix, instance="a")
    take(first, len(keys))
    first._consumer._coordinator.reset_generation()  # what the heartbeat does when the broker knows us no more
    second = broker.source([topics.spectra], group=topics.prefix, instance="b")

    def share() -> list[int]:
        for each in (first, second):
            each.poll(0.2, 100)
        return [len(each._consumer.assignment()) for each in (first, second) if each._is_settled()]

    wait_until(lambda: share() == [1, 1])
    first.close()
    second.close()


@pytest.mark.kafka
def test_a_poll_that_ends_in_the_middle_of_joining_is_not_the_last(
    broker: KafkaBroker, topics: Topics
) -> None:
    """A member reads on though a join that it began was left as soon as it had shared out the partitions."""
    fill(broker, records(topics.spectra, 2))
    source = broker.source([topics.spectra], group=topics.prefix)
    take(source, 1)
    coordinator = source._consumer._coordinator

    def is_joining() -> bool:
        coordinator._assignment_snapshot = {}  # as when the partitions of the topic were not known yet
        source._consumer.poll(timeout_ms=0)
        return bool(coordinator.rebalance_in_progress())

    wait_until(is_joining)
    coordinator._assignment_snapshot = coordinator._metadata_snapshot  # what sharing out does
    assert not coordinator.need_rejoin()
    assert [message.offset for message in take(source, 2)] == [0, 1]
    source.close()


@pytest.mark.kafka
def test_a_transaction_that_hangs_is_named(
    broker: KafkaBroker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member whose place is hidden by an open transaction says so instead of waiting as if nothing came."""
    monkeypatch.setattr(kafka_source, "NO_PLACE_S", 1.0)
    fill(broker, records(topics.spectra, 2))
    first = broker.source([topics.spectra], group=topics.prefix)
    consumed = first.consumed(take(first, 1))
    hanging = broker.sink(instance=topics.prefix)._producer
    hanging.begin_transaction()
    offsets = {TopicPartition(*where): OffsetAndMetadata(n) for where, n in consumed.offsets.items()}
    hanging.send_offsets_to_transaction(offsets, consumed.member)
    first.close()
    second = broker.source([topics.spectra], group=topics.prefix)
    with pytest.raises(Unavailable, match=f"committed place of {topics.spectra}/.*: a transaction hangs"):
        take(second, 1)
    hanging.commit_transaction()
    assert [message.offset for message in take(second, 1)] == [1]
    second.close()
    hanging.close()


@pytest.mark.kafka
def test_the_topics_carry_their_settings(broker: KafkaBroker, topics: Topics) -> None:
    """A record larger than its topic allows is refused, whole petals fit the topics that carry them."""
    sink = broker.sink()
    petal = bytes(33_000_000)
    limits = {topics.spectra: MAX_MESSAGE_BYTES, topics.deadletters: MAX_RECORD_BYTES}
    for topic, limit in limits.items():
        assert topics.settings()[topic]["max.message.bytes"] == str(limit)
        sink.publish([Record(topic, b"1000-0", petal)])
    with pytest.raises(Exception, match="MessageSizeTooLarge"):
        sink.publish([Record(topics.alerts, b"1", petal)])
    sink.close()


@pytest.mark.kafka
def test_the_largest_message_fits_the_dead_letters(broker: KafkaBroker, topics: Topics) -> None:
    """A message as large as its topic takes can be kept with the longest reason, and blocks nobody."""
    sink = broker.sink()
    sink.publish([Record(topics.spectra, b"k", bytes(MAX_MESSAGE_BYTES - 100), (("h", b"v"),))])
    (message,) = read_all(broker, topics.spectra)
    sink.publish([dead_letter(topics.deadletters, message, "read", "\N{GRINNING FACE}" * MAX_REASON)])
    sink.close()


@pytest.mark.kafka
def test_a_compressed_message_counts_with_its_full_size(kafka_server: str, topics: Topics) -> None:
    """70 MB that compress to 70 kB are refused by the topic: what a daemon unpacks is bounded."""
    producer = KafkaProducer(
        bootstrap_servers=kafka_server, compression_type="gzip", max_request_size=1 << 30, batch_size=1 << 27
    )
    with pytest.raises(KafkaError, match="MessageSizeTooLarge"):
        producer.send(topics.spectra, bytes(70_000_000)).get(timeout=60)
    producer.close()


def test_a_record_of_nulls_is_a_message() -> None:
    """Kafka allows a key, a payload and a header value that are null; only the key stays so."""
    record = SimpleNamespace(topic="t", partition=0, offset=7, key=None, value=None, timestamp=0)
    record.headers = [("content-type", None)]
    message = _message(record)
    assert (message.key, message.value, message.headers) == (None, b"", (("content-type", b""),))
    assert message.header("content-type") == ""


@pytest.mark.parametrize("opening", ["source(['spectra'])", "sink()", "missing([])"])
def test_a_broker_that_is_not_there_is_an_error_of_the_start(opening: str) -> None:
    """Nobody listens: opening a source or a sink says which address does not answer."""
    (port,) = free_ports(1)
    # A process of its own: a client of kafka-python that could not start leaves threads and sockets behind.
    code = (
        "from latenight.broker.kafka import KafkaBroker\n"
        f"KafkaBroker('127.0.0.1:{port}', {{'bootstrap_timeout_ms': 200}}).{opening}"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert f"StartupError: cannot use Kafka at 127.0.0.1:{port}: " in ran.stderr


def test_a_transaction_that_never_ends_is_given_up() -> None:
    """A call that hangs past its limit loses the place; one that fails in time keeps its own error."""
    forever = threading.Event()

    def wait() -> None:
        forever.wait()

    with pytest.raises(PlaceLost, match="outcome is unknown"):
        within(0.01, wait)
    forever.set()

    def fail() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        within(10.0, fail)


def test_what_is_sent_but_not_acknowledged_is_bounded() -> None:
    """However many records are published, the producer's queue holds MAX_UNACKNOWLEDGED bytes of them."""

    class Slow:
        """A producer that acknowledges a record when somebody waits for it."""

        def __init__(self) -> None:
            self.queued, self.peak, self.n = 0, 0, 0

        def send(self, topic: str, value: bytes, **_: object) -> SimpleNamespace:
            self.n += 1
            self.queued += len(value)
            self.peak = max(self.peak, self.queued)

            def acknowledge(timeout: float) -> None:
                self.queued -= len(value)

            return SimpleNamespace(get=acknowledge)

        def flush(self, timeout: float) -> None:
            """Nothing is queued by time here."""

    producer, value = Slow(), bytes(MAX_UNACKNOWLEDGED // 4)
    KafkaSink(producer, is_transactional=False).publish([Record("t", None, value)] * 20)
    assert producer.n == 20
    assert producer.peak <= MAX_UNACKNOWLEDGED
    assert producer.queued == 0
