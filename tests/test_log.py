"""Log lines are JSON for machines and short for people."""

from __future__ import annotations

import json
import logging
import sys

from latenight.log import Json, Text


def record(level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("latenight.daemon", level, __file__, 1, "batch", (), None)
    made.fields = fields
    return made


def test_a_line_for_machines_is_one_json_object() -> None:
    """Time in UTC, level, logger, event and every field; what JSON does not know becomes text."""
    line = json.loads(Json().format(record(spectra=500, path=sys)))
    assert line["event"] == "batch"
    assert line["level"] == "INFO"
    assert line["logger"] == "latenight.daemon"
    assert line["spectra"] == 500
    assert line["time"].endswith("+00:00")


def test_an_exception_is_part_of_the_line() -> None:
    """The traceback stays in the one object, its line ends escaped."""
    made = record(logging.ERROR)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        made.exc_info = sys.exc_info()
    line = Json().format(made)
    assert "\n" not in line
    assert "ZeroDivisionError" in json.loads(line)["traceback"]


def test_a_line_for_people_is_short() -> None:
    """Event and fields; the level only where it is not INFO."""
    assert Text().format(record(spectra=500)).endswith(" batch spectra=500")
    assert Text().format(record(logging.WARNING)).endswith(" batch [WARNING]")
