"""Work that begins before its result is asked for."""

from __future__ import annotations

import subprocess
import sys
from threading import Barrier, Event
from typing import TYPE_CHECKING

import pytest

from latenight.ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60.0


def test_results_come_in_the_order_of_the_items() -> None:
    """Each item comes with its own result, however many are worked on at once."""
    for n in (0, 1, 3, 20):
        assert [(item, future.result()) for item, future in ahead(str, range(10), n)] == [
            (item, str(item)) for item in range(10)
        ]


def test_so_many_are_worked_on_at_once() -> None:
    """With n = 2 three go on at the same time: they wait for each other, and would for ever if one were missing."""
    together = Barrier(3)

    def work(_: int) -> int:
        return together.wait(DEADLINE_S)

    assert sorted(future.result() for _, future in ahead(work, range(3), 2)) == [0, 1, 2]


def test_no_more_is_begun_than_was_asked_for() -> None:
    """Items beyond n are not touched before their turn: memory stays bounded."""
    begun: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            begun.append(item)
            yield item

    given = ahead(str, items(), 2)
    next(given)
    assert begun == [0, 1, 2]
    next(given)
    assert begun == [0, 1, 2, 3]


def test_an_error_waits_for_the_turn_of_its_item() -> None:
    """What fails early is raised where its result is asked for; results before and after it are there."""
    failed = Event()

    def work(item: int) -> int:
        if item == 1:
            failed.set()
            raise ZeroDivisionError
        assert failed.wait(DEADLINE_S)
        return item

    first, second, third = (future for _, future in ahead(work, range(3), 2))
    assert first.result() == 0
    with pytest.raises(ZeroDivisionError):
        second.result()
    assert third.result() == 2


def test_a_worker_that_wants_to_end_the_process_is_not_lost() -> None:
    """Even SystemExit, which would end a thread without a word, is raised at the item's turn."""

    def work(item: int) -> None:
        raise SystemExit(item)

    ((_, future),) = ahead(work, [3], 0)
    with pytest.raises(SystemExit):
        future.result(DEADLINE_S)


def test_a_read_that_hangs_does_not_keep_the_process() -> None:
    """A process ends while a file system still owes it a file."""
    script = (
        "from threading import Event; from latenight.ahead import ahead; next(ahead(Event().wait, [None], 0))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=DEADLINE_S)
