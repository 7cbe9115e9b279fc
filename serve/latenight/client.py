"""Alerts for subscribers: what a pipeline imports.

    from latenight.client import connect, subscribe

    broker = connect("kafka.example.org:9092")
    for alert in subscribe(broker, group="my-pipeline", where="scores.p_value < 1e-5"):
        follow_up(alert["target"]["targetid"])

A condition on a field of spectra leaves out the group packets (kind "group": a fault of a petal).
With a group the broker remembers how far it has come: after a stop or a crash the alerts since then are
delivered, the last perhaps again. A consumer that must act only once remembers their alert_id.
"""

from __future__ import annotations

import json
import logging
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from latenight.alert import SCHEMA
from latenight.broker import Broker, Message, Start, has_reached
from latenight.broker.kafka import KafkaBroker
from latenight.broker.security import read_security
from latenight.broker.topics import Topics
from latenight.errors import Unavailable
from latenight.where import parse_where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from latenight.broker import Source

log = logging.getLogger(__name__)

POLL_S = 1.0
BATCH = 100
# Ids that are remembered to drop duplicates: a year of nights, 10 MB.
MEMORY = 100_000
ALERT_ID = re.compile(r"[0-9a-f]{32}")


def connect(bootstrap_servers: str, client_config: Path | None = None) -> Broker:
    """A Kafka cluster.

    Args:
        bootstrap_servers: HOST:PORT[,HOST:PORT...].
        client_config: a file of security settings, see latenight.broker.security.
    """
    return KafkaBroker(bootstrap_servers, read_security(client_config) if client_config else None)


def subscribe(
    broker: Broker,
    *,
    prefix: str = Topics.prefix,
    group: str | None = None,
    from_beginning: bool = False,
    since: datetime | None = None,
    night: int | None = None,
    where: str = "True",
    until_end: bool = False,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Alerts as they come, each alert_id once, and again when its score has changed.

    A packet is what schema/alert-1.0.json describes.

    Args:
        broker: from connect().
        prefix: what the names of the topics start with.
        group: remembers how far it has come and shares alerts among its members; without one every
            subscriber sees every alert.
        from_beginning: begin with the oldest alert that is kept, unless the group has begun already.
            Otherwise only new alerts come.
        since: nothing that was published before.
        night: alerts of this night (YYYYMMDD) only; begins with the oldest.
        where: an expression on the fields of the packet, see latenight.where.
        until_end: end after what was there at the start, instead of waiting for more; begins with the oldest.
        limit: end after this many alerts.
        stop: asked before every poll, which gives a group one alert and others up to BATCH; true ends the subscription,
            with what was delivered committed.

    Raises:
        ValueError: the expression makes no sense.
        StartupError: the broker cannot be reached, or has no such topic.
    """
    test = parse_where(where)
    start: Start = "beginning" if from_beginning or until_end or night is not None else "end"
    if since is not None:
        start = int(since.timestamp() * 1000)
    wanted = _Wanted(test, night)
    source = broker.source([Topics(prefix).alerts], group=group, start=start)
    n_left = limit
    try:
        ends = source.ends() if until_end else None
        # What is polled counts as delivered: never more than are still wanted, and one at a time for a group, so that a
        # stop or a slow consumer costs no alert a second delivery. A commit takes 3 ms.
        batch = BATCH if group is None else 1
        while n_left != 0 and not (ends is not None and has_reached(source.positions(), ends)):
            if stop():
                return
            for message in source.poll(POLL_S, batch if n_left is None else min(n_left, batch)):
                alert = decode_alert(message)
                if alert is not None and wanted(alert):
                    yield alert
                    n_left = None if n_left is None else n_left - 1
            if group is not None:
                _commit(source)
    finally:
        source.close()


def decode_alert(message: Message) -> dict[str, Any] | None:
    """The packet of a message; None, and a warning, if it is not one that this version understands."""
    try:
        alert = json.loads(message.value)
        is_known = alert["schema"] == SCHEMA and isinstance(alert["previous_p_value"], float | int | None)
        if is_known and ALERT_ID.fullmatch(alert["alert_id"]):
            return dict(alert)
        reason = f"not a packet of schema {SCHEMA}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = repr(error)
    log.warning("skipped", extra={"fields": {"message": str(message), "reason": reason}})
    return None


class _Wanted:
    """Whether a packet is asked for and has not come before."""

    def __init__(self, test: Callable[[dict[str, Any]], bool], night: int | None) -> None:
        self._test = test
        self._night = night
        self._seen: OrderedDict[tuple[str, float | None], None] = OrderedDict()

    def __call__(self, alert: dict[str, Any]) -> bool:
        key = alert["alert_id"], alert["previous_p_value"]
        if key in self._seen or self._night not in (None, alert.get("night")):
            return False
        self._seen[key] = None
        if len(self._seen) > MEMORY:
            self._seen.popitem(last=False)
        return self._test(alert)


def _commit(source: Source) -> None:
    try:
        source.commit()
    except Unavailable as error:  # the next commit covers this one; until then these alerts may come again
        log.warning("not committed", extra={"fields": {"reason": str(error)}})
