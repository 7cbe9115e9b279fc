"""A daemon as `latenight serve` runs it, with a scorer that needs no bundle.

python -m tests.e2e.serve_fake SERVERS PREFIX [drain]

It prints a line for each step ("read", "publishing", "published"), so that a test can kill it at any of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.cli.base import stop_on_signals
from latenight.daemon import Daemon
from latenight.health import Health
from latenight.metrics import Metrics
from latenight.outcome import Desk
from latenight.wire import decode_spectra
from tests.fakes import FakeScorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latenight.broker import Consumed, Message, Record, Sink
    from latenight.spectra import Spectra


def say(step: str) -> None:
    sys.stdout.write(f"{step}\n")
    sys.stdout.flush()


def read(message: Message) -> Spectra:
    say("read")
    return decode_spectra(message.value)


class Announcing:
    """A sink that says when a transaction begins and when it has ended."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def publish(self, records: Sequence[Record], consumed: Consumed | None = None) -> None:
        say("publishing")
        self._sink.publish(records, consumed)
        say("published")

    def close(self) -> None:
        self._sink.close()


def main(servers: str, prefix: str, *drain: str) -> None:
    topics, broker = Topics(prefix), KafkaBroker(servers)
    sink = Announcing(broker.sink(instance=prefix))
    source = broker.source([topics.spectra], group=prefix, instance=prefix)
    desk = Desk(topics, read, FakeScorer(), 100.0, Metrics())
    Daemon(source, sink, desk, health=Health(), stop=stop_on_signals(), max_dead_ratio=0.5).run(
        drain=bool(drain)
    )
    source.close()
    sink.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
