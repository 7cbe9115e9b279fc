"""Where `latenight alerts` puts the alerts: standard output, files, a command, a web address."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from latenight.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    Deliver = Callable[[dict[str, Any]], None]

log = logging.getLogger(__name__)

DESTINATIONS = "jsonl, dir:DIR, exec:CMD and webhook:URL"
# One alert may take so long: a page that is made, a mail that is sent. With all attempts it is half of the time after
# which Kafka gives the alerts to another member (kafka.MAX_POLL_INTERVAL_MS).
EXEC_LIMIT_S = 60.0
WEBHOOK_LIMIT_S = 10.0
WAITS_S = (1.0, 2.0, 4.0, 8.0)  # before another attempt: a service that restarts is back after seconds
MAX_ANSWER = 200  # bytes of an answer in an error


def parse_destination(text: str) -> Deliver:
    """What to do with each alert: "jsonl", "dir:DIR", "exec:CMD" or "webhook:URL".

    Raises:
        ValueError: no such destination.
    """
    kind, _, argument = text.partition(":")
    if kind == "jsonl" and not argument:
        return write_line
    if kind == "dir" and argument:
        folder = Path(argument)
        return lambda alert: write_file(folder, alert)
    if kind == "exec" and argument:
        command = _parse_command(argument)
        return persistent(lambda alert: run_command(command, alert))
    if kind == "webhook":
        url = _parse_url(argument)
        return persistent(lambda alert: post(url, alert))
    raise ValueError(f"no such destination: {kind!r}; there are {DESTINATIONS}")


def write_line(alert: dict[str, Any]) -> None:
    """One line of JSON on standard output, at once: whoever reads a pipe waits for it."""
    sys.stdout.write(_line(alert))
    sys.stdout.flush()


def write_file(folder: Path, alert: dict[str, Any]) -> None:
    """ALERT_ID.json in the folder: complete or not there; the same alert again is the same file again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{alert['alert_id']}.json"
    part = path.with_suffix(f".part{os.getpid()}")
    part.write_text(_line(alert))
    part.replace(path)


def run_command(command: list[str], alert: dict[str, Any], limit_s: float = EXEC_LIMIT_S) -> None:
    """Run the command with the packet on its standard input; it need not read it.

    Raises:
        Unavailable: it fails or takes longer than the limit, after which it is killed with its children.
    """
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    try:
        process.communicate(_line(alert), timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took longer than {limit_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise Unavailable(f"{command[0]} ended with {process.returncode}")


def post(url: str, alert: dict[str, Any]) -> None:
    """POST the packet as JSON; every answer but 2xx is a failure, a redirection too: it would lose the body.

    Raises:
        Unavailable: no such answer; the text does not show the path of the address, which may be a secret.
    """
    request = Request(url, _line(alert).encode(), {"Content-Type": "application/json"})  # noqa: S310  (_parse_url)
    try:
        with build_opener(_NoRedirect).open(request, timeout=WEBHOOK_LIMIT_S):
            return
    except HTTPError as error:
        answer = ""
        with error, suppress(OSError, HTTPException):  # what it says is of use, and no reason to give up
            answer = error.read(MAX_ANSWER).decode(errors="replace")
        raise Unavailable(f"{_site(url)} answered {error.code} {error.reason}: {answer}") from error
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{_site(url)} does not answer: {error}") from error


def persistent(deliver: Deliver, wait: Callable[[float], object] = time.sleep) -> Deliver:
    """Deliver with further attempts; raises what the last one raises."""

    def persist(alert: dict[str, Any]) -> None:
        for seconds in WAITS_S:
            try:
                return deliver(alert)
            except Unavailable as error:
                fields = {"alert_id": alert["alert_id"], "reason": str(error), "retry_s": seconds}
                log.warning("not delivered", extra={"fields": fields})
                wait(seconds)
        try:
            return deliver(alert)
        except Unavailable as error:
            raise Unavailable(
                f"alert {alert['alert_id']} was not delivered in {len(WAITS_S) + 1} attempts: {error}. "
                "With --group it is delivered again by the next run"
            ) from error

    return persist


class _NoRedirect(HTTPRedirectHandler):
    """Makes a redirection an HTTPError."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow none."""


def _parse_command(text: str) -> list[str]:
    command = shlex.split(text)
    if not command or shutil.which(command[0]) is None:
        raise ValueError(f"no such command: {text!r}")
    return command


def _parse_url(url: str) -> str:
    """The address, which errors may show up to its path, and do not show here: any part may be a secret."""
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        is_web = False
    if not is_web or "@" in parts.netloc or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("webhook: write webhook:https://HOST/PATH, without user, password and spaces")
    return url


def _site(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}"


def _line(alert: dict[str, Any]) -> str:
    return json.dumps(alert, separators=(",", ":")) + "\n"  # ASCII: any terminal and any locale can have it
