"""Alerts that are announced again: told again only as an update of a changed score."""

from __future__ import annotations

from typing import Any

import pytest

from latenight import repeats
from latenight.repeats import MATERIAL, Repeats


def packet(p_value: float, alert_id: str = "a", kind: str = "spectrum") -> dict[str, Any]:
    content = "group" if kind == "group" else "scores"
    return {"alert_id": alert_id, "kind": kind, "previous_p_value": None, content: {"p_value": p_value}}


def publish(memory: Repeats, *packets: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Offer the packets in a transaction that is committed."""
    memory.begin()
    found = [memory.fresh(one) for one in packets]
    memory.offer([one for one in found if one is not None])
    memory.keep()
    return found


@pytest.mark.parametrize("kind", ["spectrum", "group"])
def test_the_same_alert_is_told_once(kind: str) -> None:
    """An alert whose p_value has not changed by the factor MATERIAL says nothing new."""
    memory = Repeats()
    assert publish(memory, packet(1e-5, kind=kind)) == [packet(1e-5, kind=kind)]
    for p in (1e-5, 1e-5 * 0.99 * MATERIAL, 1e-5 / MATERIAL * 1.01):
        assert publish(memory, packet(p, kind=kind)) == [None]
    assert publish(memory, packet(1e-5, "b")) == [packet(1e-5, "b")]


def test_a_changed_score_is_an_update_that_holds_the_old_one() -> None:
    """A p_value that has changed by MATERIAL, up or down, is told with the one told before; from there on it counts."""
    memory = Repeats()
    publish(memory, packet(1e-5))
    assert publish(memory, packet(1e-7)) == [{**packet(1e-7), "previous_p_value": 1e-5}]
    assert publish(memory, packet(1e-7)) == [None]
    assert publish(memory, packet(1e-5)) == [{**packet(1e-5), "previous_p_value": 1e-7}]


def test_many_small_changes_add_up() -> None:
    """What counts is the change since the last alert that was published."""
    memory = Repeats()
    publish(memory, packet(1e-5))
    assert publish(memory, packet(3e-6)) == [None]
    assert publish(memory, packet(0.9e-6)) == [{**packet(0.9e-6), "previous_p_value": 1e-5}]


def test_what_was_never_published_is_not_remembered() -> None:
    """An alert of a transaction that failed is new when it comes again."""
    memory = Repeats()
    memory.begin()
    memory.offer([packet(1e-5)])
    memory.begin()
    assert memory.fresh(packet(1e-5)) is not None
    memory.keep()
    assert memory.fresh(packet(1e-5)) is not None


def test_a_petal_that_comes_twice_in_one_transaction_is_told_once() -> None:
    """What an earlier message of the same transaction offers counts as told."""
    memory = Repeats()
    memory.begin()
    memory.offer([packet(1e-5)])
    assert memory.fresh(packet(1e-5)) is None


def test_a_p_value_of_zero_is_compared_like_the_smallest_number() -> None:
    """A p_value that has run into zero is told once, too."""
    memory = Repeats()
    assert publish(memory, packet(0.0)) == [packet(0.0)]
    assert publish(memory, packet(0.0)) == [None]


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last MEMORY alerts are remembered, those told last the longest."""
    monkeypatch.setattr(repeats, "MEMORY", 2)
    memory = Repeats()
    publish(memory, packet(1e-5, "a"), packet(1e-5, "b"))
    publish(memory, packet(1e-7, "a"))
    publish(memory, packet(1e-5, "c"))
    assert memory.fresh(packet(1e-7, "a")) is None
    assert memory.fresh(packet(1e-5, "b")) == packet(1e-5, "b")
