"""What does Kafka cost? `serve` beside `score`: python -m tests.bench.stream BUNDLE NIGHT [PETALS [ROUNDS]].

Pointers and inline petals through a daemon of its own and a real Kafka; the same files by `score` in this process; the
inline petals by a stock consumer of kafka-python, which does nothing with them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from kafka import KafkaConsumer

from latenight.desi import read_coadd
from latenight.offline import Offline
from latenight.policy import DEFAULT_BUDGET
from latenight.scorer import load_scorer
from tests.bench.setting import Cost, compare, cost_here, heading, in_turns, petals, show, streaming


def consume(address: str, topic: str, n: int) -> None:
    """Read n messages as a user does who has read no further than the first example."""
    consumer = KafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    for _ in range(n):
        next(consumer)
    consumer.close()


def slower(first: Cost, second: Cost) -> Cost:
    """What bounds who does both at once on cores of their own."""
    return max(first, second, key=lambda cost: cost.wall_s)


def main(bundle: Path, night: Path, n: int = 2, rounds: int = 3) -> None:
    paths = petals(night, n)
    offline = Offline(read_coadd, load_scorer(bundle), DEFAULT_BUDGET)
    n_spectra = sum(len(read_coadd(path)) for path in paths)
    with tempfile.TemporaryDirectory() as folder, streaming(bundle, "stream") as stream:
        out, alerts = Path(folder) / "scores.parquet", Path(folder) / "alerts.jsonl"
        stream.broker.create_topics({"stock": stream.topics.settings()[stream.topics.spectra]}, 1)
        pointers, inline = stream.records(paths, "pointer"), stream.records(paths, "inline")
        stock = stream.records(paths, "inline", topic="stock")
        sink = stream.broker.sink()
        sink.publish(stock)
        sink.close()
        heading(f"through Kafka: {n} petals, {n_spectra} spectra")
        with stream.serving() as daemon:
            costs = in_turns(
                rounds,
                {
                    "score": lambda: cost_here(lambda: list(offline.score_files(paths, out, alerts))),
                    "serve, pointers": lambda: stream.through(pointers, daemon),
                    "serve, inline": lambda: stream.through(inline, daemon),
                    "kafka-python alone, inline": lambda: cost_here(
                        lambda: consume(stream.address, "stock", n)
                    ),
                },
            )
    for name, each in costs.items():
        show(name, each, n_spectra)
    compare("`serve` with pointers over `score`", costs["serve, pointers"], costs["score"], 0.95)
    bound = list(map(slower, costs["score"], costs["kafka-python alone, inline"]))
    compare("`serve` inline over min(scorer, stock consumer)", costs["serve, inline"], bound, 0.8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
