"""The daemon on the in-memory broker: what it publishes and commits, and what it does when things fail."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.broker import Message, Record
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.daemon import BATCH_S, HEARTBEAT_S, RETRIES, Daemon
from latenight.errors import BadInput, Gone, TooManyDeadLetters, Unavailable
from latenight.health import Health
from latenight.metrics import Metrics
from latenight.outcome import GONE_AFTER_S, Desk
from latenight.progress import PERIOD_S
from latenight.wire import CONTENT_ARROW, decode_scores, decode_spectra, encode_spectra
from tests.fakes import FakeScorer, add_spikes, make_spectra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latenight.broker import Consumed, Partition, Sink, Source
    from latenight.outcome import Outcome
    from latenight.scores import Scores
    from latenight.spectra import Spectra

TOPICS = Topics("t")
N = 20  # spectra of a message: 2 sky fibres, 1 without data, 17 eligible
BUDGET = 0.1  # only spikes alert
DEADLINE_S = 60.0


class NoWait(Event):
    """A stop event whose waits take no time and are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def read(message: Message) -> Spectra:
    if message.value == b"broken":
        raise BadInput("no spectra in it")
    return decode_spectra(message.value)


@dataclass
class World:
    """A broker with one topic of spectra, and a daemon on it."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    stop: NoWait = field(default_factory=NoWait)
    metrics: Metrics = field(default_factory=Metrics)
    clock: list[float] = field(default_factory=lambda: [1_800_000_000.0])

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(now=lambda: self.clock[0])
        self.broker.create_topics(TOPICS.settings(), 1)

    def announce(self, *values: bytes) -> None:
        headers = (("content-type", CONTENT_ARROW.encode()),)
        sink = self.broker.sink()
        sink.publish([Record(TOPICS.spectra, b"1000-0", value, headers) for value in values])

    def daemon(
        self,
        reader: Callable[[Message], Spectra] = read,
        scorer: FakeScorer | None = None,
        sink: Sink | None = None,
    ) -> Daemon:
        desk = Desk(TOPICS, reader, scorer or FakeScorer(), BUDGET, self.metrics, lambda: self.clock[0])
        source = self.broker.source([TOPICS.spectra], group="g", instance="i")
        sink = sink or self.broker.sink(instance="i")
        return Daemon(source, sink, desk, health=Health(), stop=self.stop, max_dead_ratio=0.5)

    def read(self, topic: str) -> list[Message]:
        return self.broker.source([topic]).poll(0.0, 1_000_000)

    def n_committed(self) -> int:
        return self.broker.source([TOPICS.spectra], group="g").positions()[TOPICS.spectra, 0]

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"latenight_{name}", labels)


@pytest.fixture
def world() -> World:
    return World()


def petal(seed: int, spikes: Sequence[int] = ()) -> bytes:
    return encode_spectra(add_spikes(make_spectra(N, seed), spikes))


def test_each_message_becomes_one_table_of_scores(world: World) -> None:
    """Scores come in the order of the messages, under their keys, one row per spectrum, with their input."""
    world.announce(petal(1), petal(2))
    world.daemon().run(drain=True)
    first, second = world.read(TOPICS.scores)
    assert first.key == second.key == b"1000-0"
    assert first.header("content-type") == CONTENT_ARROW
    assert [message.header("input") for message in (first, second)] == ["t.spectra/0/0", "t.spectra/0/1"]
    for seed, message in ((1, first), (2, second)):
        expected = FakeScorer().score(make_spectra(N, seed)).table
        columns = decode_scores(message.value)
        np.testing.assert_array_equal(columns["targetid"], make_spectra(N, seed).table["targetid"])
        np.testing.assert_array_equal(columns["p_value"], expected["p_value"])
    assert world.n_committed() == 2


def test_spectra_below_the_threshold_become_alerts(world: World) -> None:
    """One JSON packet per alert, its key the targetid and its id in a header; none for ordinary spectra."""
    world.announce(petal(1, spikes=[4, 9]), petal(2))
    world.daemon().run(drain=True)
    alerts = world.read(TOPICS.alerts)
    targets = make_spectra(N, 1).table["targetid"][[4, 9]]
    assert sorted(message.key or b"" for message in alerts) == sorted(
        str(target).encode() for target in targets
    )
    for message in alerts:
        packet = json.loads(message.value)
        assert message.header("content-type") == "application/json"
        assert message.header("alert-id") == packet["alert_id"]
        assert message.key == packet["target"]["targetid"].encode()
        assert packet["created"] == "2027-01-15T08:00:00.000Z"
        assert packet["thumbnail"]["recon"] is not None


def test_bad_input_becomes_a_dead_letter_and_its_neighbours_are_scored(world: World) -> None:
    """The dead letter holds the original bytes, key and headers, and says why and where it came from."""
    world.announce(petal(1), b"broken", petal(2))
    world.daemon().run(drain=True)
    (letter,) = world.read(TOPICS.deadletters)
    assert (letter.key, letter.value) == (b"1000-0", b"broken")
    assert letter.header("content-type") == CONTENT_ARROW
    assert letter.header("deadletter-stage") == "read"
    assert letter.header("deadletter-reason") == "no spectra in it"
    assert letter.header("deadletter-topic") == TOPICS.spectra
    assert (letter.header("deadletter-partition"), letter.header("deadletter-offset")) == ("0", "1")
    assert letter.header("deadletter-timestamp-ms") == "1800000000000"
    assert len(world.read(TOPICS.scores)) == 2
    assert world.n_committed() == 3


def test_input_that_the_scorer_refuses_is_a_dead_letter_too(world: World) -> None:
    """BadInput of the scorer names the stage "score"."""

    class Refusing(FakeScorer):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> object:  # type: ignore[override]
            raise BadInput("no such grid")

    world.announce(petal(1))
    world.daemon(scorer=Refusing()).run(drain=True)
    (letter,) = world.read(TOPICS.deadletters)
    assert letter.header("deadletter-stage") == "score"
    assert letter.value == petal(1)


def test_a_file_that_is_away_for_a_while_is_read_again(world: World) -> None:
    """Unavailable commits nothing and waits longer each time; then every message is scored once."""
    failures = iter([True, True, True])

    def away(message: Message) -> Spectra:
        if message.offset == 1 and next(failures, False):
            raise Unavailable("stale file handle")
        return read(message)

    world.announce(petal(1), petal(2))
    world.daemon(away).run(drain=True)
    assert [message.header("input") for message in world.read(TOPICS.scores)] == [
        "t.spectra/0/0",
        "t.spectra/0/1",
    ]
    assert world.stop.waits == [0.5, 1.0, 2.0]
    assert world.count("spectra_consumed_total") == 2 * N


def test_a_file_that_is_gone_is_waited_for_and_then_a_dead_letter(world: World) -> None:
    """Until GONE_AFTER_S after its announcement it is looked for again, then its neighbours go on without it."""

    def gone(message: Message) -> Spectra:
        if message.offset == 0:
            world.clock[0] += GONE_AFTER_S / 4
            raise Gone("no such file")
        return read(message)

    world.announce(petal(1), petal(2))
    world.daemon(gone).run(drain=True)
    assert len(world.stop.waits) == 3
    (letter,) = world.read(TOPICS.deadletters)
    assert letter.value == petal(1)
    assert letter.header("deadletter-reason") == "no such file"
    assert [message.header("input") for message in world.read(TOPICS.scores)] == ["t.spectra/0/1"]
    assert world.n_committed() == 2


def test_waiting_for_a_file_that_is_gone_ends_within_the_retries(world: World) -> None:
    """The waits of the daemon outlast the limit: a deleted file never ends it, nor blocks its partition."""

    def gone(message: Message) -> Spectra:
        if world.stop.waits:
            world.clock[0] += world.stop.waits[-1] or 0.0
        raise Gone("no such file")

    world.announce(petal(1))
    world.daemon(gone).run(drain=True)
    assert len(world.read(TOPICS.deadletters)) == 1
    assert GONE_AFTER_S <= sum(wait or 0.0 for wait in world.stop.waits) < 2 * GONE_AFTER_S


def test_a_time_stamp_of_the_future_buys_no_patience(world: World) -> None:
    """A message that claims to come from tomorrow and points to a deleted file is a dead letter at once."""

    def gone(message: Message) -> Spectra:
        raise Gone("no such file")

    world.announce(petal(1))
    world.clock[0] -= 86_400.0
    world.daemon(gone).run(drain=True)
    assert len(world.read(TOPICS.deadletters)) == 1
    assert world.stop.waits == []


def test_a_clock_that_is_a_little_ahead_costs_no_patience(world: World) -> None:
    """A file announced by a host whose clock is ahead is waited for until it is visible here."""
    tries = iter([True, True])

    def late(message: Message) -> Spectra:
        if next(tries, False):
            raise Gone("no such file")
        return read(message)

    world.announce(petal(1))
    world.clock[0] -= 0.05
    world.daemon(late).run(drain=True)
    assert world.read(TOPICS.deadletters) == []
    assert len(world.read(TOPICS.scores)) == 1
    assert len(world.stop.waits) == 2


def test_a_file_that_stays_away_ends_the_daemon(world: World) -> None:
    """After all retries the error is raised; nothing is published and nothing committed."""

    def away(message: Message) -> Spectra:
        raise Unavailable("stale file handle")

    world.announce(petal(1))
    with pytest.raises(Unavailable, match="stale file handle"):
        world.daemon(away).run(drain=True)
    assert len(world.stop.waits) == RETRIES
    assert max(wait or 0.0 for wait in world.stop.waits) == 30.0
    assert world.read(TOPICS.scores) == []
    assert world.n_committed() == 0


def test_a_failed_transaction_is_done_again(world: World) -> None:
    """If publishing fails, the same messages are polled, scored and published again."""

    class Flaky:
        def __init__(self, sink: Sink) -> None:
            self.sink, self.failures = sink, iter([True, True])

        def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
            if consumed is not None and next(self.failures, False):
                raise Unavailable("the group moved the partitions")
            self.sink.publish(records, consumed)

        def close(self) -> None:
            self.sink.close()

    world.announce(petal(1), petal(2, spikes=[3]))
    world.daemon(sink=Flaky(world.broker.sink(instance="i"))).run(drain=True)
    assert len(world.read(TOPICS.scores)) == 2
    assert len(world.read(TOPICS.alerts)) == 1
    assert world.count("transactions_total", result="aborted") == 2
    assert world.count("transactions_total", result="committed") == 1


def test_a_broker_that_is_away_between_two_polls_is_waited_for(world: World) -> None:
    """A source that cannot tell its lag for a while neither ends the daemon nor makes it look hung."""

    class Away:
        def __init__(self, source: Source) -> None:
            self.source, self.failures = source, iter([True])

        def lag(self) -> dict[Partition, int]:
            if next(self.failures, False):
                raise Unavailable("the broker does not answer")
            return self.source.lag()

        def __getattr__(self, name: str) -> object:
            return getattr(self.source, name)

    world.announce(petal(1), petal(2))
    daemon = world.daemon()
    daemon._source = Away(daemon._source)  # type: ignore[assignment]
    daemon.run(drain=True)
    assert len(world.read(TOPICS.scores)) == 2
    assert len(world.stop.waits) == 1
    assert daemon._health.alive()


def test_a_bug_ends_the_daemon_with_nothing_committed(world: World) -> None:
    """Any other exception passes through; the next process begins with the same message."""

    def broken(message: Message) -> Spectra:
        if message.offset == 1:
            raise ZeroDivisionError
        return read(message)

    world.announce(petal(1), petal(2))
    with pytest.raises(ZeroDivisionError):
        world.daemon(broken).run(drain=True)
    assert world.read(TOPICS.scores) == []
    assert world.n_committed() == 0


def test_too_many_dead_letters_end_the_daemon(world: World) -> None:
    """More than half of at least 20 messages rejected: it stops before it empties the topic."""
    world.announce(*[b"broken"] * 40)
    with pytest.raises(TooManyDeadLetters, match="20 of the last 20"):
        world.daemon().run(drain=True)
    assert world.n_committed() == len(world.read(TOPICS.deadletters)) == 16


def test_some_dead_letters_do_not_end_the_daemon(world: World) -> None:
    """Half of many messages rejected is still the fault of the messages."""
    small = encode_spectra(make_spectra(1, 3))
    world.announce(*[b"broken", small] * 30)
    world.daemon().run(drain=True)
    assert len(world.read(TOPICS.deadletters)) == 30


def test_draining_an_empty_topic_ends_at_once(world: World) -> None:
    """Nothing to do is done."""
    world.daemon().run(drain=True)
    assert world.read(TOPICS.scores) == []


def test_a_drain_ends_with_what_the_topic_held_at_the_start(world: World) -> None:
    """Messages that come while it drains do not keep it running."""

    def and_more(message: Message) -> Spectra:
        world.announce(petal(2))
        return read(message)

    world.announce(petal(1))
    world.daemon(and_more).run(drain=True)
    assert world.n_committed() < len(world.read(TOPICS.spectra))


def test_a_stop_finishes_the_message_and_commits_it(world: World) -> None:
    """Told to stop while it scores, the daemon publishes what it has begun, and leaves the rest of the batch."""

    class Stopping(FakeScorer):
        n = 0

        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            self.n += 1
            if self.n == 6:
                world.stop.set()
            return super().score(spectra, explain_below)

    world.announce(*[petal(seed) for seed in range(8)])
    world.daemon(scorer=Stopping()).run()
    assert world.n_committed() == len(world.read(TOPICS.scores)) == 6


def test_a_swap_waits_for_the_batch_and_its_commit(world: World) -> None:
    """Asked to leave at any time, the daemon does so only with everything in hand published and committed."""
    world.announce(*[petal(seed) for seed in range(8)])
    world.daemon().run(until=lambda: True)
    assert world.n_committed() == len(world.read(TOPICS.scores)) == 4


def test_a_swap_waits_for_what_is_away(world: World) -> None:
    """While a file or the broker is away the daemon stays: a new process would not start."""
    failures = iter([True, True])

    def away(message: Message) -> Spectra:
        if next(failures, False):
            raise Unavailable("stale file handle")
        return read(message)

    world.announce(petal(1))
    world.daemon(away).run(until=lambda: True)
    assert len(world.stop.waits) == 2
    assert world.n_committed() == 1


class Slow(FakeScorer):
    """Takes two batches' time for each message, on the clock of the world."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        self.clock[0] += 2 * BATCH_S
        return super().score(spectra, explain_below)


