"""Where `latenight alerts` puts the alerts: lines on standard output, or files in a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def parse_destination(text: str) -> Callable[[dict[str, Any]], None]:
    """What to do with each alert: "jsonl" or "dir:DIR".

    Raises:
        ValueError: no such destination.
    """
    kind, _, argument = text.partition(":")
    if kind == "jsonl" and not argument:
        return write_line
    if kind == "dir" and argument:
        folder = Path(argument)
        return lambda alert: write_file(folder, alert)
    raise ValueError(f"no such destination: {text!r}; there are jsonl and dir:DIR")


def write_line(alert: dict[str, Any]) -> None:
    """One line of JSON on standard output, at once: whoever reads a pipe waits for it."""
    sys.stdout.write(_line(alert))
    sys.stdout.flush()


def write_file(folder: Path, alert: dict[str, Any]) -> None:
    """ALERT_ID.json in the folder: complete or not there; the same alert again is the same file again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{alert['alert_id']}.json"
    part = path.with_suffix(f".part{os.getpid()}")
    part.write_text(_line(alert), encoding="utf-8")
    part.replace(path)


def _line(alert: dict[str, Any]) -> str:
    return json.dumps(alert, ensure_ascii=False, separators=(",", ":")) + "\n"
