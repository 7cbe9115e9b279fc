"""The contracts of latenight.broker, kept by the in-memory broker and by a real Apache Kafka."""

from __future__ import annotations

import time
import uuid
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from latenight.broker import Broker, Message, PlaceLost, Record, Source
from latenight.broker.topics import DAY_MS, Topics
from latenight.errors import StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

# One request takes milliseconds; joining a group or taking over partitions takes up to two heartbeats of 3 s.
DEADLINE_S = 30.0
N_PARTITIONS = 2


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """Topics of their own for each test."""
    topics = Topics(f"t{uuid.uuid4().hex[:12]}")
    broker.create_topics(topics.settings(), N_PARTITIONS)
    return topics


def records(topic: str, n: int, key: bytes | None = b"1000-0", first: int = 0) -> list[Record]:
    return [Record(topic, key, f"{key!r}:{i}".encode()) for i in range(first, first + n)]


def fill(broker: Broker, batch: list[Record]) -> None:
    sink = broker.sink()
    sink.publish(batch)
    sink.close()


def take(source: Source, n: int, max_messages: int = 100) -> list[Message]:
    """Exactly the next n messages."""
    messages: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(messages) < n and time.monotonic() < deadline:
        messages += source.poll(0.2, min(max_messages, n - len(messages)))
    assert len(messages) == n
    return messages


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline


def values(messages: list[Message]) -> list[bytes]:
    return [message.value for message in messages]


def read_all(broker: Broker, topic: str) -> list[Message]:
    """What a reader without a group finds from the beginning to the end of this moment."""
    source = broker.source([topic])
    ends = source.ends()
    messages: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while any(source.positions()[partition] < end for partition, end in ends.items()):
        assert time.monotonic() < deadline
        messages += source.poll(0.1, 100)
    source.close()
    return messages


def test_a_message_comes_back_as_it_was_published(broker: Broker, topics: Topics) -> None:
    """Key, value, headers and topic are kept, and the time stamp is the time of publication."""
    headers = (("content-type", b"text/plain"), ("twice", b"1"), ("twice", b"\xff2"))
    before = int(time.time() * 1000)
    fill(broker, [Record(topics.spectra, b"1000-0", b"payload", headers)])
    (message,) = read_all(broker, topics.spectra)
    assert (message.topic, message.key, message.value) == (topics.spectra, b"1000-0", b"payload")
    assert message.headers == headers
    assert message.header("content-type") == "text/plain"
    assert message.header("absent") == ""
    assert before <= message.timestamp_ms <= int(time.time() * 1000)
    assert str(message) == f"{topics.spectra}/{message.partition}/0"


def test_messages_of_one_key_keep_their_order(broker: Broker, topics: Topics) -> None:
    """All messages of one key lie in one partition and are read in the order of publication."""
    keys = [b"a", b"b", b"c", b"d", b"e"]
    sent = {key: records(topics.spectra, 20, key) for key in keys}
    fill(broker, [sent[key][i] for i in range(20) for key in keys])
    messages = read_all(broker, topics.spectra)
    assert len(messages) == 100
    for key in keys:
        mine = [message for message in messages if message.key == key]
        assert values(mine) == [record.value for record in sent[key]]
        assert len({message.partition for message in mine}) == 1


def test_a_poll_returns_no_more_than_asked(broker: Broker, topics: Topics) -> None:
    """max_messages bounds one poll, and the rest comes with the next ones."""
    fill(broker, records(topics.spectra, 10))
    source = broker.source([topics.spectra])
    sizes: list[int] = []
    deadline = time.monotonic() + DEADLINE_S
    while sum(sizes) < 10 and time.monotonic() < deadline:
        sizes.append(len(source.poll(0.5, 3)))
    assert sum(sizes) == 10
    assert max(sizes) <= 3
    assert source.poll(0.0, 3) == []
    source.close()


def test_a_group_resumes_behind_its_last_commit(broker: Broker, topics: Topics) -> None:
    """What was polled but not committed is read again by the next member of the group."""
    fill(broker, records(topics.spectra, 10))
    first = broker.source([topics.spectra], group=topics.prefix)
    take(first, 4)
    first.commit()
    take(first, 3)
    first.close()
    second = broker.source([topics.spectra], group=topics.prefix)
    assert values(take(second, 6)) == [record.value for record in records(topics.spectra, 6, first=4)]
    second.close()