def test_the_alerts_of_a_burst_do_not_wait_for_its_last_petal(world: World) -> None:
    """Slow petals of one poll are a transaction each, in order; quick ones are one together."""
    world.announce(*[petal(seed, spikes=[3]) for seed in range(4)])
    slow = world.daemon(scorer=Slow(world.clock))
    slow._health = Health(clock=lambda: world.clock[0])
    slow.run(drain=True)
    assert [m.header("input") for m in world.read(TOPICS.scores)] == [f"t.spectra/0/{n}" for n in range(4)]
    assert world.count("transactions_total", result="committed") == 4
    assert [int(m.timestamp_ms / 1000 - 1_800_000_000) for m in world.read(TOPICS.alerts)] == [2, 4, 6, 8]
    world.announce(*[petal(seed) for seed in range(4, 8)])
    world.daemon().run(drain=True)
    assert world.count("transactions_total", result="committed") == 5


def test_a_busy_daemon_is_alive(world: World) -> None:
    """Each message of a poll is a sign of life, and so is what a shadow makes of it."""
    health = Health(clock=lambda: world.clock[0], max_turn_s=3 * BATCH_S)
    seen: list[bool] = []

    class Watched(Slow):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            scores = super().score(spectra, explain_below)
            seen.append(health.alive()[0])
            return scores

    def follow(outcomes: list[Outcome]) -> None:
        world.clock[0] += 2 * BATCH_S
        seen.append(health.alive()[0])

    world.announce(*[petal(seed) for seed in range(4)])
    daemon = world.daemon(scorer=Watched(world.clock))
    daemon._health = health
    daemon.run(drain=True, follow=follow)
    assert seen == [True] * 8


