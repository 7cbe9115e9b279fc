"""Signals and commands of the real programs, on a real Kafka."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import pytest

from latenight.broker import Record
from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.pointer import CONTENT_POINTER
from latenight.wire import read_parquet
from tests.chaos.world import N_SPECTRA, ROOT, count_scores, make_message, targets
from tests.contract.test_broker import fill, read_all

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 60.0


def wait_for(lines: IO[str], line: str) -> None:
    assert any(each.strip() == line for each in lines)


def latenight(servers: str, prefix: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of latenight to its end."""
    env = {**os.environ, "LATENIGHT_BOOTSTRAP_SERVERS": servers, "LATENIGHT_TOPIC_PREFIX": prefix}
    command = [sys.executable, "-m", "latenight", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.kafka
def test_a_night_of_commands(kafka_server: str, tmp_path: Path) -> None:
    """Topics are created, SIGTERM lets the daemon finish and exit with 0, and the alerts can be read."""
    topics, broker = Topics(f"stop{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    missing = latenight(kafka_server, topics.prefix, "alerts", "--until-end")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "run: latenight topics create" in missing.stderr
    for word in (topics.spectra, "nothing"):
        assert word in latenight(kafka_server, topics.prefix, "topics", "create", "--partitions", "1").stderr
    sink = broker.sink()
    sink.publish([replace(make_message(tmp_path, number), topic=topics.spectra) for number in range(3)])
    sink.close()

    kafka = ("--bootstrap-servers", kafka_server, "--topic-prefix", topics.prefix)
    serve = ("serve", "--bundle", ".", "--budget", "0.1", *kafka)
    command = [sys.executable, "-m", "tests.chaos.daemon", "-", *serve]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        wait_for(daemon.stdout, "committed")
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 0
    assert count_scores(read_all(broker, topics.scores)).total() == 3 * N_SPECTRA

    where = "night == 20260101"
    printed = latenight(kafka_server, topics.prefix, "alerts", "--until-end", "--where", where)
    assert printed.returncode == 0
    found = {int(json.loads(line)["target"]["targetid"]) for line in printed.stdout.splitlines()}
    assert found == {targets(number)[0] for number in range(3)}
    one = latenight(kafka_server, topics.prefix, "alerts", "--from-beginning", "--max", "1")
    assert len(one.stdout.splitlines()) == 1
    for wrong in (("--where", "oops"), ("--to", "csv"), ("--since", "yesterday")):
        assert latenight(kafka_server, topics.prefix, "alerts", *wrong).returncode == 2


@pytest.mark.kafka
def test_what_is_refused_and_what_is_scored_can_be_had(kafka_server: str, tmp_path: Path) -> None:
    """Dead letters are listed and sent again once, alerts reach a command, scores reach Parquet files."""
    topics, broker = Topics(f"poison{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    assert latenight(kafka_server, topics.prefix, "topics", "create", "--partitions", "1").returncode == 0
    poison = Record(topics.spectra, b"1000-0", b"{", (("content-type", CONTENT_POINTER.encode()),))
    fill(broker, [poison, replace(make_message(tmp_path, 0), topic=topics.spectra)])
    kafka = ("--bootstrap-servers", kafka_server, "--topic-prefix", topics.prefix)
    serve = ("serve", "--bundle", ".", "--budget", "0.1", "--drain", *kafka)
    subprocess.run(
        [sys.executable, "-m", "tests.chaos.daemon", "-", *serve], cwd=ROOT, check=True, timeout=DEADLINE_S
    )

    (letter,) = latenight(kafka_server, topics.prefix, "deadletters", "list").stdout.splitlines()
    described = json.loads(letter)
    assert (described["source"], described["key"], described["size"]) == (
        f"{topics.spectra}/0/0",
        "1000-0",
        1,
    )
    assert described["reason"].startswith("pointer: not JSON")
    for n_sent in (1, 0):
        again = latenight(kafka_server, topics.prefix, "deadletters", "replay")
        assert again.stderr.endswith(f"sent again: {n_sent}\n")
    assert [(m.key, m.value) for m in read_all(broker, topics.spectra)[2:]] == [(poison.key, poison.value)]

    save = f"exec:{sys.executable} -c 'import sys; open(sys.argv[1], \"a\").write(sys.stdin.read())' {tmp_path}/alerts"
    assert latenight(kafka_server, topics.prefix, "alerts", "--until-end", "--to", save).returncode == 0
    assert len((tmp_path / "alerts").read_text().splitlines()) == 1
    for _ in range(2):
        archived = latenight(
            kafka_server, topics.prefix, "archive", "--out", str(tmp_path / "nights"), "--drain"
        )
        assert archived.returncode == 0
    (file,) = (tmp_path / "nights").glob("*/*.parquet")
    assert len(read_parquet(file)["row"]) == N_SPECTRA


def test_a_second_signal_ends_the_process_at_once() -> None:
    """A daemon that hangs in its last batch dies of the second SIGTERM."""
    code = (
        "import sys, threading\n"
        "from latenight.cli.base import stop_on_signals\n"
        "stop = stop_on_signals()\n"
        "print('ready', flush=True)\n"
        "stop.wait()\n"
        "print('stopping', flush=True)\n"
        "threading.Event().wait()\n"
    )
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        for word in ("ready", "stopping"):
            wait_for(process.stdout, word)
            process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == -signal.SIGTERM
