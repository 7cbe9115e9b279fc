"""Is the daemon alive and ready? The HTTP endpoint: /metrics, /healthz and /readyz.

    /metrics   200  the values of `latenight.metrics` for Prometheus
    /healthz   200  the loop turned lately; 503 it hangs: restart the daemon
    /readyz    200  the bundle is loaded, its golden spectra passed, partitions are assigned; 503 not yet

It answers from a thread of its own, so that a loop that hangs is seen to hang.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from latenight.errors import StartupError
from latenight.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from latenight.metrics import Metrics

LOOPBACK = "127.0.0.1"
POLL_S = 0.1  # how soon the endpoint notices that it shall stop
TEXT = "text/plain; charset=utf-8"

log = logging.getLogger(__name__)


@dataclass
class Health:
    """What the daemon's loop says about itself; the loop writes it, the HTTP thread reads it.

    Each field is one object that is replaced whole, so no lock is needed.

    Attributes:
        max_turn_s: a loop that has not turned for so long hangs. One turn scores at most one message: a second
            or two on two cores. Start-up (load the bundle, score the golden spectra) has as long.
        clock: monotonic time [s].
        is_loaded: the bundle is loaded and its golden spectra gave the expected scores.
        is_assigned: the broker has given us our partitions.
        last_turn: time of `clock` when the loop last began a turn.
    """

    max_turn_s: float = 120.0
    clock: Callable[[], float] = time.monotonic
    is_loaded: bool = False
    is_assigned: bool = False
    last_turn: float = field(init=False)

    def __post_init__(self) -> None:
        """Count the start as the first turn."""
        self.last_turn = self.clock()

    def turn(self) -> None:
        """Say that the loop begins a turn; idle polls and waits for a broker count, too."""
        self.last_turn = self.clock()

    def alive(self) -> tuple[bool, str]:
        """Whether the loop turns, and a sentence that says so."""
        age = self.clock() - self.last_turn
        return age <= self.max_turn_s, f"last loop turn {age:.1f} s ago, bound {self.max_turn_s:g} s"

    def ready(self) -> tuple[bool, str]:
        """Whether messages are being scored, and a sentence that says what is missing."""
        missing = []
        if not self.is_loaded:
            missing.append("the bundle is not loaded and verified")
        if not self.is_assigned:
            missing.append("no partition is assigned")
        return not missing, " and ".join(missing) or "bundle verified, partitions assigned"


@contextmanager
def serve_http(address: str, metrics: Metrics, health: Health) -> Iterator[str]:
    """Answer on ``address`` while the context is open; gives the URL.

    Args:
        address: "HOST:PORT", or "PORT" for the loopback interface only; port 0 takes a free one.
        metrics: what /metrics shows.
        health: what /healthz and /readyz ask.

    Raises:
        StartupError: the address is malformed or taken; the daemon exits with 3.
    """
    host, port = _parse(address)
    try:
        server = ThreadingHTTPServer((host, port), _handler(metrics, health))
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host}:{port}: {error}; choose another --metrics HOST:PORT"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(path: str, metrics: Metrics, health: Health) -> tuple[HTTPStatus, str, bytes]:
    """Status, content type and body of a GET request."""
    match path.partition("?")[0]:
        case "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, metrics.exposition()
        case "/healthz":
            good, text = health.alive()
        case "/readyz":
            good, text = health.ready()
        case _:
            return HTTPStatus.NOT_FOUND, TEXT, b"ask for /metrics, /healthz or /readyz\n"
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, TEXT, f"{text}\n".encode()


def _handler(metrics: Metrics, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # [s] a client that sends nothing is dropped

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path, metrics, health)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
            log.debug(format, *args)

    return Handler


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise StartupError(f"{address!r} is no address: write --metrics HOST:PORT or --metrics PORT")
    return host or LOOPBACK, int(port)
