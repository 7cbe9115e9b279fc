"""What the benchmarks share: costs measured in turns, a daemon of its own, the machine they ran on.

What is compared takes turns in one run, and a ratio is the median over the rounds: on a machine that others use, too,
single times mean nothing. Wall time says what a user waits for, CPU time what the work takes; where they disagree the
cores were not free.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from latenight.announce import make_record
from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.desi import find_coadds
from tests.kafka_server import free_ports, running_kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from latenight.announce import Payload
    from latenight.broker import Record, Source

ROOT = Path(__file__).resolve().parents[2]
START_S, WORK_S = 120.0, 1800.0  # a daemon that loads its bundle; the messages of a round, on a busy machine


@dataclass(frozen=True)
class Cost:
    """What a piece of work took [s]; the CPU time is of all threads of whoever did it."""

    wall_s: float
    cpu_s: float


def cost_here(work: Callable[[], object]) -> Cost:
    """Do the work in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(rounds: int, works: Mapping[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """The costs of each work in every round; before them each is done once to warm it up."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for turn in range(-1, rounds):
        for name, work in works.items():
            cost = work()
            if turn >= 0:
                costs[name].append(cost)
    return costs


def show(name: str, costs: Sequence[Cost], n: int) -> None:
    """Print how many of n spectra a second of wall and of CPU time one work does."""
    wall, cpu = median(c.wall_s for c in costs), median(c.cpu_s for c in costs)
    print(f"  {name:34} {n / wall:8.1f} spectra/s   {n / max(cpu, 1e-9):8.1f} per CPU second", flush=True)


def compare(
    measure: str, fast: Sequence[Cost], slow: Sequence[Cost], least: float, weight: float = 1.0
) -> None:
    """Print a row of the table: how many times as fast the first is, by wall and by CPU time.

    Args:
        measure: its name in the table.
        fast: costs of what is said to be fast.
        slow: costs of what it is compared with, of the same rounds.
        least: what is aimed at.
        weight: spectra of the first over spectra of the second, if they differ.
    """
    wall = sorted(weight * s.wall_s / f.wall_s for f, s in zip(fast, slow, strict=True))
    cpu = median(weight * s.cpu_s / f.cpu_s for f, s in zip(fast, slow, strict=True))
    spread = f"{wall[0]:.2f} to {wall[-1]:.2f}"
    print(f"| {measure} | {least} | {median(wall):.2f} ({spread}) | {cpu:.2f} |", flush=True)


def heading(what: str) -> None:
    """Print what was measured where."""
    versions = " ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("onnxruntime", "kafka-python", "numpy", "fitsio")
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":")
    load = os.getloadavg()[0]
    print(f"\n{what}")
    print(f"  {os.cpu_count()} x {cpu.partition(':')[2].strip()}, load {load:.1f}; commit {commit}")
    print(f"  Python {platform.python_version()} {versions}", flush=True)


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def petals(night: Path, n: int) -> list[Path]:
    """The first n coadds of a night, read once so that they are in the page cache."""
    paths = find_coadds([night])[:n]
    for path in paths:
        path.read_bytes()
    return paths


@dataclass(frozen=True)
class Stream:
    """Topics of a broker, filled by the benchmark and emptied by a daemon.

    Attributes:
        address: of the broker.
        topics: their names.
        bundle: what the daemons score with.
    """

    address: str
    topics: Topics
    bundle: Path

    @property
    def broker(self) -> KafkaBroker:
        """The broker."""
        return KafkaBroker(self.address)

    def records(self, paths: Sequence[Path], payload: Payload, topic: str = "") -> list[Record]:
        """The messages that announce the coadds, on the spectra topic or another."""
        return [make_record(path, payload, topic or self.topics.spectra) for path in paths]

    @contextmanager
    def serving(
        self, instance: str = "bench", *, cpus: set[int] | None = None, threads: int | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`latenight serve` in a process of its own, ready; it keeps to the given CPUs."""
        port = free_ports(1)[0]
        options = ["--bundle", self.bundle, "--instance", instance, "--group", self.topics.prefix]
        options += ["--threads", threads] if threads else []
        kafka = ["--bootstrap-servers", self.address, "--topic-prefix", self.topics.prefix, "--metrics", port]
        command = [sys.executable, "-m", "latenight", "serve", *map(str, [*options, *kafka])]
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus or ours)  # a child inherits it
        daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        os.sched_setaffinity(0, ours)
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz")
            yield daemon
        finally:
            daemon.terminate()
            daemon.wait()

    def through(self, records: Sequence[Record], *daemons: subprocess.Popen[bytes]) -> Cost:
        """Publish messages and wait until all scores are visible; the CPU time is the daemons'."""
        with closing(self.broker.sink()) as sink, closing(self.scores()) as scores:
            scores.poll(0.2, 1)  # the reader is at its place before the clock starts
            wall, cpu = time.perf_counter(), sum(cpu_s(daemon.pid) for daemon in daemons)
            sink.publish(records)
            wait_for(scores, len(records))
            wall_s = time.perf_counter() - wall
        return Cost(wall_s, sum(cpu_s(daemon.pid) for daemon in daemons) - cpu)

    def scores(self) -> Source:
        """A reader of the scores that come from now on."""
        return self.broker.source([self.topics.scores], start="end")


def wait_for(source: Source, n: int) -> None:
    """Read n messages."""
    deadline = time.monotonic() + WORK_S
    while n > 0:
        assert time.monotonic() < deadline, "the daemon does not keep up"
        n -= len(source.poll(0.1, n))


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert time.monotonic() < deadline, "the daemon did not start"
        try:
            with urlopen(url, timeout=5):  # noqa: S310  (the address is ours)
                return
        except (URLError, OSError):
            time.sleep(0.1)


@contextmanager
def streaming(bundle: Path, prefix: str, partitions: int = 8) -> Iterator[Stream]:
    """Topics on a real Kafka of their own."""
    with tempfile.TemporaryDirectory() as folder, running_kafka(Path(folder)) as address:
        stream = Stream(address, Topics(prefix), bundle)
        stream.broker.create_topics(stream.topics.settings(), partitions)
        yield stream
