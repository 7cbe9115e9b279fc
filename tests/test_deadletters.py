"""Dead letters keep messages as they came, and send them again, each once, on both brokers."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latenight.broker import Broker, Message, Record
from latenight.broker.topics import Topics
from latenight.deadletters import MAX_REASON, dead_letter, describe, original, replay
from latenight.errors import BadInput, Unavailable
from tests.contract.test_broker import fill, read_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latenight.broker import Consumed, Sink

HEADERS = (("content-type", b"text/plain"), ("twice", b"1"), ("twice", b"\xff"))
BYTES = st.binary(max_size=20)


def message(value: bytes = b"\xff\x00", key: bytes | None = b"1000-0") -> Message:
    return Message("t.spectra", 3, 17, key, value, HEADERS, 1_800_000_000_000)


def as_letter(record: Record, offset: int = 0) -> Message:
    return Message(record.topic, 0, offset, record.key, record.value, record.headers, 0)


@given(
    value=BYTES,
    key=st.none() | BYTES,
    headers=st.lists(st.tuples(st.text(max_size=5) | st.just("deadletter-reason"), BYTES), max_size=3),
    reason=st.text(),
)
def test_the_original_comes_back_bit_by_bit(
    value: bytes, key: bytes | None, headers: list[tuple[str, bytes]], reason: str
) -> None:
    """Payload, key and headers survive, whatever they are and whatever the reason says."""
    refused = Message("t.spectra", 3, 17, key, value, tuple(headers), 0)
    letter = as_letter(dead_letter("t.deadletters", refused, "read", reason))
    assert original(letter, "t.spectra") == Record("t.spectra", key, value, tuple(headers))


def test_a_letter_is_described_in_words() -> None:
    """Reason, stage, where it came from, key, size and content type; the reason is cut."""
    letter = as_letter(dead_letter("t.deadletters", message(), "read", "x" * 2000))
    assert describe(letter) == {
        "reason": "x" * MAX_REASON,
        "stage": "read",
        "source": "t.spectra/3/17",
        "timestamp_ms": 1800000000000,
        "key": "1000-0",
        "size": 2,
        "content_type": "text/plain",
        "letter": "t.deadletters/0/0",
    }


def test_what_is_no_letter_of_ours_is_described_too() -> None:
    """A stranger's message in the topic has a key and a size, and no reason."""
    stranger = describe(as_letter(Record("t.deadletters", None, b"hello")))
    assert (stranger["reason"], stranger["source"], stranger["key"], stranger["size"]) == (
        None,
        None,
        None,
        5,
    )


@pytest.fixture
def topics(broker: Broker) -> Topics:
    topics = Topics(f"d{uuid.uuid4().hex[:12]}")
    broker.create_topics(topics.settings(), 2)
    return topics


def letters(topics: Topics, n: int, first: int = 0) -> list[Record]:
    refused = [message(str(k).encode(), str(k).encode()) for k in range(first, first + n)]
    return [dead_letter(topics.deadletters, each, "read", "why") for each in refused]


class Flaky:
    """A sink whose second publication fails before anything is visible."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.n = sink, 0

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        self.n += 1
        if self.n == 2:
            raise Unavailable("the broker is away")
        self.sink.publish(records, consumed)

    def close(self) -> None:
        self.sink.close()


def replay_all(broker: Broker, topics: Topics, refused: list[BadInput], *, flaky: bool = False) -> int:
    sink, source = (
        broker.sink(instance=topics.prefix),
        broker.source([topics.deadletters], group=topics.prefix),
    )
    try:
        return replay(source, Flaky(sink) if flaky else sink, topics.spectra, refused.append)
    finally:
        source.close()
        sink.close()


def test_each_letter_is_sent_again_once(broker: Broker, topics: Topics) -> None:
    """Replays send what no replay has sent, as it was; what is no dead letter is named and passed over."""
    refused: list[BadInput] = []
    fill(broker, [*letters(topics, 6), Record(topics.deadletters, b"k", b"hello")])
    assert replay_all(broker, topics, refused) == 6
    assert "is no dead letter" in str(refused[0])
    assert replay_all(broker, topics, refused) == 0
    fill(broker, letters(topics, 1, first=6))
    assert replay_all(broker, topics, refused) == 1
    found = sorted(read_all(broker, topics.spectra), key=lambda each: each.value)
    assert [(each.key, each.value, each.headers) for each in found] == [
        (str(k).encode(), str(k).encode(), HEADERS) for k in range(7)
    ]
    assert len(refused) == 1


def test_a_replay_that_fails_is_gone_on_with(broker: Broker, topics: Topics) -> None:
    """A replay that dies half way has sent whole batches; the next one sends the rest, and nothing twice."""
    fill(broker, letters(topics, 20))
    with pytest.raises(Unavailable, match="away"):
        replay_all(broker, topics, [], flaky=True)
    n_sent = len(read_all(broker, topics.spectra))
    assert 0 < n_sent < 20
    assert replay_all(broker, topics, []) == 20 - n_sent
    values = [each.value for each in read_all(broker, topics.spectra)]
    assert sorted(values, key=int) == [str(k).encode() for k in range(20)]