def test_a_group_that_began_at_the_end_misses_nothing_after_a_stop(broker: Broker, topics: Topics) -> None:
    """What comes while its only member is away is read by the next, from partitions that gave nothing before, too."""
    keys = [f"{tile}-0".encode() for tile in range(20)]  # both partitions
    fill(broker, [Record(topics.alerts, key, b"before") for key in keys])
    first = broker.source([topics.alerts], group=topics.prefix, start="end")
    wait_until(lambda: first.poll(0.2, 100) == [] and bool(first.positions()))
    first.close()
    fill(broker, [Record(topics.alerts, key, key) for key in keys])
    second = broker.source([topics.alerts], group=topics.prefix, start="end")
    assert sorted(values(take(second, len(keys)))) == sorted(keys)
    second.close()


def test_rewinding_reads_again_what_was_not_committed(broker: Broker, topics: Topics) -> None:
    """After rewind, poll goes on behind the last commit, or where it began if there is none."""
    fill(broker, records(topics.spectra, 6))
    source = broker.source([topics.spectra], group=topics.prefix)
    take(source, 2)
    source.rewind()
    assert [message.offset for message in take(source, 3)] == [0, 1, 2]
    source.commit()
    take(source, 2)
    source.rewind()
    assert [message.offset for message in take(source, 3)] == [3, 4, 5]
    source.close()


def test_publishing_and_consumed_offsets_are_one_step(broker: Broker, topics: Topics) -> None:
    """After publish with consumed offsets, records are visible and the group goes on behind them."""
    fill(broker, records(topics.spectra, 5))
    source = broker.source([topics.spectra], group=topics.prefix)
    sink = broker.sink(instance=topics.prefix)
    consumed = source.consumed(take(source, 3))
    sink.publish([Record(topics.scores, b"k", b"scores"), Record(topics.alerts, b"k", b"alert")], consumed)
    take(source, 2)
    source.close()
    sink.close()
    assert values(read_all(broker, topics.scores)) == [b"scores"]
    assert values(read_all(broker, topics.alerts)) == [b"alert"]
    successor = broker.source([topics.spectra], group=topics.prefix)
    assert [message.offset for message in take(successor, 2)] == [3, 4]
    successor.close()


def test_nothing_of_a_failed_publication_is_visible(broker: Broker, topics: Topics) -> None:
    """If the offsets cannot be committed the records do not exist, and the sink can go on."""
    fill(broker, records(topics.spectra, 4))
    gone = broker.source([topics.spectra], group=topics.prefix)
    sink = broker.sink(instance=topics.prefix)
    consumed = gone.consumed(take(gone, 4))
    gone.close()
    with pytest.raises(Unavailable):
        sink.publish([Record(topics.scores, b"k", b"undone")], consumed)
    successor = broker.source([topics.spectra], group=topics.prefix)
    sink.publish([Record(topics.scores, b"k", b"done")], successor.consumed(take(successor, 4)))
    assert values(read_all(broker, topics.scores)) == [b"done"]
    successor.close()
    sink.close()


def test_a_part_of_a_batch_can_be_committed(broker: Broker, topics: Topics) -> None:
    """The place that is committed lies behind the messages that were dealt with, not behind those polled."""
    fill(broker, records(topics.spectra, 5))
    source = broker.source([topics.spectra], group=topics.prefix)
    sink = broker.sink(instance=topics.prefix)
    sink.publish([], source.consumed(take(source, 4)[:3]))
    source.rewind()
    assert [message.offset for message in take(source, 2)] == [3, 4]
    source.close()
    sink.close()


