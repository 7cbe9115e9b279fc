"""A daemon that is killed again and again loses no spectrum and repeats none, on a real Kafka."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from threading import Timer

import pytest

from latenight.broker import Message, Record
from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.wire import CONTENT_ARROW, decode_scores, encode_spectra
from tests.contract.test_broker import read_all
from tests.fakes import add_spikes, make_spectra

ROOT = Path(__file__).resolve().parents[2]
N_MESSAGES, N_SPECTRA = 60, 3
# The second publication is a heartbeat; a batch is four messages.
KILLS = (("read", 2), ("publishing", 1), ("publishing", 3), ("published", 3))
FIRST_TARGET = 39627000000000000
DEADLINE_S = 60.0


def start(servers: str, prefix: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.e2e.serve_fake", servers, prefix, "drain"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def kill_at(process: subprocess.Popen[str], step: str, n: int) -> None:
    """Kill -9 as soon as the process says the step for the n-th time."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            n -= line.strip() == step
            if n == 0:
                process.kill()
                break
    process.wait()


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    """Kill -9 so long after the first message was read, wherever it then is."""
    assert process.stdout is not None
    with process.stdout as lines:
        next(iter(lines), None)
        timer = Timer(seconds, process.kill)
        timer.start()
        process.wait()
        timer.cancel()


def scored(messages: list[Message]) -> Counter[int]:
    """How often each TARGETID has been scored."""
    return Counter(int(target) for message in messages for target in decode_scores(message.value)["targetid"])


def targets(number: int) -> list[int]:
    """The TARGETIDs of a message, found in no other."""
    return [FIRST_TARGET + 10 * number + row for row in range(N_SPECTRA)]


def petal(topic: str, number: int) -> Record:
    """A message of a few spectra, the first of which alerts."""
    spectra = add_spikes(make_spectra(N_SPECTRA, number, targetid=targets(number)), [0])
    key = f"{number % 7}-{number % 10}".encode()
    return Record(topic, key, encode_spectra(spectra), (("content-type", CONTENT_ARROW.encode()),))


@pytest.mark.kafka
def test_kill_9_loses_nothing_and_repeats_nothing(kafka_server: str) -> None:
    """Killed at each step and at random moments, the daemon scores every spectrum once and alerts once."""
    topics, broker = Topics(f"kill{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    broker.create_topics(topics.settings(), 2)
    messages = [petal(topics.spectra, number) for number in range(N_MESSAGES)]
    sink = broker.sink()
    sink.publish(messages)
    sink.close()
    rng = random.Random(20260101)  # noqa: S311  (moments, not secrets)
    for step, n in KILLS:
        kill_at(start(kafka_server, topics.prefix), step, n)
    for _ in range(4):
        kill_after(start(kafka_server, topics.prefix), rng.uniform(0.0, 0.1))
    midway = scored(read_all(broker, topics.scores))
    assert 0 < len(midway) < N_MESSAGES * N_SPECTRA, "every kill must have come before the end"

    survivor = start(kafka_server, topics.prefix)
    survivor.communicate(timeout=DEADLINE_S)
    assert survivor.returncode == 0

    counts = scored(read_all(broker, topics.scores))
    assert set(counts.values()) == {1}
    assert set(counts) == {target for number in range(N_MESSAGES) for target in targets(number)}
    alerts = [json.loads(message.value) for message in read_all(broker, topics.alerts)]
    assert len({alert["alert_id"] for alert in alerts}) == len(alerts) == N_MESSAGES
