"""How long does an alert take? python -m tests.bench.latency BUNDLE NIGHT [MESSAGES [MESSAGES_A_MINUTE]].

Pointers at a steady rate, as petals come, to one daemon; for each the time from its publication to the moment when a
read_committed reader has its scores and, published with them, its last alert.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from latenight.desi import read_coadd
from tests.bench.setting import WORK_S, Stream, heading, petals, streaming

PETALS = 10


def publish(stream: Stream, paths: list[Path], n: int, period_s: float) -> None:
    """Announce the coadds in turn, one each period."""
    wait = threading.Event().wait
    with closing(stream.broker.sink()) as sink:
        due = time.monotonic()
        for path in itertools.islice(itertools.cycle(paths), n):
            wait(max(0.0, due - time.monotonic()))
            sink.publish(stream.records([path], "pointer"))
            due += period_s


def latencies(stream: Stream, paths: list[Path], n: int, period_s: float) -> list[float]:
    """Seconds from the time stamp of each message to the moment its scores are visible."""
    publisher = threading.Thread(target=publish, args=(stream, paths, n, period_s))
    found: list[float] = []
    with (
        closing(stream.scores()) as scores,
        closing(stream.broker.source([stream.topics.spectra], start="end")) as announced,
    ):
        scores.poll(0.2, 1)
        announced.poll(0.2, 1)
        publisher.start()
        stamps: dict[str, int] = {}
        deadline = time.monotonic() + n * period_s + WORK_S
        while len(found) < n:
            assert time.monotonic() < deadline, "the daemon does not keep up"
            visible = scores.poll(0.02, 10)
            now = time.time()
            stamps |= {str(message): message.timestamp_ms for message in announced.poll(0.0, 100)}
            found += [now - stamps[message.header("input")] / 1000 for message in visible]
    publisher.join()
    return found


def main(bundle: Path, night: Path, n: int = 60, per_minute: int = 60) -> None:
    paths = petals(night, PETALS)
    heading(f"latency: {n} petals of {len(read_coadd(paths[0]))} spectra, {per_minute} a minute")
    with streaming(bundle, "latency") as stream, stream.serving():
        found = latencies(stream, paths, n, 60.0 / per_minute)
    p50, p99 = np.quantile(found, [0.5, 0.99])
    print(
        f"| petal message to last alert visible, p99 (p50, max) | 2 s | {p99:.2f} ({p50:.2f}, {max(found):.2f}) s | |"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
