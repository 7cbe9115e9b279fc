"""The announcer: which files become messages, when, and what the messages say."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from latenight import announce
from latenight.announce import REDROCK_TIMEOUT_S, Watch
from latenight.broker import Record
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.cli import main
from latenight.errors import BadInput, Unavailable
from latenight.inbox import read_message
from latenight.pointer import CONTENT_POINTER, decode_pointer
from latenight.progress import Progress
from latenight.wire import CONTENT_ARROW, decode_spectra
from tests.coadds import NAME, REDROCK_NAME, coadd_hdus, write_coadd, write_hdus
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from click.testing import Result

    from latenight.broker import Consumed, Message


class FakeClock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


class ListSink:
    """A sink that keeps what is published."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        self.records += records

    def close(self) -> None:
        pass


@pytest.fixture
def coadd(tmp_path: Path) -> Path:
    return write_coadd(tmp_path, make_spectra(3, seed=1))


class TestRecords:
    def test_a_pointer_says_where_the_file_lies(self, coadd: Path) -> None:
        """A pointer message holds path, size, mtime, redrock and header facts; its key is TILEID-PETAL."""
        (record,) = announce.announce_records([coadd], "pointer", "latenight.spectra")
        assert (record.topic, record.key) == ("latenight.spectra", b"1000-0")
        assert record.headers == (("content-type", CONTENT_POINTER.encode()),)
        pointer = decode_pointer(record.value)
        assert pointer == announce.pointer_for(coadd)
        assert (pointer.path, pointer.redrock) == (str(coadd), str(coadd.with_name(REDROCK_NAME)))
        assert (pointer.size, pointer.n, pointer.night) == (coadd.stat().st_size, 3, 20260101)

    def test_inline_holds_the_spectra(self, coadd: Path) -> None:
        """An inline message holds the spectra and names the file they came from."""
        record = announce.make_record(coadd, "inline", "latenight.spectra")
        assert record.key == b"1000-0"
        assert record.headers == (("content-type", CONTENT_ARROW.encode()),)
        spectra = decode_spectra(record.value)
        assert (len(spectra), spectra.source) == (3, str(coadd))

    def test_relative_paths_become_absolute(self, coadd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is announced as the absolute one, for readers in other directories."""
        monkeypatch.chdir(coadd.parent)
        assert announce.pointer_for(Path(NAME)).path == str(coadd)

    def test_a_healpix_coadd_is_keyed_by_its_name(self, tmp_path: Path) -> None:
        """A coadd that mixes tiles has its file name as key, so that its versions share a partition."""
        path = write_hdus(tmp_path / "coadd-main-dark-9144.fits", coadd_hdus(make_spectra(1, seed=1)), {})
        record = announce.make_record(path, "pointer", "t")
        assert record.key == b"coadd-main-dark-9144.fits"
        assert decode_pointer(record.value).redrock is None

    def test_broken_and_missing_files_are_not_announced(self, coadd: Path) -> None:
        """A truncated file is BadInput, a missing one Unavailable."""
        coadd.write_bytes(coadd.read_bytes()[:100_000])
        with pytest.raises(BadInput, match=str(coadd)):
            announce.pointer_for(coadd)
        with pytest.raises(Unavailable, match="gone"):
            announce.pointer_for(coadd.with_name("coadd-gone.fits"))

    def test_one_broken_file_keeps_back_no_other(self, coadd: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Files that cannot be announced are counted and logged; the others are published in order."""
        other = write_coadd(coadd.parent, make_spectra(1, seed=1), "coadd-1-1000-thru20260101.fits")
        broken = coadd.with_name("coadd-2-1000-thru20260101.fits")
        broken.write_bytes(b"")
        sink = ListSink()
        assert announce.announce([coadd, broken, other], "pointer", "t", sink) == 1
        paths = [decode_pointer(record.value).path for record in sink.records]
        assert paths == [str(coadd), str(other)]
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [f"not announced: {broken}: the file is empty"]

    def test_a_file_that_could_not_be_read_and_then_could_is_no_failure(self, coadd: Path) -> None:
        """Whoever gives the paths is told of it, and gives it again."""
        paths = [coadd.with_name("coadd-1-1000-thru20260101.fits")]

        def again(path: Path) -> None:
            write_coadd(path.parent, make_spectra(1, seed=1), path.name)
            paths.append(path)

        sink = ListSink()
        assert announce.announce(iter(paths), "pointer", "t", sink, again) == 0
        assert [decode_pointer(record.value).path for record in sink.records] == [str(paths[0])]

    def test_too_large_for_a_message(self, coadd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Spectra that do not fit a message are refused with the advice to announce a pointer."""
        monkeypatch.setattr(announce, "MAX_MESSAGE_BYTES", 1000)
        with pytest.raises(BadInput, match="announce a pointer instead"):
            announce.make_record(coadd, "inline", "t")

    def test_lists_of_files(self) -> None:
        """A list holds one path a line; empty lines do not count."""
        assert announce.read_list(["/a/b.fits\n", "\n", " c.fits \n"]) == [Path("/a/b.fits"), Path("c.fits")]


class TestPace:
    def test_no_more_than_the_rate(self) -> None:
        """At 4 per second, the second and every later path come a quarter second after the one before."""
        clock = FakeClock()
        times = [clock.now for _ in announce.paced([Path("a")] * 4, 4.0, clock, clock.wait)]
        np.testing.assert_allclose(np.diff(times), 0.25)

    def test_it_ends_when_told(self) -> None:
        """No further path comes once the wait was ended."""
        paths = [Path("a"), Path("b"), Path("c")]
        assert list(announce.paced(paths, 1.0, FakeClock(), lambda _: True)) == paths[:1]

    def test_lost_time_is_not_made_up_for(self) -> None:
        """After a slow publish the next path comes at once, and no burst follows."""
        clock = FakeClock()
        times = []
        for path in announce.paced([Path("slow"), Path("b"), Path("c")], 1.0, clock, clock.wait):
            times.append(clock.now)
            clock.now += 10.0 if path.name == "slow" else 0.0
        np.testing.assert_allclose(np.diff(times), [10.0, 1.0])


class TestWatch:
    def test_each_coadd_once(self, coadd: Path) -> None:
        """A coadd with its redrock file is ready at once, and only once."""
        watch = Watch([coadd.parent])
        assert watch.ready(0.0) == [coadd]
        assert watch.ready(REDROCK_TIMEOUT_S * 2) == []

    def test_redrock_is_waited_for(self, tmp_path: Path) -> None:
        """A coadd without redrock file waits for it."""
        coadd = write_coadd(tmp_path, make_spectra(1, seed=1))
        redrock = coadd.with_name(REDROCK_NAME).rename(tmp_path / "later")
        watch = Watch([tmp_path])
        assert watch.ready(0.0) == []
        assert watch.ready(REDROCK_TIMEOUT_S - 1.0) == []
        redrock.rename(tmp_path / REDROCK_NAME)
        assert watch.ready(REDROCK_TIMEOUT_S - 0.5) == [coadd]

    def test_not_for_ever(self, coadd: Path) -> None:
        """After the timeout a coadd is announced without redshifts, and not again when they come."""
        redrock = coadd.with_name(REDROCK_NAME)
        content = redrock.read_bytes()
        redrock.unlink()
        watch = Watch([coadd.parent])
        assert watch.ready(0.0) == []
        assert watch.ready(REDROCK_TIMEOUT_S) == [coadd]
        redrock.write_bytes(content)
        assert watch.ready(REDROCK_TIMEOUT_S + 1.0) == []

    def test_a_new_reduction_is_a_new_coadd(self, coadd: Path) -> None:
        """A coadd that is written again is announced again, once redrock has caught up with it."""
        watch = Watch([coadd.parent])
        assert watch.ready(0.0) == [coadd]
        later = coadd.stat().st_mtime + 60.0
        os.utime(coadd, (later, later))
        assert watch.ready(1.0) == []
        os.utime(coadd.with_name(REDROCK_NAME), (later, later))
        assert watch.ready(2.0) == [coadd]

    def test_the_loop_finds_what_appears(self, tmp_path: Path) -> None:
        """Watching gives what is there, waits between polls, gives what comes meanwhile, ends when told."""
        first = write_coadd(tmp_path, make_spectra(1, seed=1))
        later = tmp_path / "coadd-1-1000-thru20260101.fits"
        clock = FakeClock()

        def wait(seconds: float) -> bool:
            clock.wait(seconds)
            if len(clock.waits) == 3:
                write_coadd(tmp_path, make_spectra(1, seed=2), later.name)
            return len(clock.waits) == 5

        assert list(announce.watch(Watch([tmp_path]), clock, wait)) == [first, later]
        assert clock.waits == [announce.POLL_S] * 5

    def test_a_folder_that_was_away_is_not_announced_again(
        self, coadd: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Neither an empty mount nor a folder that is gone for a while makes its coadds new."""
        folder, away = coadd.parent, tmp_path_factory.mktemp("other") / "away"
        watch = Watch([folder])
        assert watch.ready(0.0) == [coadd]
        folder.rename(away)
        assert watch.ready(1.0) == []
        folder.mkdir()
        assert watch.ready(2.0) == []
        folder.rmdir()
        away.rename(folder)
        assert watch.ready(3.0) == []

    def test_a_folder_that_cannot_be_searched_keeps_back_no_other(
        self, coadd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It costs one warning however long it lasts; what it holds is announced when it answers again."""
        (coadd.parent / "closed").mkdir()
        other = write_coadd(coadd.parent / "closed", make_spectra(1, seed=1))
        scan = os.scandir

        def stale(path: Path) -> object:
            if Path(path).name == "closed":
                raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return scan(path)

        watch = Watch([coadd.parent])
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", stale)
            assert watch.ready(0.0) == [coadd]
            assert watch.ready(1.0) == []
        assert watch.ready(2.0) == [other]
        warnings = [record.message for record in caplog.records]
        assert warnings == [f"not searched: {other.parent}: cannot be searched: Stale file handle"]

    def test_a_file_that_cannot_be_read_now_comes_again(self, coadd: Path) -> None:
        """It is given once more a minute later, until it could be announced."""
        watch = Watch([coadd.parent])
        assert watch.ready(0.0) == [coadd]
        watch.again(coadd, 0.0)
        assert watch.ready(announce.RETRY_S - 1.0) == []
        assert watch.ready(announce.RETRY_S) == [coadd]
        assert watch.ready(2 * announce.RETRY_S) == []

    def test_what_is_older_than_the_topics_memory_is_left_out(self, coadd: Path) -> None:
        """A coadd that was written before `since` is not given."""
        written = coadd.stat().st_mtime
        assert Watch([coadd.parent], since=written + 1).ready(0.0) == []
        assert Watch([coadd.parent], since=written).ready(0.0) == [coadd]


class TestCommand:
    @pytest.fixture
    def broker(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBroker]:
        broker = MemoryBroker()
        broker.create_topics(Topics("t").settings(), partitions=1)
        monkeypatch.setattr("latenight.client.connect", lambda *_: broker)
        handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
        yield broker
        for each, handler in handlers.items():
            signal.signal(each, handler)

    def run(self, *arguments: object, stdin: str = "") -> Result:
        words = ["announce", "--topic-prefix", "t", *map(str, arguments)]
        return CliRunner().invoke(main, words, input=stdin)

    def published(self, broker: MemoryBroker) -> list[Message]:
        return broker.source(["t.spectra"]).poll(0.0, 100)

    @pytest.mark.parametrize("payload", ["pointer", "inline"])
    def test_coadds_of_a_directory(self, broker: MemoryBroker, coadd: Path, payload: str) -> None:
        """`latenight announce DIR` publishes a message for each coadd and prints nothing."""
        result = self.run(coadd.parent, "--payload", payload, "--rate", 1000)
        assert (result.exit_code, result.stdout) == (0, "")
        (message,) = self.published(broker)
        assert read_message(message.value, message.headers).source == str(coadd)

    def test_files_from_standard_input(self, broker: MemoryBroker, coadd: Path) -> None:
        """`--files-from -` reads paths from standard input."""
        assert self.run("--files-from", "-", stdin=f"{coadd}\n").exit_code == 0
        assert len(self.published(broker)) == 1

    def test_an_interrupted_announcement_goes_on(self, broker: MemoryBroker, tmp_path: Path) -> None:
        """With --resume what the topic names is left out; what is new or was written again is announced, in order."""
        names = [f"coadd-{petal}-1000-thru20260101.fits" for petal in range(4)]
        paths = [write_coadd(tmp_path, make_spectra(1, seed=1), name) for name in names]
        self.run(paths[2], paths[0])
        os.utime(paths[2], (2e9, 2e9))
        broker.sink().publish(
            [Record("t.spectra", b"k", b"broken", (("content-type", CONTENT_POINTER.encode()),))]
        )
        result = self.run("--resume", "--files-from", "-", stdin="".join(f"{path}\n" for path in paths[::-1]))
        assert (result.exit_code, result.stdout) == (0, "")
        announced = [decode_pointer(message.value).path for message in self.published(broker)[3:]]
        assert announced == [str(paths[n]) for n in (3, 2, 1)]
        assert self.run("--resume", tmp_path).exit_code == 0
        assert len(self.published(broker)) == 6

    def test_only_pointers_can_be_resumed(self, broker: MemoryBroker, coadd: Path) -> None:
        """Inline messages do not say which version of a file they held: a usage error."""
        assert self.run("--resume", coadd, "--payload", "inline").exit_code == 2

    def test_a_watch_that_was_stopped_goes_on(
        self, broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With --watch --resume what the topic names, or is too old for it to know, is not announced after a start."""
        names = [f"coadd-{petal}-1000-thru20260101.fits" for petal in range(3)]
        paths = [write_coadd(tmp_path, make_spectra(1, seed=1), name) for name in names]
        for path in paths:  # older than their redrock files
            os.utime(path, (time.time() - 3600, time.time() - 3600))
        os.utime(write_coadd(tmp_path, make_spectra(1, seed=1), "coadd-3-1000-thru20260101.fits"), (1e9, 1e9))
        self.run(paths[1])
        stop = Event()
        monkeypatch.setattr("latenight.cli.kafka.stop_on_signals", lambda: stop)
        monkeypatch.setattr(stop, "wait", lambda _: True)
        assert self.run("--watch", "--resume", tmp_path).exit_code == 0
        announced = [decode_pointer(message.value).path for message in self.published(broker)]
        assert announced == [str(paths[n]) for n in (1, 0, 2)]

    def test_a_missing_file_keeps_back_no_other(self, broker: MemoryBroker, coadd: Path) -> None:
        """A path of the list that does not exist is refused alone: exit code 1 after the others were announced."""
        result = self.run("--files-from", "-", stdin=f"/no/coadd.fits\n{coadd}\n")
        assert result.exit_code == 1
        assert "1 files were not announced" in result.stderr
        assert len(self.published(broker)) == 1

    def test_a_long_announcement_tells_how_far_it_is(
        self, coadd: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Now and then a line of the log says how many coadds are announced, left, and the seconds still to go."""
        caplog.set_level("INFO")
        clock = FakeClock()
        paths = announce.paced([coadd] * 4, 1 / 25, clock, clock.wait)
        assert list(announce.with_progress(paths, 4, Progress(clock))) == [coadd] * 4
        (fields,) = [record.__dict__["fields"] for record in caplog.records if record.message == "announcing"]
        assert fields == {"done": 3, "left": 1, "per_second": 0.04, "eta_s": 25}

    def test_broken_files_are_an_error_at_the_end(self, broker: MemoryBroker, coadd: Path) -> None:
        """A file that cannot be announced makes the exit code 1, after the others were published."""
        coadd.with_name("coadd-0-0999-thru20260101.fits").write_bytes(b"")
        result = self.run(coadd.parent)
        assert result.exit_code == 1
        assert "1 files were not announced" in result.stderr
        assert len(self.published(broker)) == 1

    def test_what_to_announce_must_be_said(self, broker: MemoryBroker, tmp_path: Path) -> None:
        """No paths at all is a usage error; a directory without coadds is an error that says so."""
        assert self.run().exit_code == 2
        result = self.run(tmp_path)
        assert result.exit_code == 1
        assert f"no coadd-*.fits under {tmp_path}" in result.stderr

    def test_topics_must_exist(self, broker: MemoryBroker, coadd: Path) -> None:
        """Without the topic the command exits with 3 and says how to create it."""
        result = self.run("--topic-prefix", "other", coadd)
        assert result.exit_code == 3
        assert "other.spectra; run: latenight topics create" in result.stderr