def test_a_poll_can_be_committed_in_parts(broker: Broker, topics: Topics) -> None:
    """Parts of one poll are transactions one after the other; what is not yet committed comes again after a rewind."""
    fill(broker, records(topics.spectra, 5))
    source = broker.source([topics.spectra], group=topics.prefix)
    sink = broker.sink(instance=topics.prefix)
    polled = take(source, 4)
    for part in (polled[:1], polled[1:3]):
        sink.publish([Record(topics.scores, b"k", b"scores")], source.consumed(part))
    source.rewind()
    assert [message.offset for message in take(source, 2)] == [3, 4]
    assert values(read_all(broker, topics.scores)) == [b"scores"] * 2
    source.close()
    sink.close()


def test_a_transaction_may_publish_nothing(broker: Broker, topics: Topics) -> None:
    """Consumed offsets are committed without any record, and records without any offset."""
    fill(broker, records(topics.spectra, 2))
    source = broker.source([topics.spectra], group=topics.prefix)
    sink = broker.sink(instance=topics.prefix)
    sink.publish([], source.consumed(take(source, 1)))
    source.rewind()
    assert [message.offset for message in take(source, 1)] == [1]
    sink.publish([Record(topics.status, None, b"alive")])
    sink.publish([])
    assert values(read_all(broker, topics.status)) == [b"alive"]
    source.close()
    sink.close()


def test_a_second_sink_of_the_same_instance_fences_the_first(broker: Broker, topics: Topics) -> None:
    """The older of two sinks with one instance name cannot publish, and its error says so."""
    older = broker.sink(instance=topics.prefix)
    older.publish([Record(topics.status, None, b"older")])
    newer = broker.sink(instance=topics.prefix)
    newer.publish([Record(topics.status, None, b"newer")])
    with pytest.raises(PlaceLost, match="instance"):
        older.publish([Record(topics.status, None, b"zombie")])
    assert sorted(values(read_all(broker, topics.status))) == [b"newer", b"older"]
    newer.close()
    older.close()


def test_a_member_that_comes_back_under_its_name_goes_on_at_once(broker: Broker, topics: Topics) -> None:
    """A new process with the name of a dead one reads on behind the commit at once; the old cannot commit."""
    fill(broker, records(topics.spectra, 4))
    dead = broker.source([topics.spectra], group=topics.prefix, instance="pod-0")
    take(dead, 2)
    dead.commit()
    successor = broker.source([topics.spectra], group=topics.prefix, instance="pod-0")
    assert [message.offset for message in take(successor, 2)] == [2, 3]

    def go_on() -> None:
        wait_until(lambda: bool(dead.poll(0.5, 1)))  # may give what had been fetched, or already fail
        dead.commit()

    with pytest.raises(PlaceLost, match="instance"):
        go_on()
    dead.close()
    successor.close()


class Reader(Thread):
    """A member of a group in a thread of its own, as each daemon has its own process."""

    def __init__(self, broker: Broker, topics: Topics) -> None:
        super().__init__()
        self.seen: list[Message] = []
        self.ended = Event()
        self._source = broker.source([topics.spectra], group=topics.prefix)
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            self.seen += self._source.poll(1.0, 1000)
            self._source.commit()
        self._source.close()

    def recent_partitions(self) -> set[int]:
        return {message.partition for message in self.seen[-20:]}


def test_two_members_share_the_partitions(broker: Broker, topics: Topics) -> None:
    """Once both members have their share, every message reaches exactly one of them."""
    keys = [f"{tile}-{petal}".encode() for tile in range(5) for petal in range(10)]
    readers = [Reader(broker, topics) for _ in range(2)]
    try:

        def both_have_a_share() -> bool:
            fill(broker, [Record(topics.spectra, key, b"warm-up") for key in keys])
            return [reader.recent_partitions() for reader in readers] in ([{0}, {1}], [{1}, {0}])

        wait_until(both_have_a_share)
        fill(broker, [Record(topics.spectra, key, b"counted") for key in keys])

        def counted() -> list[str]:
            return [
                str(message) for reader in readers for message in reader.seen if message.value == b"counted"
            ]

        wait_until(lambda: len(counted()) >= len(keys))
        assert len(set(counted())) == len(counted()) == len(keys)
    finally:
        for reader in readers:
            reader.ended.set()
        for reader in readers:
            reader.join()


