"""Does the loop still turn? If not, the process ends: a client library or a file server may wait for ever.

A process that hangs keeps its partitions from everybody; one that ends loses nothing and its successor goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from latenight.health import Health

log = logging.getLogger(__name__)

# Longer than the longest wait that has an end, a transaction (45 s); shorter than Kafka waits for a member in a
# rebalance (kafka.MAX_POLL_INTERVAL_MS), so that one that hangs does not keep the others from their partitions.
HANG_S = 300.0
# From SIGTERM to the end. A message takes seconds and a commit milliseconds; supervisors kill after 30 s.
STOP_S = 9.5
PERIOD_S = 0.5
LOG_S = 2.0  # for the last words, should even standard error hang
EXIT_HUNG = 1


@contextmanager
def watched(
    health: Health,
    stop: threading.Event,
    *,
    hang_s: float = HANG_S,
    stop_s: float = STOP_S,
    leave: Callable[[int], object] = os._exit,
) -> Iterator[None]:
    """While the context is open, end the process with EXIT_HUNG when it hangs.

    Args:
        health: says when the loop last turned.
        stop: set when the daemon shall leave.
        hang_s: the loop may take so long for a turn.
        stop_s: leaving, its last message and closing included, may take so long.
        leave: ends the process without waiting for other threads.
    """
    done, main = threading.Event(), threading.get_ident()
    health.turn()

    def watch() -> None:
        stopped_at = None
        while not done.wait(PERIOD_S):
            now = health.clock()
            stopped_at = stopped_at or (now if stop.is_set() else None)
            if stopped_at is not None and now - stopped_at > stop_s:
                reason = f"told to stop {now - stopped_at:.1f} s ago and still here"
            elif now - health.last_turn > hang_s:
                reason = health.alive()[1]
            else:
                continue
            _say(reason, main)
            leave(EXIT_HUNG)
            return

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say(reason: str, thread_id: int) -> None:
    """One line with the reason and where the loop hangs; what the line is written to may hang, too."""
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001  (the documented way to a thread's stack)
    where = [f"{each.filename}:{each.lineno} {each.name}" for each in traceback.extract_stack(frame)[-8:]]
    fields = {"reason": reason, "where": where, "action": "exit: nothing of the batch is committed"}
    line = threading.Thread(
        target=log.critical, args=("hung",), kwargs={"extra": {"fields": fields}}, daemon=True
    )
    line.start()
    line.join(LOG_S)
