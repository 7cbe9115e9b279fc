"""How far a long piece of work is."""

from __future__ import annotations

from latenight.progress import PERIOD_S, Progress


def test_it_tells_once_a_period() -> None:
    """Between two periods there is nothing to say; the first begins with the work."""
    now = [100.0]
    progress = Progress(lambda: now[0])
    assert progress.report(5, 95) == {}
    now[0] += PERIOD_S - 1.0
    assert progress.report(10, 90) == {}
    now[0] += 1.0
    assert progress.report(30, 70)["done"] == 30
    assert progress.report(40, 60) == {}


def test_the_pace_is_that_of_the_last_period() -> None:
    """What was slow an hour ago does not darken the forecast."""
    now = [0.0]
    progress = Progress(lambda: now[0])
    now[0] = 10 * PERIOD_S
    assert progress.report(60, 1140)["eta_s"] == round(19 * 10 * PERIOD_S)
    now[0] += PERIOD_S
    assert progress.report(180, 1020) == {"done": 180, "left": 1020, "per_second": 2.0, "eta_s": 510}


def test_a_standstill_has_no_end() -> None:
    """Where nothing was done in a period, nobody knows when it will be over."""
    now = [0.0]
    progress = Progress(lambda: now[0])
    now[0] = PERIOD_S
    assert progress.report(0, 7) == {"done": 0, "left": 7, "per_second": 0.0, "eta_s": None}
