"""A shadow bundle beside the one served, on a real Kafka."""

from __future__ import annotations

import subprocess
import sys
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.bundle import load_bundle
from latenight.wire import decode_scores, read_parquet
from tests.chaos.world import ROOT, count_scores, make_message, targets
from tests.contract.test_broker import fill, read_all
from tests.siblings import sibling

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 60.0
NUMBERS = (0, 1)  # one inline, one by pointer


@pytest.mark.kafka
def test_nobody_takes_the_shadow_for_the_scores(kafka_server: str, bundle: Path, tmp_path: Path) -> None:
    """Both bundles score each spectrum once, each in its topic; archive and alerts are the main one's."""
    topics, broker = Topics(f"shadow{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    broker.create_topics(topics.settings(), 1)
    fill(broker, [replace(make_message(tmp_path, number), topic=topics.spectra) for number in NUMBERS])
    other = sibling(bundle, tmp_path / "other")
    kafka = ("--bootstrap-servers", kafka_server, "--topic-prefix", topics.prefix)
    serve = ("serve", "--bundle", str(bundle), "--shadow", str(other), "--drain", "--budget", "0.1", *kafka)
    command = [sys.executable, "-m", "tests.chaos.daemon", "-", *serve]
    subprocess.run(command, cwd=ROOT, check=True, timeout=DEADLINE_S)
    archive = ("archive", "--out", str(tmp_path / "nights"), "--drain", *kafka)
    subprocess.run([sys.executable, "-m", "latenight", *archive], check=True, timeout=DEADLINE_S)

    wanted = dict.fromkeys([target for number in NUMBERS for target in targets(number)], 1)
    for topic, path in ((topics.scores, bundle), (topics.shadow, other)):
        messages = read_all(broker, topic)
        assert count_scores(messages) == wanted
        assert {decode_scores(m.value)["bundle"][0] for m in messages} == {load_bundle(path).id}
    assert len(read_all(broker, topics.alerts)) == len(NUMBERS)
    files = list((tmp_path / "nights").glob("*/*.parquet"))
    assert {read_parquet(file)["bundle"][0] for file in files} == {load_bundle(bundle).id}
    assert len(files) == len(NUMBERS)
