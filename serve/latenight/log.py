"""How log lines look: JSON for machines, short lines for a terminal; always on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def configure() -> None:
    """Send the log to standard error, life-cycle messages and worse; kafka-python from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Text() if sys.stderr.isatty() else Json())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(logging.WARNING)  # its INFO and DEBUG show connection settings


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