def test_a_whole_petal_passes_inline(broker: Broker, topics: Topics) -> None:
    """A message of 33 MB goes in and comes out unchanged."""
    petal = bytes(range(256)) * (33_000_000 // 256)
    fill(broker, [Record(topics.spectra, b"1000-0", petal)])
    (message,) = read_all(broker, topics.spectra)
    assert message.value == petal


def test_a_topic_is_drained_when_the_positions_reach_its_ends(broker: Broker, topics: Topics) -> None:
    """positions() meets ends() after the last message, also where transactions were published."""
    sink = broker.sink(instance=topics.prefix)
    sink.publish(records(topics.alerts, 3, b"a"))
    sink.publish(records(topics.alerts, 3, b"b"))
    sink.close()
    source = broker.source([topics.alerts], group=topics.prefix)
    ends = source.ends()
    assert set(ends) == {(topics.alerts, 0), (topics.alerts, 1)}
    assert sum(ends.values()) >= 6
    take(source, 6)
    wait_until(lambda: source.poll(0.1, 1) == [] and source.positions() == ends)
    source.close()


def test_the_lag_is_what_is_left_to_poll(broker: Broker, topics: Topics) -> None:
    """lag() counts the messages behind the position in this member's partitions."""
    fill(broker, records(topics.spectra, 10))
    source = broker.source([topics.spectra], group=topics.prefix)
    take(source, 4)
    assert sum(source.lag().values()) == 6
    take(source, 6)
    assert sum(source.lag().values()) == 0
    source.close()


def test_a_reader_may_begin_at_the_end_or_at_a_time(broker: Broker, topics: Topics) -> None:
    """start="end" reads only what comes later; a time in milliseconds reads nothing older."""
    fill(broker, records(topics.alerts, 3))
    stamp = read_all(broker, topics.alerts)[-1].timestamp_ms + 1
    late = broker.source([topics.alerts], start="end")
    wait_until(lambda: time.time() * 1000 > stamp)
    fill(broker, records(topics.alerts, 2, first=3))
    assert [message.offset for message in take(late, 2)] == [3, 4]
    since = broker.source([topics.alerts], start=stamp)
    assert [message.offset for message in take(since, 2)] == [3, 4]
    grouped = broker.source([topics.alerts], start=stamp, group=topics.prefix)
    assert [message.offset for message in take(grouped, 2)] == [3, 4]
    future = broker.source([topics.alerts], start=stamp + 3_600_000)
    assert future.poll(0.2, 10) == []
    for source in (late, since, grouped, future):
        source.close()


def test_topics_are_created_once(broker: Broker, topics: Topics) -> None:
    """create_topics names what it created, and leaves alone what exists."""
    extra = {topics.spectra: {}, f"{topics.prefix}.extra": {"max.message.bytes": "2000000"}}
    assert broker.missing(list(extra)) == [f"{topics.prefix}.extra"]
    assert broker.create_topics(extra, 1) == [f"{topics.prefix}.extra"]
    assert broker.create_topics(extra, 1) == []
    assert broker.missing(list(extra)) == []


def test_a_topic_tells_its_partitions_and_settings(broker: Broker, topics: Topics) -> None:
    """Facts of a topic are what create_topics made; a topic that does not exist is not in it."""
    found = broker.describe([topics.spectra, topics.alerts, f"{topics.prefix}.nothing"])
    assert found.keys() == {topics.spectra, topics.alerts}
    for name, facts in found.items():
        assert facts.partitions == N_PARTITIONS
        assert topics.settings()[name].items() <= dict(facts.settings).items()
    assert broker.describe([f"{topics.prefix}.nothing"]) == {}


def test_groups_are_remembered_as_long_as_alerts(broker: Broker, topics: Topics) -> None:
    """The broker that we configure, as compose does, keeps the place of a group that is away for a year."""
    kept_ms = int(topics.settings()[topics.alerts]["retention.ms"])
    assert broker.memory_days() * DAY_MS >= kept_ms


def test_a_topic_that_does_not_exist_is_an_error_of_the_start(broker: Broker) -> None:
    """Opening a source on a missing topic names the topic instead of waiting for ever."""
    with pytest.raises(StartupError, match="nowhere"):
        broker.source(["nowhere"])