def test_what_a_burst_has_committed_is_not_done_again(world: World) -> None:
    """If the third petal of a poll is away, the first two stay committed, and only it and what follows come again."""
    failures = iter([True])

    def away(message: Message) -> Spectra:
        if message.offset == 2 and next(failures, False):
            raise Unavailable("stale file handle")
        return read(message)

    world.announce(*[petal(seed) for seed in range(4)])
    daemon = world.daemon(away, scorer=Slow(world.clock))
    daemon._health = Health(clock=lambda: world.clock[0])
    daemon.run(drain=True)
    assert [m.header("input") for m in world.read(TOPICS.scores)] == [f"t.spectra/0/{n}" for n in range(4)]
    assert len(world.stop.waits) == 1


def test_a_petal_is_read_while_the_one_before_is_scored(world: World) -> None:
    """The reader of the second message is done before the scores of the first are."""
    second_read = Event()

    def reading(message: Message) -> Spectra:
        spectra = read(message)
        if message.offset == 1:
            second_read.set()
        return spectra

    class Waiting(FakeScorer):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            assert second_read.wait(DEADLINE_S)
            return super().score(spectra, explain_below)

    world.announce(petal(1), petal(2))
    world.daemon(reading, Waiting()).run(drain=True)
    assert [m.header("input") for m in world.read(TOPICS.scores)] == ["t.spectra/0/0", "t.spectra/0/1"]


