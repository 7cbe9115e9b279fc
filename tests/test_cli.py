"""What commands on Kafka ask of the broker, on the in-memory one."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.cli import main
from tests.coadds import write_coadd
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from click.testing import Result

    from latenight.broker import Start
    from latenight.broker.memory import MemorySource


class NotingBroker(MemoryBroker):
    """Keeps the names of the groups that were joined."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[str | None] = []

    def source(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        instance: str | None = None,
        start: Start = "beginning",
    ) -> MemorySource:
        self.groups.append(group)
        return super().source(topics, group=group, instance=instance, start=start)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[NotingBroker]:
    broker = NotingBroker()
    for prefix in ("latenight", "dr1"):
        broker.create_topics(Topics(prefix).settings(), partitions=2)
    monkeypatch.setattr("latenight.client.connect", lambda *_: broker)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield broker
    for each, handler in handlers.items():
        signal.signal(each, handler)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_topics_of_a_backlog_have_groups_of_their_own(
    broker: NotingBroker, bundle: Path, tmp_path: Path
) -> None:
    """A daemon or archiver of other topics shares no group, and so no instance name, with those of the night."""
    serve = ("serve", "--drain", "--device", "cpu", "--bundle", bundle)
    archive = ("archive", "--drain", "--out", tmp_path)
    for command in (serve, archive):
        for prefix in ("latenight", "dr1"):
            result = run(*command, "--topic-prefix", prefix)
            assert result.exit_code == 0, result.stderr
    assert run(*serve, "--group", "mine").exit_code == 0
    assert broker.groups == ["latenight", "dr1", "latenight-archive", "dr1-archive", "mine"]


@pytest.mark.parametrize("night", ["20261301", "2026", "0", "-1"])
def test_a_night_must_be_a_date(broker: NotingBroker, night: str) -> None:
    """A night that no calendar knows would be waited for for ever: a usage error that shows how to write one."""
    result = run("alerts", f"--night={night}")
    assert result.exit_code == 2
    assert "is no date; write 20261120" in result.stderr
    assert broker.groups == []


def test_outputs_that_would_overwrite_each_other_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Scores and alerts in one file are a usage error, however the two paths are written."""
    same = (tmp_path / "out", tmp_path / "." / "x" / ".." / "out")
    result = run("score", tmp_path, "--bundle", bundle, "--out", same[0], "--alerts", same[1])
    assert result.exit_code == 2
    assert "are the same file" in result.stderr


def test_an_output_that_cannot_be_written_is_one_line(bundle: Path, tmp_path: Path) -> None:
    """A folder that cannot be made is told without a traceback, with exit code 1."""
    (tmp_path / "file").touch()
    coadd = write_coadd(tmp_path, make_spectra(1, seed=1))
    result = run("score", coadd, "--bundle", bundle, "--out", tmp_path / "file" / "scores.parquet")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert str(tmp_path / "file") in result.stderr
