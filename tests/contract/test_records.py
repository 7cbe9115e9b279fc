"""Records that kafka-python cannot decode: a header whose name is no UTF-8, and a disk that has changed a byte."""

from __future__ import annotations

import uuid
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from latenight.broker import Record
from latenight.broker.kafka import KafkaBroker
from latenight.broker.kafka_records import Undecodable
from latenight.broker.topics import Topics
from latenight.daemon import Daemon
from latenight.deadletters import describe, replay
from latenight.errors import Damaged
from latenight.health import Health
from latenight.inbox import read_message
from latenight.metrics import Metrics
from latenight.outcome import Desk
from latenight.wire import CONTENT_ARROW, encode_spectra
from tests.chaos.world import count_scores, petal, targets
from tests.contract.test_broker import fill, read_all, take
from tests.fakes import FakeScorer
from tests.kafka_server import running_kafka

if TYPE_CHECKING:
    from pathlib import Path


class NoText(str):
    """The name of a header that is no UTF-8 on the wire."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"\xff"


def batch_of(values: list[bytes]) -> bytearray:
    """A batch as Kafka stores it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset, value in enumerate(values):
        builder.append(offset, timestamp=1000 + offset, key=b"k", value=value, headers=[("h", b"v")])
    return bytearray(builder.build())


@given(n=st.integers(1, 5), which=st.integers(0, 4), garbage=st.binary(min_size=9, max_size=9))
def test_whatever_a_record_holds_its_neighbours_come(n: int, which: int, garbage: bytes) -> None:
    """A record that says its length and offset hides no other, and comes as its bytes if it makes no sense."""
    which %= n
    raw = batch_of([b"<%d>" % i for i in range(n)])
    place = (
        raw.index(b"<%d>" % which) - 3
    )  # behind attributes, time and offset: lengths, key, value and a header
    raw[place : place + 9] = garbage
    records = list(MemoryRecords(bytes(raw)).next_batch())
    assert [record.offset for record in records] == list(range(n))
    others = [record.value for record in records if record.offset != which]
    assert others == [b"<%d>" % i for i in range(n) if i != which]
    value = records[which].value
    if isinstance(value, Undecodable):
        assert garbage in bytes(value)
        assert value.reason
        assert records[which].timestamp == 1000 + which


def test_a_record_that_lies_about_its_offset_is_not_stepped_over() -> None:
    """An offset outside of its batch would be where reading goes on, and skip what lies before."""
    raw = batch_of([b"<0>", b"<1>"])
    place = raw.index(b"<0>") - 4
    raw[place : place + 2] = bytes([2 * 60, 2 * 60])  # offset 60, and a key of 60 bytes
    with pytest.raises(CorruptRecordError):
        list(MemoryRecords(bytes(raw)).next_batch())


@pytest.mark.kafka
def test_an_undecodable_record_is_a_dead_letter_and_blocks_nobody(kafka_server: str) -> None:
    """Its bytes are kept with the reason, its neighbours of the same batch are scored, and a replay leaves it out."""
    topics, broker = Topics(f"damage{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    broker.create_topics(topics.settings(), 1)
    arrow = ("content-type", CONTENT_ARROW.encode())
    producer = KafkaProducer(bootstrap_servers=kafka_server, linger_ms=1000, batch_size=1 << 20)
    for number, headers in enumerate([[arrow], [arrow, (NoText(), b"")], [arrow]]):
        producer.send(topics.spectra, encode_spectra(petal(number)), key=b"1-1", headers=headers)
    producer.close()

    metrics = Metrics()
    desk = Desk(topics, lambda m: read_message(m.value, m.headers), FakeScorer(), 0.1, metrics)
    with (
        closing(broker.source([topics.spectra], group="g")) as source,
        closing(broker.sink(instance=topics.prefix)) as sink,
    ):
        daemon = Daemon(source, sink, desk, health=Health(), stop=Event(), max_dead_ratio=0.9)
        daemon.run(drain=True)
        assert source.positions() == {(topics.spectra, 0): 3}
    assert set(count_scores(read_all(broker, topics.scores))) == {*targets(0), *targets(2)}
    (letter,) = read_all(broker, topics.deadletters)
    described = describe(letter)
    assert (described["stage"], described["source"]) == ("decode", f"{topics.spectra}/0/1")
    assert "UnicodeDecodeError" in described["reason"]
    assert encode_spectra(petal(1)) in letter.value
    assert metrics.registry.get_sample_value("latenight_dead_letters_total", {"stage": "decode"}) == 1

    refused: list[object] = []
    with (
        closing(broker.source([topics.deadletters], group="r")) as source,
        closing(broker.sink(instance=f"{topics.prefix}-r")) as sink,
    ):
        assert replay(source, sink, topics.spectra, refused.append) == 0
    assert "could not be decoded" in str(refused[0])


@pytest.mark.kafka
def test_a_batch_that_the_disk_has_changed_ends_the_process(tmp_path: Path) -> None:
    """What comes before it is read; then the error says where it lies and how to pass over it, and that helps."""
    with running_kafka(tmp_path) as address:
        broker, topics = KafkaBroker(address), Topics("disk")
        broker.create_topics(topics.settings(), 1)
        for value in (b"before", b"damaged", b"behind"):
            fill(broker, [Record(topics.spectra, b"k", value)])
        (log,) = tmp_path.rglob(f"{topics.spectra}-0/*.log")
        with log.open("r+b") as file:
            file.seek(log.read_bytes().index(b"damaged"))
            file.write(b"D")
        source = broker.source([topics.spectra], group="g")
        assert [message.value for message in take(source, 1)] == [b"before"]
        with pytest.raises(
            Damaged, match=rf"(?s)topic='{topics.spectra}', partition=0\) at offset 1 .*--to-offset"
        ):
            take(source, 1)
        source.close()
        successor = broker.source([topics.spectra])
        successor._consumer.seek(successor._partitions[0], 2)
        assert [message.value for message in take(successor, 1)] == [b"behind"]
        successor.close()
