"""How far is a long piece of work, how fast, and how long will it take still?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_S = 60.0


@dataclass
class Progress:
    """Tells at most once a period; the pace is that of the period, so that it follows what changes.

    Attributes:
        clock: seconds.
        period_s: between two reports.
    """

    clock: Callable[[], float]
    period_s: float = PERIOD_S
    _since: float = field(init=False)
    _done: int = 0

    def __post_init__(self) -> None:
        """The first period begins now."""
        self._since = self.clock()

    def report(self, done: int, left: int) -> dict[str, float | int | None]:
        """Fields for the log when a period is over, else {}.

        Args:
            done: items since the start.
            left: items still to do.

        Returns:
            done, left, per_second (of this period) and eta_s, the seconds until none is left: None at a standstill.
        """
        seconds = self.clock() - self._since
        if seconds < self.period_s:
            return {}
        pace = (done - self._done) / seconds
        self._since, self._done = self.clock(), done
        eta_s = round(left / pace) if pace > 0 else None
        return {"done": done, "left": left, "per_second": round(pace, 3), "eta_s": eta_s}
