"""Log lines are JSON for machines and short for people."""

from __future__ import annotations

import json
import logging
import sys

from latenight.log import Json, Sparse, Text, fields_of


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


def test_a_library_that_repeats_itself_is_cut_short() -> None:
    """Of a place in kafka-python one line in ten seconds is written, and the next says how many were not."""
    sparse, written = Sparse(), []
    for tenth in range(250):
        for name in ("kafka.net", "latenight.daemon"):
            record = logging.LogRecord(name, logging.ERROR, "x.py", 7, "lost", (), None)
            record.created = tenth / 10
            if sparse.filter(record):
                written.append((name, tenth / 10, fields_of(record)))
    assert [line for line in written if line[0] == "kafka.net"] == [
        ("kafka.net", 0.0, {}),
        ("kafka.net", 10.0, {"silenced": 99}),
        ("kafka.net", 20.0, {"silenced": 99}),
    ]
    assert len(written) == 250 + 3
