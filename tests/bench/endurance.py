"""What a daemon takes over a long night: memory over many spectra, CPU while nothing comes.

python -m tests.bench.endurance [SPECTRA [MEGABYTES]]

`latenight serve` with the fake scorer, real Kafka, real files: pointers to one petal of 500 spectra until SPECTRA
are scored, then MEGABYTES of the same petal inline (33 MB a message), then nothing for IDLE_S.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latenight.announce import make_record
from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import MIB, Topics
from tests.chaos.world import Daemon, running_world
from tests.coadds import write_coadd
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from latenight.broker import Record

ROWS = 500
CHUNK = 40  # messages announced at a time
IDLE_S = 60.0
DEADLINE_S = 7200.0


def rss_mib(pid: int) -> float:
    """Memory that the process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def cpu_s(pid: int) -> float:
    """CPU time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def feed(broker: KafkaBroker, topics: Topics, record: Record, n: int, pid: int) -> list[float]:
    """Announce the same message n times, some at a time; returns the memory each time some are scored."""
    memory, record = [], replace(record, topic=topics.spectra)
    with closing(broker.sink()) as sink, closing(broker.source([topics.scores], start="end")) as scores:
        for start in range(0, n, CHUNK):
            some = min(CHUNK, n - start)
            for _ in range(some):
                sink.publish([record])
            deadline = time.monotonic() + DEADLINE_S
            while some > 0:
                assert time.monotonic() < deadline
                some -= len(scores.poll(0.5, CHUNK))
                memory.append(rss_mib(pid))
    return memory


def idle_cpu(pid: int) -> float:
    """CPU time per second while nothing comes."""
    before = cpu_s(pid)
    time.sleep(IDLE_S)
    return (cpu_s(pid) - before) / IDLE_S


def main(spectra: int = 100_000, megabytes: int = 1000) -> None:
    with tempfile.TemporaryDirectory() as folder, running_world(Path(folder)) as world:
        broker, topics = KafkaBroker(world.address), Topics("endurance")
        broker.create_topics(topics.settings(), 8)
        path = write_coadd(world.redux, make_spectra(ROWS, seed=1))
        daemon = Daemon(world, topics.prefix, "a")
        daemon.wait_for("ready")
        pid = daemon.process.pid
        started = time.monotonic()
        memory = feed(broker, topics, make_record(path, "pointer", ""), spectra // ROWS, pid)
        print(f"{spectra} spectra by pointer in {time.monotonic() - started:.0f} s")
        for part in range(5):
            print(f"  part {part + 1} of 5: at most {max(np.array_split(memory, 5)[part]):.0f} MiB")
        inline = make_record(path, "inline", "")
        memory = feed(broker, topics, inline, megabytes * 10**6 // len(inline.value), pid)
        print(
            f"{megabytes} MB inline, {len(inline.value) / 1e6:.0f} MB a message: at most {max(memory):.0f} MiB"
        )
        print(f"idle: {100 * idle_cpu(pid):.2f} % of a core")
        print(f"SIGTERM to exit 0: {daemon.stop():.1f} s")
        daemon.kill()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