def test_what_is_counted_adds_up(world: World) -> None:
    """Spectra, reasons, alerts, dead letters, lag and ages are as published."""
    world.announce(petal(1, spikes=[4]), b"broken")
    world.clock[0] += 7.0
    world.daemon().run(drain=True)
    assert world.count("spectra_consumed_total") == N
    assert world.count("spectra_scored_total") == 17
    assert world.count("spectra_ineligible_total", reason="sky") == 2
    assert world.count("spectra_ineligible_total", reason="no_data") == 1
    assert world.count("alerts_published_total", kind="spectrum") == 1
    assert world.count("dead_letters_total", stage="read") == 1
    assert world.count("consumer_lag_records", partition="0") == 0
    assert world.count("oldest_unscored_age_seconds") == 0
    assert world.count("end_to_end_seconds_sum") == 14.0
    assert world.count("stage_duration_seconds_count", stage="read") == 2
    assert world.count("stage_duration_seconds_count", stage="publish") == 1
    assert world.count("alert_budget_ratio") == pytest.approx(BUDGET / 1e5)
    assert world.count("model_info", bundle=FakeScorer().bundle_id, provider=FakeScorer().provider) == 1


def test_the_age_of_the_oldest_message_is_shown_while_it_waits(world: World) -> None:
    """A message that cannot be read yet is seen in the metrics with its age."""

    def away(message: Message) -> Spectra:
        world.clock[0] += 10.0
        raise Unavailable("stale file handle")

    world.announce(petal(1))
    with pytest.raises(Unavailable):
        world.daemon(away).run()
    assert world.count("oldest_unscored_age_seconds") == 10.0 * RETRIES


