"""Scoring files without Kafka."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from io import StringIO
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from latenight.announce import announce
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.cli import main
from latenight.cli.files import show_progress
from latenight.client import subscribe
from latenight.daemon import Daemon
from latenight.desi import read_coadd
from latenight.errors import BadInput, Unavailable
from latenight.health import Health
from latenight.inbox import read_message
from latenight.metrics import Metrics
from latenight.offline import FileResult, Offline, log_result, summary
from latenight.outcome import Desk
from latenight.policy import GUARD_MIN
from latenight.wire import decode_scores, read_parquet
from tests.coadds import write_coadd
from tests.fakes import FakeScorer, add_spikes, make_spectra

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from latenight.announce import Payload
    from latenight.spectra import Spectra

BUDGET = 0.1  # only spikes alert
SPIKES = {0: [3, 8], 1: []}


def write_petals(folder: Path) -> list[Path]:
    return [
        write_coadd(
            folder,
            add_spikes(make_spectra(20, seed=petal, petal=petal), rows),
            f"coadd-{petal}-1000-thru20260101.fits",
        )
        for petal, rows in SPIKES.items()
    ]


def score(
    paths: list[Path], folder: Path, offline: Offline | None = None
) -> tuple[list[FileResult], dict[str, np.ndarray], list[dict[str, Any]]]:
    offline = offline or Offline(read_coadd, FakeScorer(), BUDGET, lambda: 1_800_000_000.0)
    out, alerts = folder / "scores.parquet", folder / "alerts.jsonl"
    results = list(offline.score_files(paths, out, alerts))
    return results, read_parquet(out), [json.loads(line) for line in alerts.read_text().splitlines()]


def test_every_spectrum_of_every_file_gets_a_row_and_the_odd_ones_an_alert(tmp_path: Path) -> None:
    """Rows follow the order of the files; alerts name file and row, oddest first."""
    paths = write_petals(tmp_path)
    results, table, alerts = score(paths, tmp_path)
    assert table["source"].tolist() == [str(path) for path in paths for _ in range(20)]
    assert table["row"].tolist() == [*range(20), *range(20)]
    assert {(alert["target"]["file"], alert["target"]["row"]) for alert in alerts} == {
        (str(paths[0]), row) for row in SPIKES[0]
    }
    p_values = [alert["scores"]["p_value"] for alert in alerts]
    assert p_values == sorted(p_values)
    assert {alert["created"] for alert in alerts} == {"2027-01-15T08:00:00.000Z"}
    assert [(result.spectra, result.eligible, result.alerts, result.error) for result in results] == [
        (20, 17, 2, ""),
        (20, 17, 0, ""),
    ]


@pytest.mark.parametrize("payload", ["pointer", "inline"])
def test_files_and_messages_give_the_same_scores_and_alerts(tmp_path: Path, payload: Payload) -> None:
    """Files and messages of either payload give identical tables and packets."""
    paths = write_petals(tmp_path)
    _, table, alerts = score(paths, tmp_path)
    broker, topics = MemoryBroker(), Topics("t")
    broker.create_topics(topics.settings(), 1)
    announce(paths, payload, topics.spectra, broker.sink())
    desk = Desk(
        topics,
        lambda message: read_message(message.value, message.headers),
        FakeScorer(),
        BUDGET,
        Metrics(),
        lambda: 1_800_000_000.0,
    )
    source = broker.source([topics.spectra], group="g")
    Daemon(source, broker.sink(), desk, health=Health(), stop=Event(), max_dead_ratio=0.5).run(drain=True)
    tables = [decode_scores(message.value) for message in broker.source([topics.scores]).poll(0.0, 10)]
    for name, column in table.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in tables]), column, err_msg=name)
    assert list(subscribe(broker, prefix="t", until_end=True)) == alerts


def test_a_file_that_cannot_be_read_keeps_back_no_other(tmp_path: Path) -> None:
    """A damaged and a missing file are reported with their names, and the others are scored."""
    good = write_petals(tmp_path)
    damaged, missing = tmp_path / "coadd-9-1000-thru20260101.fits", tmp_path / "coadd-8-1-thru20260101.fits"
    damaged.write_bytes(good[0].read_bytes()[:5000])
    results, table, alerts = score([damaged, good[0], missing, good[1]], tmp_path)
    assert [bool(result.error) for result in results] == [True, False, True, False]
    assert all(result.file in result.error for result in results if result.error)
    assert len(table["row"]) == 40
    assert len(alerts) == 2
    sums = summary(results, 1.23456)
    assert sums == {"files": 4, "failed": 2, "seconds": 1.235} | {
        "spectra": 40,
        "eligible": 34,
        "alerts": 2,
        "groups": 0,
        "grouped": 0,
        "suppressed": 0,
    }


@pytest.mark.parametrize("error", [BadInput, Unavailable])
def test_without_any_readable_file_the_table_is_empty(tmp_path: Path, error: type[Exception]) -> None:
    """If no file can be read there is a table without rows and no alert."""

    def read(path: Path) -> Spectra:
        raise error(f"{path}: gone")

    results, table, alerts = score([tmp_path / "a"], tmp_path, Offline(read, FakeScorer(), BUDGET))
    assert [result.error for result in results] == [f"{tmp_path / 'a'}: gone"]
    assert len(table["p_value"]) == len(alerts) == 0


def test_a_bug_leaves_no_table_behind(tmp_path: Path) -> None:
    """An error that is no fault of the file ends the run, and no half-written table is left."""

    def read(path: Path) -> Spectra:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        score([tmp_path / "a"], tmp_path, Offline(read, FakeScorer(), BUDGET))
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.jsonl"]


def test_a_flood_is_counted(tmp_path: Path) -> None:
    """What the flood guard held back is in the result of the file."""
    spectra = add_spikes(make_spectra(60, seed=1, petal=-1), range(60))
    offline = Offline(lambda path: replace(spectra, source=str(path)), FakeScorer(), BUDGET)
    results, _, alerts = score([tmp_path / "a"], tmp_path, offline)
    assert results[0].alerts == len(alerts) == GUARD_MIN
    assert results[0].suppressed == 57 - GUARD_MIN


def test_a_fault_of_a_petal_is_one_alert(tmp_path: Path) -> None:
    """Spectra of one petal that fire together give one packet; the result of the file counts both."""
    spectra = add_spikes(make_spectra(60, seed=1), range(60))
    offline = Offline(lambda path: replace(spectra, source=str(path)), FakeScorer(), BUDGET)
    results, _, alerts = score([tmp_path / "a"], tmp_path, offline)
    assert [alert["kind"] for alert in alerts] == ["group"]
    assert alerts[0]["group"]["n_members"] == 57
    assert (results[0].alerts, results[0].groups, results[0].grouped) == (0, 1, 57)


def test_each_file_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A scored file gives its counts, another one the reason."""
    with caplog.at_level(logging.INFO):
        log_result(FileResult("a.fits", spectra=500, alerts=2))
        log_result(FileResult("b.fits", error="b.fits: truncated"))
    scored, failed = caplog.records
    assert (scored.message, scored.fields["spectra"], scored.fields["alerts"]) == ("scored", 500, 2)  # type: ignore[attr-defined]
    assert (failed.levelname, failed.fields["reason"]) == ("ERROR", "b.fits: truncated")  # type: ignore[attr-defined]


