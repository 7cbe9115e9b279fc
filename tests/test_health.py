"""The HTTP endpoint: what the probes answer, and when."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from itertools import pairwise

import pytest

from latenight.errors import StartupError
from latenight.health import Health, answer, serve_http
from latenight.metrics import CONTENT_TYPE, Metrics


class Clock:
    """A clock that a test sets by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def get(url: str) -> tuple[int, str, str]:
    """Status, content type and body, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own address
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_loop_is_alive_until_it_has_not_turned_for_the_bound() -> None:
    """/healthz is 200 while the last turn is younger than the bound, then 503 until the next turn."""
    clock = Clock()
    health = Health(max_turn_s=120.0, clock=clock)
    states = []
    for step in (0.0, 119.0, 2.0):
        clock.now += step
        states.append(answer("/healthz", Metrics(), health)[0])
    health.turn()
    states.append(answer("/healthz", Metrics(), health)[0])
    assert states == [200, 200, 503, 200]


def test_health_says_how_old_the_last_turn_is() -> None:
    """A failing liveness probe says how long ago the loop turned and what the bound is."""
    clock = Clock()
    health = Health(max_turn_s=120.0, clock=clock)
    clock.now += 300.0
    assert answer("/healthz", Metrics(), health)[2] == b"last loop turn 300.0 s ago, bound 120 s\n"


def test_ready_needs_the_bundle_and_the_partitions() -> None:
    """/readyz is 503 and names what is missing until the bundle is verified and partitions are assigned."""
    health = Health()
    status, _, body = answer("/readyz", Metrics(), health)
    assert status == 503
    assert b"bundle is not loaded" in body
    assert b"no partition" in body
    health.is_loaded = True
    status, _, body = answer("/readyz", Metrics(), health)
    assert (status, body) == (503, b"no partition is assigned\n")
    health.is_assigned = True
    assert answer("/readyz", Metrics(), health)[0] == 200


def test_the_endpoint_answers_over_http_and_stops() -> None:
    """While the context is open the three paths answer; afterwards nothing listens and no thread is left."""
    threads = set(threading.enumerate())
    metrics, health = Metrics(), Health()
    metrics.spectra_consumed_total.inc(500)
    with serve_http("127.0.0.1:0", metrics, health) as url:
        assert url.startswith("http://127.0.0.1:")
        status, content_type, body = get(f"{url}/metrics")
        assert (status, content_type) == (200, CONTENT_TYPE)
        assert "latenight_spectra_consumed_total 500.0" in body
        assert get(f"{url}/healthz")[0] == 200
        assert get(f"{url}/readyz")[0] == 503
        assert get(f"{url}/else")[0] == 404
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/healthz")
    assert {t for t in threading.enumerate() if t.name == "metrics"} <= threads


def test_a_bare_port_means_the_loopback_interface() -> None:
    """An address without a host is reachable from this machine only."""
    for address in ("0", ":0"):
        with serve_http(address, Metrics(), Health()) as url:
            assert url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_a_malformed_address_is_a_start_up_error(address: str) -> None:
    """An address without a valid port is refused at start, with the form that is expected."""
    with (
        pytest.raises(StartupError, match="--metrics HOST:PORT"),
        serve_http(address, Metrics(), Health()),
    ):
        pass


def test_a_taken_port_is_a_start_up_error() -> None:
    """A second daemon on the same port does not start, and says which address is taken."""
    with serve_http("127.0.0.1:0", Metrics(), Health()) as url:
        address = url.removeprefix("http://")
        with (
            pytest.raises(StartupError, match=f"cannot listen on {address}"),
            serve_http(address, Metrics(), Health()),
        ):
            pass


def test_counters_never_fall_between_two_scrapes() -> None:
    """Two scrapes while another thread counts show growing values."""
    metrics = Metrics()
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            metrics.spectra_scored_total.inc()

    with serve_http("127.0.0.1:0", metrics, Health()) as url:
        thread = threading.Thread(target=count)
        thread.start()
        bodies = [get(f"{url}/metrics")[2] for _ in range(5)]
        done.set()
        thread.join()
    values = [float(body.split("\nlatenight_spectra_scored_total ")[1].split("\n")[0]) for body in bodies]
    assert all(a <= b for a, b in pairwise(values))
