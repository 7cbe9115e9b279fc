"""`latenight serve` itself, but for a scorer that needs no bundle and a place where it dies or waits.

python -m tests.chaos.daemon STEP:N:ACTION serve --bundle . [options of serve]

A batch goes through the STEPS. When it comes to STEP for the N-th time it does ACTION: kill (itself, with -9) or hold
(says "held" and goes on when a line comes on standard input); "-" stands for no such place. It says "ready" when it
is about to join its group and "committed" after each transaction that commits offsets. A bundle is loaded only for its
id, which the scores bear; the child that proves another one is the real thing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from latenight import scorer, swap
from latenight.broker import kafka, kafka_source
from latenight.bundle import load_bundle
from latenight.cli import main
from tests.fakes import FakeScorer

if TYPE_CHECKING:
    from pathlib import Path

    from latenight.broker import Message
    from latenight.broker.kafka_sink import KafkaSink
    from latenight.scores import Scores
    from latenight.spectra import Spectra

STEPS = ("polled", "read", "scored", "produced", "offsets", "committed")
# The least that brokers allow, so that a member that fell out is missed soon.
SESSION_MS = MAX_POLL_INTERVAL_MS = 6000
LOOK_S = 0.2  # between two looks at the link to the bundle


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Place:
    """Where this process dies or waits."""

    def __init__(self, text: str) -> None:
        self._step, number, self._action = text.split(":") if text != "-" else ("", "0", "")
        self._left = int(number)

    def reached(self, step: str) -> None:
        """The batch has come to this step."""
        self._left -= step == self._step
        if step != self._step or self._left:
            return
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        say("held")
        sys.stdin.readline()


class Producer:
    """A producer of kafka-python that says where in a transaction it is."""

    def __init__(self, producer: Any, place: Place) -> None:
        self._producer, self._place, self._has_offsets = producer, place, False

    def send_offsets_to_transaction(self, *args: object) -> None:
        self._place.reached("produced")
        self._producer.send_offsets_to_transaction(*args)
        self._has_offsets = True
        self._place.reached("offsets")

    def commit_transaction(self) -> None:
        self._producer.commit_transaction()
        if self._has_offsets:
            say("committed")
            self._place.reached("committed")
        self._has_offsets = False

    def abort_transaction(self) -> None:
        self._has_offsets = False
        self._producer.abort_transaction()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


def prepare(place: Place) -> None:
    """Put the place, the fake scorer and short timeouts into the command."""
    poll, sink = kafka_source.KafkaSource.poll, kafka.KafkaBroker.sink

    def polling(self: kafka_source.KafkaSource, timeout_s: float, max_messages: int) -> list[Message]:
        messages = poll(self, timeout_s, max_messages)
        if messages:
            place.reached("polled")
        return messages

    def publishing(self: kafka.KafkaBroker, *, instance: str | None = None) -> KafkaSink:
        opened = sink(self, instance=instance)
        opened._producer = Producer(opened._producer, place)
        say("ready")
        return opened

    class Scorer(FakeScorer):
        def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
            place.reached("read")
            scores = super().score(spectra, explain_below)
            place.reached("scored")
            return scores

    kafka_source.KafkaSource.poll = polling  # type: ignore[method-assign]
    kafka.KafkaBroker.sink = publishing  # type: ignore[method-assign]
    kafka.SESSION_MS, kafka.MAX_POLL_INTERVAL_MS = SESSION_MS, MAX_POLL_INTERVAL_MS
    swap.PERIOD_S = LOOK_S
    scorer.load_scorer = lambda path, **_: Scorer(bundle_id(path))  # type: ignore[assignment]


def bundle_id(path: Path) -> str:
    """The id of a bundle; rounds without one serve from a folder that is none."""
    return load_bundle(path).id if (path / "manifest.json").exists() else "fa" * 32


def run(place: str, *words: str) -> None:
    prepare(Place(place))
    main(words)


if __name__ == "__main__":
    run(*sys.argv[1:])
