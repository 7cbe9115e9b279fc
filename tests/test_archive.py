"""Scores reach Parquet files by night, each table once, whatever crashes in between."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from latenight import archive as archiver
from latenight.archive import archive
from latenight.broker import Broker, Record
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.errors import Unavailable
from latenight.wire import decode_scores, encode_scores, read_parquet
from tests.contract.test_broker import fill
from tests.fakes import FakeScorer, make_spectra

N = 5


@pytest.fixture
def topics(broker: Broker) -> Topics:
    topics = Topics(f"a{uuid.uuid4().hex[:12]}")
    broker.create_topics(topics.settings(), 2)
    return topics


def table(seed: int, night: object = 20260101) -> bytes:
    spectra = make_spectra(N, seed, night=night, petal=seed)
    return encode_scores(spectra, FakeScorer().score(spectra))


def publish(broker: Broker, topics: Topics, *values: bytes) -> None:
    fill(broker, [Record(topics.scores, b"1000-0", value) for value in values])


def run(broker: Broker, topics: Topics, folder: Path) -> int:
    source = broker.source([topics.scores], group=topics.prefix)
    try:
        return archive(source, folder, stop=Event(), drain=True)
    finally:
        source.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_table_is_stored_once_under_its_night(broker: Broker, topics: Topics, tmp_path: Path) -> None:
    """A table gives one file, however often it is published or the archive is run; its rows are unchanged."""
    publish(broker, topics, table(1), table(2), table(1), table(3, night=20260102))
    assert run(broker, topics, tmp_path) == 4
    stored = contents(tmp_path)
    assert sorted(name.rpartition("-")[0] for name in stored) == [
        "20260101/1000-1",
        "20260101/1000-2",
        "20260102/1000-3",
    ]
    assert run(broker, topics, tmp_path) == 0
    publish(broker, topics, table(2))
    assert run(broker, topics, tmp_path) == 1
    assert contents(tmp_path) == stored
    night = read_parquet(tmp_path / "20260102")
    for name, values in decode_scores(table(3, night=20260102)).items():
        np.testing.assert_array_equal(night[name], values, err_msg=name)
    assert len(read_parquet(tmp_path / "20260101")["row"]) == 2 * N


def test_a_table_of_several_nights_is_taken_apart(tmp_path: Path) -> None:
    """A healpix coadd mixes nights: each row is stored under its own, unknown ones apart."""
    topics, broker = Topics(), MemoryBroker()
    broker.create_topics(topics.settings(), 1)
    publish(broker, topics, table(1, night=[20260101, -1, 20260102, 20260101, -1]))
    run(broker, topics, tmp_path)
    rows = {path.parent.name: read_parquet(path)["row"].tolist() for path in tmp_path.rglob("*.parquet")}
    assert rows == {"20260101": [0, 3], "20260102": [2], "unknown": [1, 4]}


def test_what_is_stored_but_not_committed_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between file and commit gives the same files again in the next run."""
    topics, broker = Topics(), MemoryBroker()
    broker.create_topics(topics.settings(), 1)
    publish(broker, topics, table(1), table(2))
    with monkeypatch.context() as patch:
        patch.setattr(archiver, "_commit", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(broker, topics, tmp_path)
    stored = contents(tmp_path)
    publish(broker, topics, table(3))
    assert run(broker, topics, tmp_path) == 3
    assert contents(tmp_path).items() > stored.items()
    assert len(contents(tmp_path)) == 3


def test_a_disk_that_is_full_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, no part of it is left, and the next run stores everything."""
    topics, broker = Topics(), MemoryBroker()
    broker.create_topics(topics.settings(), 1)
    publish(broker, topics, table(1), table(2))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match=r"20260101/1000-1-.*\.parquet: No space left on device"):
            run(broker, topics, tmp_path)
    assert contents(tmp_path) == {}
    assert run(broker, topics, tmp_path) == 2


def test_files_are_on_the_disk_before_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file, its folder and the folder above are synced before the place in the topic is committed."""
    topics, broker = Topics(), MemoryBroker()
    broker.create_topics(topics.settings(), 1)
    publish(broker, topics, table(1))
    steps: list[str] = []
    fsync, commit = os.fsync, archiver._commit

    def note_fsync(handle: int) -> None:
        steps.append(os.path.relpath(Path(f"/proc/self/fd/{handle}").readlink(), tmp_path).partition("-")[0])
        fsync(handle)

    def note_commit(source: object) -> None:
        steps.append("commit")
        commit(source)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(archiver, "_commit", note_commit)
    run(broker, topics, tmp_path)
    assert steps[0] == "20260101/.1000"
    assert sorted(steps[1:3]) == [".", "20260101"]
    assert steps[3:] == ["commit"]


def test_what_is_no_table_of_scores_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's message costs a warning, and keeps back no other."""
    topics, broker = Topics(), MemoryBroker()
    broker.create_topics(topics.settings(), 1)
    publish(broker, topics, b"hello", table(1))
    run(broker, topics, tmp_path)
    assert len(contents(tmp_path)) == 1
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == ["WARNING"]


def test_a_stop_ends_it_after_the_batch(tmp_path: Path) -> None:
    """Told to stop before it begins, it stores nothing and waits for nothing."""
    topics, broker = Topics(), MemoryBroker()
    broker.create_topics(topics.settings(), 1)
    publish(broker, topics, table(1))
    stop = Event()
    stop.set()
    assert archive(broker.source([topics.scores], group="g"), tmp_path, stop=stop) == 0
