"""A bundle is swapped under a stream of spectra, on a real Kafka."""

from __future__ import annotations

import itertools
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import pytest

from latenight.broker.kafka import KafkaBroker
from latenight.broker.topics import Topics
from latenight.bundle import load_bundle
from latenight.wire import decode_scores
from tests.chaos.world import count_scores, make_message, targets, wait_until
from tests.siblings import corrupt, set_link, sibling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from latenight.broker import Message, Sink, Source

DEADLINE_S = 60.0
WAITING = 8  # messages that are announced and not scored
# The command itself, but for how often it looks at the link.
LATENIGHT = "from latenight import cli, swap; swap.PERIOD_S = 0.3; cli.main()"


class Stream:
    """Spectra that never cease: for each message that is scored another one is announced."""

    def __init__(self, sink: Sink, scores: Source, topics: Topics, folder: Path) -> None:
        self._sink, self._scores, self._topics, self._folder = sink, scores, topics, folder
        self._numbers = itertools.count(0, 2)  # even ones hold their spectra
        self.announced: list[int] = []
        self.scored: list[Message] = []

    def flow(self) -> int:
        """Take what is scored and announce as much; returns how many messages are scored."""
        self.scored += self._scores.poll(0.1, 100)
        n_new = WAITING - (len(self.announced) - len(self.scored))
        new = list(itertools.islice(self._numbers, max(0, n_new)))
        self._sink.publish(
            [replace(make_message(self._folder, number), topic=self._topics.spectra) for number in new]
        )
        self.announced += new
        return len(self.scored)

    def run_dry(self) -> bool:
        """Take what is scored; whether that is all."""
        self.scored += self._scores.poll(0.1, 100)
        return len(self.scored) == len(self.announced)

    def bundles(self) -> list[str]:
        """The bundle that scored each message, in order."""
        return [str(decode_scores(message.value)["bundle"][0]) for message in self.scored]


@contextmanager
def running(command: list[str], stderr: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test."""
    with subprocess.Popen(command, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.kafka
def test_a_swap_in_mid_stream_loses_and_doubles_nothing(
    kafka_server: str, bundle: Path, tmp_path: Path
) -> None:
    """A damaged bundle is refused, a good one taken over; each spectrum is scored once and the group rests."""
    topics, broker = Topics(f"swap{uuid.uuid4().hex[:8]}"), KafkaBroker(kafka_server)
    broker.create_topics(topics.settings(), 1)
    second, damaged = sibling(bundle, tmp_path / "second"), corrupt(bundle, tmp_path / "damaged")
    link, log = set_link(tmp_path / "link", bundle), tmp_path / "log"
    kafka = ("--bootstrap-servers", kafka_server, "--topic-prefix", topics.prefix)
    serve = ("serve", "--bundle", str(link), "--instance", "a", "--threads", "1", *kafka)
    with (
        ExitStack() as stack,
        log.open("w") as stderr,
        running([sys.executable, "-c", LATENIGHT, *serve], stderr) as daemon,
        closing(broker.sink()) as sink,
        closing(broker.source([topics.scores])) as scores,
    ):
        stream = Stream(sink, scores, topics, tmp_path)
        wait_until(lambda: stream.flow() > 0, "nothing was scored")
        idle = stack.enter_context(
            closing(broker.source([topics.spectra], group=topics.prefix, instance="z"))
        )

        def seen(n: int, event: str = "") -> bool:
            n_scored = stream.flow()
            assert idle.poll(0.2, 1) == []  # a member of the group without a partition
            assert daemon.poll() is None, log.read_text()[-2000:]
            return n_scored >= n and event in log.read_text()

        wait_until(lambda: seen(n=0) and idle._is_settled(), "the group does not rest")
        generation = idle._consumer.group_metadata().generation_id
        set_link(link, damaged)
        wait_until(lambda: seen(0, "bundle refused"), "the damaged bundle was not refused")
        set_link(link, second)
        wait_until(lambda: seen(0, "bundle proven"), "the good bundle was not proven")
        n_then = len(stream.announced)
        wait_until(lambda: seen(n_then + WAITING), "nothing was scored after the swap")
        wait_until(stream.run_dry, "not all was scored")
        assert idle._consumer.group_metadata().generation_id == generation
        daemon.terminate()
        assert daemon.wait(DEADLINE_S) == 0
    counts = count_scores(stream.scored)
    assert counts == Counter(target for number in stream.announced for target in targets(number))
    assert [key for key, _ in itertools.groupby(stream.bundles())] == [
        load_bundle(bundle).id,
        load_bundle(second).id,
    ]
