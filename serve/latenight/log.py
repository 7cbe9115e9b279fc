"""How log lines look: JSON for machines, short lines for a terminal; always on standard error."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

QUIET_S = 10.0


def configure() -> None:
    """Send the log to standard error, life-cycle messages and worse; kafka-python from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Text() if sys.stderr.isatty() else Json())
    handler.addFilter(Sparse())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(logging.WARNING)  # its INFO and DEBUG show connection settings


class Sparse(logging.Filter):
    """Lets each place in kafka-python speak once in QUIET_S; the next line says how many were left out.

    Where connections are taken and closed again (a load balancer without a broker) it tries anew at once and
    logs each time: 2000 lines a second were seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._spoke: dict[tuple[str, int], float] = {}
        self._n_silenced: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        place = (record.name, record.lineno)
        if not record.name.startswith("kafka."):
            return True
        if record.created - self._spoke.get(place, -math.inf) < QUIET_S:
            self._n_silenced[place] += 1
            return False
        self._spoke[place] = record.created
        if n := self._n_silenced.pop(place, 0):
            record.fields = {**fields_of(record), "silenced": n}
        return True


class Json(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the fields given as extra={"fields": {...}}."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """Clock, level if it is not INFO, event and fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = super().format(record)
        level = "" if record.levelno == logging.INFO else f" [{record.levelname}]"
        return line + level + "".join(f" {name}={value}" for name, value in fields_of(record).items())


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that the caller gave beside the event."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
