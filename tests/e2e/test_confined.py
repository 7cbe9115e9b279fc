"""The daemon writes no file and needs no particular user."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from tests.chaos.world import count_scores, make_message
from tests.contract.test_broker import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60.0
NOBODY = 54321  # no user of any system that tests run on


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that every user may read, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def may_switch() -> bool:
    """Whether we may become another user, and whether that one could run this Python."""
    folders = Path(sys.executable).resolve().parents
    return os.getuid() == 0 and all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders)


def write_nothing() -> None:
    """Let the process write no byte to any file, whoever it runs as: what a read-only root is to it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.kafka
def test_any_user_can_serve_without_writing_a_file(kafka_server: str, bundle: Path, readable: Path) -> None:
    """`latenight serve`, real scorer included, writes no file and needs no name, home or temporary folder."""
    topics, broker = Topics(f"any{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    broker.create_topics(topics.settings(), 1)
    served = shutil.copytree(bundle, readable / "bundle")
    messages = [replace(make_message(readable, number), topic=topics.spectra) for number in range(2)]
    with closing(broker.sink()) as sink:
        sink.publish(messages)
    before = sorted(readable.rglob("*"))
    kafka = ("--bootstrap-servers", kafka_server, "--topic-prefix", topics.prefix)
    places = ("--bundle", str(served), "--root", str(readable), "--metrics", "127.0.0.1:0")
    someone = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if may_switch() else {}
    ran = subprocess.run(
        [sys.executable, "-m", "latenight", "serve", "--drain", *places, *kafka],
        cwd=readable,
        env={"PATH": os.environ["PATH"], "TMPDIR": "/nonexistent", "HOME": "/nonexistent"},
        preexec_fn=write_nothing,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        **someone,  # type: ignore[call-overload]
    )
    assert ran.returncode == 0, ran.stderr
    assert count_scores(read_all(broker, topics.scores)).total() == 6
    assert sorted(readable.rglob("*")) == before
