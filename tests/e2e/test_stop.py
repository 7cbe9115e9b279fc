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

from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from tests.chaos.world import N_SPECTRA, ROOT, count_scores, make_message, targets
from tests.contract.test_broker import read_all

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