def test_a_heartbeat_is_published_once_a_minute(world: World) -> None:
    """The first at the start, then one every HEARTBEAT_S; it says which bundle runs and what it scored."""

    def slow(message: Message) -> Spectra:
        world.clock[0] += HEARTBEAT_S / 4
        return read(message)

    small = encode_spectra(make_spectra(1, 3))
    world.announce(*[small] * 12)  # three batches of four: one beat each
    world.daemon(slow).run(drain=True)
    beats = [json.loads(message.value) for message in world.read(TOPICS.status)]
    assert [(beat["scored"], beat["lag"]) for beat in beats] == [(4, 8), (8, 4), (12, 0)]
    assert beats[0]["bundle"] == FakeScorer().bundle_id


def test_a_backlog_tells_when_it_will_be_over(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Once a minute, while messages wait: how many are done and left, how fast, and the seconds still to go."""
    caplog.set_level(logging.INFO)

    class HalfAMinute(FakeScorer):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            world.clock[0] += PERIOD_S / 8
            return super().score(spectra, explain_below)

    world.announce(*[encode_spectra(make_spectra(1, 3))] * 16)  # a poll of four takes half a minute
    world.daemon(scorer=HalfAMinute()).run(drain=True)
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.message == "backlog"]
    assert fields == {"done": 8, "left": 8, "per_second": 0.133, "eta_s": 60}


def test_each_batch_is_one_line_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The line says which messages, which night, how many spectra, alerts and rejections, and how long."""
    caplog.set_level(logging.INFO)
    world.announce(petal(1, spikes=[4]), b"broken")
    world.daemon().run(drain=True)
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.message == "batch"]
    assert fields.pop("seconds") >= 0
    assert fields == {
        "messages": ["t.spectra/0/0", "t.spectra/0/1"],
        "nights": [20260101],
        "spectra": N,
        "scored": 17,
        "alerts": 1,
        "groups": 0,
        "rejected": 1,
    }


def test_partitions_that_move_away_leave_the_metrics(world: World) -> None:
    """The lag of a partition is shown only while this daemon owns it."""
    world.broker.create_topics({"other.spectra": {}}, 2)
    source = world.broker.source(["other.spectra"], group="g2")
    desk = Desk(TOPICS, read, FakeScorer(), BUDGET, world.metrics)
    daemon = Daemon(source, world.broker.sink(), desk, health=Health(), stop=world.stop, max_dead_ratio=0.5)
    world.stop.set()
    daemon._show_lag()
    assert world.count("consumer_lag_records", partition="1") == 0
    world.broker.source(["other.spectra"], group="g2")
    daemon._show_lag()
    assert world.count("consumer_lag_records", partition="0") == 0
    assert world.count("consumer_lag_records", partition="1") is None
