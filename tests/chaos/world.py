"""What a round of chaos happens to: daemons as processes, a broker behind a proxy, files; and what must hold after."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from latenight.announce import make_record
from latenight.broker import Message, Record
from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.wire import CONTENT_ARROW, decode_scores, encode_spectra
from tests.chaos.proxy import Proxy
from tests.coadds import write_coadd
from tests.contract.test_broker import read_all
from tests.fakes import add_spikes, make_spectra
from tests.kafka_server import KafkaServer, free_ports

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from latenight.spectra import Spectra

ROOT = Path(__file__).resolve().parents[2]
N_MESSAGES, N_SPECTRA, N_PARTITIONS = 24, 3, 3
FIRST_TARGET = 39627000000000000
# A broker that was killed with -9 and its clients need up to 40 s on two busy cores; the rest is margin.
DEADLINE_S = 150.0
STOP_S = 10.0
NO_BUNDLE = Path()
LOST = "another process runs as this instance"


def targets(number: int) -> list[int]:
    """The TARGETIDs of a message, found in no other."""
    return [FIRST_TARGET + 10 * number + row for row in range(N_SPECTRA)]


def petal(number: int) -> Spectra:
    """A few spectra, the first of which alerts."""
    return add_spikes(make_spectra(N_SPECTRA, number, targetid=targets(number)), [0])


def count_scores(messages: list[Message]) -> Counter[int]:
    """How often each TARGETID has been scored."""
    return Counter(int(target) for message in messages for target in decode_scores(message.value)["targetid"])


@dataclass(frozen=True)
class World:
    """What all rounds share.

    Attributes:
        kafka: the broker.
        proxy: what clients connect to.
        folder: where the files are; daemons may read below its "redux".
        messages: those of every round, without a topic.
        bundle: what rounds that swap bundles begin with.
    """

    kafka: KafkaServer
    proxy: Proxy
    folder: Path
    messages: list[Record]
    bundle: Path

    @property
    def redux(self) -> Path:
        return self.folder / "redux"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"


def make_message(redux: Path, number: int) -> Record:
    """A message of the spectra topic: odd ones point to a file, even ones hold the spectra."""
    if number % 2:
        path = write_coadd(redux, petal(number), f"coadd-{number % 10}-{number}-thru20260101.fits")
        return make_record(path, "pointer", "")
    key = f"{number}-{number % 10}".encode()
    return Record("", key, encode_spectra(petal(number)), (("content-type", CONTENT_ARROW.encode()),))


@contextmanager
def running_world(folder: Path, bundle: Path = NO_BUNDLE) -> Iterator[World]:
    """A broker behind a proxy, and the messages of every round."""
    port, controller = free_ports(2)
    proxy = Proxy(port)
    (folder / "kafka").mkdir(parents=True)
    (folder / "redux").mkdir()
    kafka = KafkaServer(folder / "kafka", port, controller, proxy.port)
    try:
        kafka.start()
        messages = [make_message(folder / "redux", number) for number in range(N_MESSAGES)]
        yield World(kafka, proxy, folder, messages, bundle)
    finally:
        kafka.end()
        proxy.close()


class Daemon:
    """One process of tests.chaos.daemon and what it says."""

    def __init__(
        self,
        world: World,
        prefix: str,
        instance: str,
        place: str = "-",
        log: str = "",
        bundle: Path = NO_BUNDLE,
    ) -> None:
        self.instance = instance
        self.log = Path(log or world.folder / f"{prefix}-{instance}.log")
        options = ["--group", prefix, "--instance", instance, "--root", str(world.redux), "--budget", "0.1"]
        kafka = ["--bootstrap-servers", world.address, "--topic-prefix", prefix]
        command = [
            sys.executable,
            "-m",
            "tests.chaos.daemon",
            place,
            "serve",
            "--bundle",
            str(bundle),
            *options,
            *kafka,
        ]
        with self.log.open("a") as log_file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
            )
        self._said: list[tuple[str, float]] = []
        self._news = threading.Condition()
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, lines: IO[str]) -> None:
        for line in itertools.chain(lines, ["ended"]):
            with self._news:
                self._said.append((line.strip(), time.monotonic()))
                self._news.notify_all()

    def times(self, line: str) -> list[float]:
        """When it said this."""
        with self._news:
            return [when for what, when in self._said if what == line]

    def wait_for(self, line: str, n: int = 1) -> None:
        """Wait until it has said this so often; "ended" is its end."""

        def n_said() -> int:
            return sum(what == line for what, _ in self._said)

        with self._news:
            said = self._news.wait_for(lambda: n_said() >= n, DEADLINE_S)
        assert said, f"{self.instance} never said {line}: {self.words()}"

    def go_on(self) -> None:
        """Let it leave the place where it holds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill -9, if it lives, and wait."""
        self.process.kill()
        self.process.wait()
        self.wait_for("ended")
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def stop(self) -> float:
        """SIGTERM; it must leave with 0 in time, unless it has just lost its place. Returns the seconds it took."""
        self.wait_for("ready")
        started = time.monotonic()
        self.process.terminate()
        code = self.process.wait(STOP_S)
        assert code == 0 or LOST in self.words(), f"{self.instance} left with {code}: {self.words()}"
        return time.monotonic() - started

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-3000:] if self.log.is_file() else ""


@dataclass
class Round:
    """One round: its own topics and group, daemons that come and go.

    Attributes:
        world: broker, proxy and files.
        prefix: of the round's topics.
        daemons: all that were started, dead or alive.
        released: monotonic time when the fault was over.
        bundle: what daemons serve, a folder that is none unless a fault swaps bundles.
    """

    world: World
    prefix: str
    daemons: list[Daemon] = field(default_factory=list)
    released: float = 0.0
    bundle: Path = NO_BUNDLE

    def __post_init__(self) -> None:
        self.broker = KafkaBroker(self.world.address)
        self.topics = Topics(self.prefix)
        self.broker.create_topics(self.topics.settings(), N_PARTITIONS)
        with closing(self.broker.sink()) as sink:
            sink.publish(
                [Record(self.topics.spectra, m.key, m.value, m.headers) for m in self.world.messages]
            )

    def start(self, instance: str = "a", place: str = "-", log: str = "") -> Daemon:
        """Start a daemon."""
        self.daemons.append(Daemon(self.world, self.prefix, instance, place, log, self.bundle))
        return self.daemons[-1]

    def over(self) -> None:
        """The fault is over: from here on the recovery is timed."""
        self.released = time.monotonic()

    def settle(self) -> None:
        """Be a supervisor until all spectra are scored: start again what has ended with an error."""
        deadline, n = time.monotonic() + DEADLINE_S, 0
        with closing(self.broker.source([self.topics.scores])) as source:
            while n < N_MESSAGES:
                assert time.monotonic() < deadline, f"hung with {n} messages: {self.daemons[-1].words()}"
                n += len(source.poll(0.2, 100))
                self._supervise()

    def _supervise(self) -> None:
        latest = {daemon.instance: daemon for daemon in self.daemons}
        for daemon in latest.values():
            if daemon.process.poll() not in (None, 0):
                self.start(daemon.instance)

    def recovery_s(self) -> float:
        """From the end of the fault to the next commit; 0 if none was needed any more."""
        times = [when for daemon in self.daemons for when in daemon.times("committed")]
        return min((when - self.released for when in times if when >= self.released), default=0.0)

    def stop(self) -> float:
        """Stop all daemons; returns the longest time that one took."""
        running = [daemon for daemon in self.daemons if daemon.process.poll() is None]
        return max((daemon.stop() for daemon in running), default=0.0)

    def kill_all(self) -> None:
        """Leave nothing behind, whatever has happened."""
        for daemon in self.daemons:
            daemon.kill()

    def check(self) -> None:
        """For a read_committed reader every spectrum is scored once and every alert is there once."""
        counts = count_scores(read_all(self.broker, self.topics.scores))
        wanted = {target for number in range(N_MESSAGES) for target in targets(number)}
        lost = wanted - counts.keys()
        double = {target: n for target, n in counts.items() if n != 1}
        assert not lost, f"lost: {sorted(lost)}"
        assert not double, f"not once: {double}"
        alerts = [
            json.loads(message.value)["alert_id"] for message in read_all(self.broker, self.topics.alerts)
        ]
        assert len(set(alerts)) == len(alerts) == N_MESSAGES
        assert read_all(self.broker, self.topics.deadletters) == []


def wait_until(what: Callable[[], bool], why: str) -> None:
    """Wait for a condition of the outside world."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)
