"""What subscribers get, on the in-memory broker."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count, islice
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner

from latenight import client
from latenight.broker import Record
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.cli import main
from latenight.client import subscribe
from latenight.errors import StartupError

TOPICS = Topics()
EXAMPLE: dict[str, Any] = json.loads((files("latenight") / "schema/alert-1.0-example.json").read_text())


def packet(number: int, night: int = 20260101) -> dict[str, Any]:
    return {**EXAMPLE, "alert_id": f"{number:032x}", "night": night}


class World:
    """A broker with a topic of alerts, and its clock."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.broker = MemoryBroker(now=lambda: self.time)
        self.broker.create_topics(TOPICS.settings(), 2)

    def publish(self, *alerts: dict[str, Any] | bytes) -> None:
        values = [alert if isinstance(alert, bytes) else json.dumps(alert).encode() for alert in alerts]
        self.broker.sink().publish([Record(TOPICS.alerts, b"39627", value) for value in values])

    def numbers(self, **options: Any) -> list[int]:
        """The numbers of the packets that a subscriber gets from what is there."""
        return [int(alert["alert_id"], 16) for alert in subscribe(self.broker, until_end=True, **options)]


@pytest.fixture
def world() -> World:
    return World()


def test_alerts_come_as_they_were_published(world: World) -> None:
    """Every packet is given whole and in order."""
    world.publish(packet(1), packet(2))
    assert list(subscribe(world.broker, until_end=True)) == [packet(1), packet(2)]


def test_the_same_alert_comes_once(world: World) -> None:
    """A packet whose alert_id has come before is dropped, also after a re-run of the night."""
    world.publish(packet(1), packet(2), packet(1))
    world.publish(packet(2), packet(3))
    assert world.numbers() == [1, 2, 3]


def test_the_memory_of_ids_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last ids are remembered, so that a subscriber may run for years."""
    monkeypatch.setattr(client, "MEMORY", 2)
    world.publish(packet(1), packet(2), packet(3), packet(1), packet(3))
    assert world.numbers() == [1, 2, 3, 1]


def test_what_is_no_packet_is_skipped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Broken or bottomless JSON, other schemas, odd ids and odd p values cost a warning, not the subscription."""
    odd_id = {**packet(1), "alert_id": "../../etc/passwd"}
    odd_p = {**packet(1), "previous_p_value": [1]}
    world.publish(
        b"{", b"[" * 100_000, b"[]", b"{}", {**packet(1), "schema": "other/1.0"}, odd_id, odd_p, packet(7)
    )
    assert world.numbers() == [7]
    assert [record.message for record in caplog.records] == ["skipped"] * 7


def test_night_expression_and_time_select(world: World) -> None:
    """night, where and since each leave out what does not match."""
    world.publish(packet(1, night=20260101))
    world.time += 3600
    world.publish(packet(2, night=20260102))
    assert world.numbers(night=20260102) == [2]
    assert world.numbers(where="night < 20260102") == [1]
    assert world.numbers(since=datetime.fromtimestamp(world.time, UTC)) == [2]


def test_a_night_that_is_past_is_found(world: World) -> None:
    """Alerts of a night come from the oldest that is kept, though a subscriber starts at the end otherwise."""
    world.publish(packet(1, night=20260101), packet(2, night=20260102))
    (alert,) = subscribe(world.broker, night=20260102, limit=1)
    assert alert["alert_id"] == packet(2)["alert_id"]


def test_a_group_goes_on_where_it_stopped(world: World) -> None:
    """Alerts are delivered once to a group across restarts, and a limit loses none."""
    world.publish(*[packet(number) for number in range(5)])
    assert world.numbers(group="team", limit=2) == [0, 1]
    assert world.numbers(group="team", limit=2) == [2, 3]
    world.publish(packet(5))
    assert world.numbers(group="team") == [4, 5]
    assert world.numbers(group="team") == []
    assert world.numbers(group="other") == [0, 1, 2, 3, 4, 5]


def test_a_group_gets_what_came_while_it_was_away(world: World) -> None:
    """A group that asked for new alerts only finds those that were published between two of its runs."""
    world.publish(packet(1))
    assert list(subscribe(world.broker, group="team", limit=0)) == []
    world.publish(packet(2))
    (alert,) = subscribe(world.broker, group="team", limit=1)
    assert alert["alert_id"] == packet(2)["alert_id"]


def test_a_stop_costs_a_group_no_second_delivery(world: World) -> None:
    """What was handed on before the stop is committed, and the next run begins with the alert after it."""
    world.publish(*[packet(number) for number in range(4)])
    asked = count()
    alerts = subscribe(world.broker, group="team", from_beginning=True, stop=lambda: next(asked) == 2)
    assert [int(alert["alert_id"], 16) for alert in alerts] == [0, 1]
    assert world.numbers(group="team") == [2, 3]


def test_the_command_ends_with_the_alert_in_hand(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM during a delivery: it is finished and committed, the exit code is 0, and nothing comes twice."""
    world.publish(*[packet(number) for number in range(3)])
    stop, delivered = Event(), list[str]()
    monkeypatch.setattr("latenight.cli.kafka.stop_on_signals", lambda: stop)
    monkeypatch.setattr("latenight.client.connect", lambda *_: world.broker)

    def deliver(alert: dict[str, Any]) -> None:
        stop.set()
        delivered.append(alert["alert_id"])

    monkeypatch.setattr("latenight.deliver.write_line", deliver)
    assert CliRunner().invoke(main, ["alerts", "--group", "team", "--from-beginning"]).exit_code == 0
    assert delivered == [packet(0)["alert_id"]]
    assert world.numbers(group="team") == [1, 2]


def test_a_batch_that_is_not_finished_comes_again(world: World) -> None:
    """A consumer that fails at an alert gets it again after its restart."""
    world.publish(packet(1), packet(2))
    first = subscribe(world.broker, group="team", from_beginning=True)
    assert next(first)["alert_id"] == packet(1)["alert_id"]
    first.close()  # type: ignore[attr-defined]  # a generator
    assert world.numbers(group="team") == [1, 2]


def test_a_commit_that_fails_costs_a_warning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """If partitions move before the commit, the subscription goes on, and whoever has them now gets the alerts."""
    key = next(key for key in (b"a", b"b", b"c") if zlib.crc32(key) % 2 == 1)  # the second partition
    values = [json.dumps(packet(number)).encode() for number in range(4)]
    sink = world.broker.sink()
    sink.publish([Record(TOPICS.alerts, key, value) for value in values])
    first = subscribe(world.broker, group="team", from_beginning=True, stop=lambda: bool(caplog.records))
    next(first)
    second = world.broker.source([TOPICS.alerts], group="team")
    assert list(first) == []
    assert [record.message for record in caplog.records] == ["not committed"]
    assert len(second.poll(0.0, 10)) == 4


def test_without_a_beginning_only_new_alerts_come(world: World) -> None:
    """A subscriber starts at the end, unless it asks for the beginning."""
    world.publish(packet(1))
    old = subscribe(world.broker, from_beginning=True)
    assert [alert["alert_id"] for alert in islice(old, 1)] == [packet(1)["alert_id"]]
    assert list(subscribe(world.broker, limit=0)) == []


def test_wrong_expressions_and_missing_topics_are_told_at_once(world: World) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match="no field 'oops'"):
        next(subscribe(world.broker, where="oops > 1"))
    with pytest.raises(StartupError, match="nowhere"):
        next(subscribe(world.broker, prefix="nowhere"))
