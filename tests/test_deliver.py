"""Alerts reach files, commands and web addresses; what fails is tried again and never taken for done."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from latenight.broker import Record
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.client import subscribe
from latenight.deliver import (
    WAITS_S,
    parse_destination,
    persistent,
    post,
    run_command,
    write_file,
    write_line,
)
from latenight.errors import Unavailable
from tests.test_client import packet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAVE = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def test_alerts_are_written_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One line of JSON per alert on standard output."""
    write_line(packet(1))
    write_line(packet(2))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [packet(1), packet(2)]
    assert parse_destination("jsonl") is write_line


def test_alerts_are_written_as_files(tmp_path: Path) -> None:
    """dir:DIR makes the folder and one complete file per alert id, however often it comes."""
    deliver = parse_destination(f"dir:{tmp_path}/new/folder")
    deliver(packet(1))
    deliver(packet(1))
    write_file(tmp_path / "new/folder", packet(2))
    found = sorted((tmp_path / "new/folder").iterdir())
    assert [path.name for path in found] == [f"{number:032x}.json" for number in (1, 2)]
    assert json.loads(found[0].read_text()) == packet(1)


@pytest.mark.parametrize("text", ["csv", "dir:", "jsonl:file", "", "exec:"])
def test_an_unknown_destination_is_refused(text: str) -> None:
    """The error says which destinations there are."""
    with pytest.raises(ValueError, match="there are jsonl, dir:DIR, exec:CMD and webhook:URL"):
        parse_destination(text)


@pytest.mark.parametrize("text", ["exec:no-such-command -x", "exec:' '"])
def test_a_command_that_does_not_exist_is_refused_at_once(text: str) -> None:
    """Before the first alert comes."""
    with pytest.raises(ValueError, match="no such command"):
        parse_destination(text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://host/",
        "https:///path",
        "hooks.example.org",
        "https://user:s3cret@host/path",
        "https://host:s3cret/path",
        "https://host/s3cret path",
        "https://host/s3cret\n",
    ],
)
def test_only_web_addresses_are_posted_to(url: str) -> None:
    """Another scheme would read or write something else than a web service; no part is shown, for it may be secret."""
    with pytest.raises(ValueError, match="write webhook:https://HOST/PATH") as caught:
        parse_destination(f"webhook:{url}")
    assert "s3cret" not in str(caught.value)


class TestCommand:
    def test_it_reads_each_packet_from_standard_input(self, tmp_path: Path) -> None:
        """exec:CMD runs once for each alert, with arguments quoted as in a shell and the packet as one line."""
        deliver = parse_destination(f"exec:{sys.executable} -c \"{SAVE}\" '{tmp_path}/two words'")
        deliver(packet(1))
        deliver(packet(2))
        lines = (tmp_path / "two words").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [packet(1), packet(2)]

    def test_no_shell_interprets_it(self, tmp_path: Path) -> None:
        """; and $ are characters of an argument."""
        parse_destination(f"exec:{sys.executable} -c pass ; touch {tmp_path}/x $HOME")(packet(1))
        assert list(tmp_path.iterdir()) == []

    def test_one_that_fails_is_unavailable(self) -> None:
        """A command that ends with another code than 0 is named with its code."""
        with pytest.raises(Unavailable, match="ended with 7"):
            run_command([sys.executable, "-c", "raise SystemExit(7)"], packet(1))

    def test_one_that_does_not_read_is_fine(self) -> None:
        """A command may ignore the packet."""
        run_command(["true"], packet(1))

    def test_one_that_hangs_is_killed_with_its_children(self, tmp_path: Path) -> None:
        """After the limit neither the command nor what it started is left."""
        script = f"sleep 60 & echo $! >{tmp_path}/child; wait"
        with pytest.raises(Unavailable, match="took longer than 1 s"):
            run_command(["sh", "-c", script], packet(1), limit_s=1.0)
        child = f"/proc/{(tmp_path / 'child').read_text().strip()}/stat"
        deadline = time.monotonic() + 10.0
        while _runs(child):
            assert time.monotonic() < deadline


def _runs(stat: str) -> bool:
    """Whether the process of /proc/PID/stat is there, and no zombie that only waits to be counted."""
    try:
        with open(stat) as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def web(answers: list[int]) -> Iterator[tuple[str, list[Any]]]:
    """A web server that gives these answers, and what was posted to it."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(answers.pop(0))
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"oops")

        def do_GET(self) -> None:
            posted.append("followed a redirection")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestWebhook:
    def test_each_packet_is_posted_as_json(self) -> None:
        """webhook:URL sends one POST for each alert."""
        with web([200, 204]) as (url, posted):
            deliver = parse_destination(f"webhook:{url}")
            deliver(packet(1))
            deliver(packet(2))
        assert posted == [("/secret", "application/json", packet(number)) for number in (1, 2)]

    @pytest.mark.parametrize("code", [301, 302, 307, 400, 503])
    def test_any_other_answer_is_a_failure(self, code: int) -> None:
        """A redirection is one, too: urllib would follow it without the packet. The path is not shown."""
        with (
            web([code, 200]) as (url, posted),
            pytest.raises(Unavailable, match=f"answered {code}") as caught,
        ):
            post(url, packet(1))
        assert len(posted) == 1
        assert "secret" not in str(caught.value)

    def test_an_error_without_its_text_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A site that says 503 and then nothing is unavailable like others, and is tried again."""

        def stalls(*_: object) -> bytes:
            raise TimeoutError("timed out")

        monkeypatch.setattr("urllib.error.HTTPError.read", stalls, raising=False)
        with web([503]) as (url, _), pytest.raises(Unavailable, match="answered 503"):
            post(url, packet(1))

    def test_nobody_there_is_a_failure(self) -> None:
        """The error names the site and not the path."""
        with web([]) as (url, _):
            pass
        with pytest.raises(Unavailable, match=r"http://127.0.0.1 does not answer") as caught:
            post(url, packet(1))
        assert "secret" not in str(caught.value)


class TestPersistence:
    def test_a_failure_is_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        """A destination that comes back gets the alert once; each failure is a warning."""
        failures, delivered = iter([True, True]), []
        waits: list[float] = []

        def flaky(alert: dict[str, Any]) -> None:
            if next(failures, False):
                raise Unavailable("away")
            delivered.append(alert)

        persistent(flaky, waits.append)(packet(1))
        assert delivered == [packet(1)]
        assert waits == list(WAITS_S[:2])
        assert [record.message for record in caplog.records] == ["not delivered"] * 2

    def test_what_cannot_be_delivered_comes_again_to_the_group(self) -> None:
        """After all attempts the subscription ends with nothing committed: at least once, never less."""
        topics, broker = Topics(), MemoryBroker()
        broker.create_topics(topics.settings(), 1)
        values = [json.dumps(packet(number)).encode() for number in (1, 2)]
        broker.sink().publish([Record(topics.alerts, b"k", value) for value in values])
        waits: list[float] = []

        def away(alert: dict[str, Any]) -> None:
            raise Unavailable("away")

        subscription = subscribe(broker, group="team", until_end=True)
        with pytest.raises(Unavailable, match=f"{1:032x} was not delivered in 5 attempts: away"):
            persistent(away, waits.append)(next(subscription))
        subscription.close()  # type: ignore[attr-defined]  # a generator
        assert waits == list(WAITS_S)
        assert list(subscribe(broker, group="team", until_end=True)) == [packet(1), packet(2)]