class Terminal(StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_errors_are_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a terminal a bar counts the files; only those that were not scored are named."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    results = [FileResult("a.fits", spectra=500), FileResult("b.fits", error="b.fits: truncated")]
    assert show_progress(iter(results), 2, "scoring") == results
    assert "100%" in terminal.getvalue()
    assert [record.message for record in caplog.records] == ["not scored"]


def test_the_command_scores_a_directory(tmp_path: Path, bundle: Path) -> None:
    """`latenight score DIR` scores every coadd under it, writes both files and prints nothing to stdout."""
    write_petals(tmp_path)
    out, alerts = tmp_path / "new" / "s.parquet", tmp_path / "new" / "a.jsonl"
    arguments = ["score", str(tmp_path), "--bundle", str(bundle), "--out", str(out), "--alerts", str(alerts)]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert json.loads(result.stderr.splitlines()[-1])["files"] == 2
    table = read_parquet(out)
    assert np.isfinite(table["p_value"][table["eligible"]]).all()
    assert alerts.exists()


def test_the_command_fails_if_a_file_was_not_scored(tmp_path: Path, bundle: Path) -> None:
    """With one unreadable file the others are scored, the file is named on stderr and the exit code is 1."""
    good = write_petals(tmp_path)
    bad = tmp_path / "coadd-7-1000-thru20260101.fits"
    bad.write_bytes(b"no FITS")
    out = ["--out", str(tmp_path / "s.parquet"), "--alerts", str(tmp_path / "a.jsonl")]
    result = CliRunner().invoke(main, ["score", str(bad), str(good[0]), "--bundle", str(bundle), *out])
    assert result.exit_code == 1
    assert any(str(bad) in line and "not scored" in line for line in result.stderr.splitlines())
    assert result.stderr.splitlines()[-1].startswith("latenight: 1 of 2 files were not scored")
    assert len(read_parquet(tmp_path / "s.parquet")["row"]) == 20


def test_a_directory_without_coadds_is_an_error(tmp_path: Path, bundle: Path) -> None:
    """Scoring nothing is not success."""
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(main, ["score", str(empty), "--bundle", str(bundle)])
    assert result.exit_code == 1
    assert "no coadd-*.fits under" in result.stderr
