"""Which alerts are published already: what is announced again is told again only if its score has changed.

The identity of an alert is a hash of the spectrum and the bundle, so that the same petal announced twice gives the
same ids. The p_value of a spectrum can still change, since it is judged beside the other fibres of its message.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MATERIAL = 10.0  # factor on the p_value; a different device or batch moves it by some per cent
MEMORY = 100_000  # ids that are remembered: a year of nights, 15 MB
SMALLEST = 1e-300  # p_values end there


class Repeats:
    """Remembers the alerts that this process has published.

    It follows the transactions: what was offered since begin() counts as published from keep() on, and never if the
    transaction fails. A new process begins with no memory; subscribers know its repeats by their ids.
    """

    def __init__(self) -> None:
        self._published: OrderedDict[str, float] = OrderedDict()
        self._offered: dict[str, float] = {}

    def begin(self) -> None:
        """Forget what was offered and never published."""
        self._offered.clear()

    def fresh(self, packet: dict[str, Any]) -> dict[str, Any] | None:
        """The packet if it is new; an update, which holds the p_value told before; None if it says nothing new."""
        previous = self._offered.get(packet["alert_id"], self._published.get(packet["alert_id"]))
        if previous is not None and abs(math.log(_p_value(packet) / previous)) < math.log(MATERIAL):
            return None
        return {**packet, "previous_p_value": previous}

    def offer(self, packets: Iterable[dict[str, Any]]) -> None:
        """These are part of the transaction that comes."""
        self._offered.update({packet["alert_id"]: _p_value(packet) for packet in packets})

    def keep(self) -> None:
        """What was offered is published now."""
        for key, p in self._offered.items():
            self._published[key] = p
            self._published.move_to_end(key)
        self._offered.clear()
        while len(self._published) > MEMORY:
            self._published.popitem(last=False)


def _p_value(packet: dict[str, Any]) -> float:
    content = packet["group"] if packet["kind"] == "group" else packet["scores"]
    return max(float(content["p_value"]), SMALLEST)
