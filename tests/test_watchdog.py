"""A process that hangs is ended, one that works is left alone."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from latenight.health import Health
from latenight.watchdog import EXIT_HUNG, watched

if TYPE_CHECKING:
    import pytest

DEADLINE_S = 30.0


class Ticking:
    """A clock that goes on by a minute whenever somebody looks at it; it knows how often each thread did."""

    def __init__(self) -> None:
        self.looks: dict[str, int] = {}
        self.looked = threading.Condition()

    def __call__(self) -> float:
        with self.looked:
            name = threading.current_thread().name
            self.looks[name] = self.looks.get(name, 0) + 1
            self.looked.notify_all()
            return 60.0 * sum(self.looks.values())


def how_it_ends(health: Health, stop: threading.Event, hang_s: float, stop_s: float) -> int:
    """The exit code with which the watchdog ends a loop that does nothing any more."""
    left, codes = threading.Event(), list[int]()

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    with watched(health, stop, hang_s=hang_s, stop_s=stop_s, leave=leave):
        assert left.wait(DEADLINE_S)
    return codes[0]


def test_a_loop_that_does_not_turn_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """The exit code is not 0, and one line of the log says how long it hung and in which line of code."""
    assert how_it_ends(Health(clock=Ticking()), threading.Event(), 60.0, math.inf) == EXIT_HUNG == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    fields = record.__dict__["fields"]
    assert record.message == "hung"
    assert fields["reason"].startswith("last loop turn")
    assert any(" how_it_ends" in place for place in fields["where"])


def test_a_process_that_does_not_leave_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Told to stop, the process has stop_s to leave."""
    stop = threading.Event()
    stop.set()
    assert how_it_ends(Health(clock=Ticking()), stop, math.inf, 100.0) == EXIT_HUNG
    assert "told to stop 120.0 s ago and still here" in caplog.records[-1].__dict__["fields"]["reason"]


def test_a_loop_that_turns_is_left_alone() -> None:
    """While turns come in time the watchdog looks and does nothing."""
    clock, codes = Ticking(), list[int]()
    health = Health(clock=clock)
    with watched(health, threading.Event(), hang_s=1e9, stop_s=0.0, leave=codes.append), clock.looked:
        assert clock.looked.wait_for(lambda: clock.looks.get("watchdog", 0) >= 2, DEADLINE_S)
    assert codes == []


def test_a_hung_process_ends_with_an_error() -> None:
    """A real process that waits for ever exits with 1, although its log goes to a device that is full."""
    code = (
        "import threading\n"
        "from latenight import log\n"
        "from latenight.health import Health\n"
        "from latenight.watchdog import watched\n"
        "log.configure()\n"
        "with watched(Health(), threading.Event(), hang_s=0.1):\n"
        "    threading.Lock().acquire() and threading.Event().wait()\n"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False)
    assert told.returncode == 1
    assert json.loads(told.stderr)["event"] == "hung"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        mute = subprocess.run(command, stderr=full, timeout=DEADLINE_S, check=False)
    assert mute.returncode == 1
