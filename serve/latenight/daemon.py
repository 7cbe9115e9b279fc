"""The daemon: poll -> read -> score -> decide -> publish and commit, as one transaction per batch.

Nothing is committed before everything that belongs to it is published, in the same transaction. So a process
that dies at any moment loses nothing and repeats nothing, and whatever goes wrong means: nothing happened.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import latenight
from latenight.ahead import ahead
from latenight.broker import Partition, Record, has_reached
from latenight.errors import TooManyDeadLetters, Unavailable
from latenight.outcome import CONTENT_JSON, Desk, Outcome, content_type, deal_with, read
from latenight.policy import PER
from latenight.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from latenight.broker import Message, Sink, Source
    from latenight.health import Health

log = logging.getLogger(__name__)

POLL_S = 1.0  # also how long a stop may wait while nothing comes
# Ten petals of a tile come at once, and the first alert should not wait for the last petal: a batch, which is one
# transaction, ends with the poll or with the message that is in hand after BATCH_S. A transaction takes 7 ms, a petal
# seconds on two cores and .1 s on a GPU.
MAX_MESSAGES, BATCH_S = 4, 1.0
HEARTBEAT_S = 60.0
# Waits of .5, 1, 2, .. 30, 30 s: 6 minutes in all, longer than a broker or a file server takes to restart.
RETRIES = 16
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
# The dead-letter ratio is taken over this many messages, and means nothing below MIN_WINDOW.
WINDOW, MIN_WINDOW = 100, 20


class Daemon:
    """The loop; it owns what must be remembered from batch to batch.

    Args:
        source: reads the spectra topic as a member of a group.
        sink: publishes in transactions.
        desk: deals with each message.
        health: what /healthz and /readyz say.
        stop: set when the daemon shall finish its batch and leave.
        max_dead_ratio: more dead letters than this, of the last messages, and the fault is ours.
    """

    def __init__(
        self, source: Source, sink: Sink, desk: Desk, *, health: Health, stop: Event, max_dead_ratio: float
    ) -> None:
        self._source = source
        self._sink = sink
        self._desk = desk
        self._health = health
        self._stop = stop
        self._max_dead_ratio = max_dead_ratio
        self._rejected: deque[bool] = deque(maxlen=WINDOW)
        self._next_heartbeat = 0.0
        self._n_scored = self._n_messages = 0
        self._progress = Progress(desk.now)
        self._partitions: set[Partition] = set()
        scorer = desk.scorer
        desk.metrics.alert_budget_ratio.set(desk.budget / PER)
        desk.metrics.model_info.labels(bundle=scorer.bundle_id, provider=scorer.provider).set(1)

    def run(
        self,
        *,
        drain: bool = False,
        until: Callable[[], bool] = lambda: False,
        follow: Callable[[list[Outcome]], None] | None = None,
    ) -> None:
        """Score messages until told to stop, or until what the topic holds now is done.

        Args:
            drain: end with what the topic holds now.
            until: asked whenever everything in hand is committed; true ends the loop.
            follow: told what became of each batch once that is committed.

        Raises:
            Unavailable: file system or broker stayed away for all retries; nothing of the batch is committed.
            TooManyDeadLetters: nothing of the batch is committed.
            PlaceLost: another process runs as this instance.
        """
        ends = self._source.ends() if drain else None
        failures = 0
        while not self._stop.is_set():
            # Waiting for a broker that is away is being alive: only a loop that hangs is not.
            self._show_life()
            try:
                if failures:
                    self._source.rewind()
                if ends is not None and has_reached(self._source.positions(), ends):
                    return
                if self._turn(follow) or not any(self._source.lag().values()):
                    failures = 0
                if until():
                    return
            except Unavailable as error:
                failures += 1
                if failures > RETRIES:
                    raise
                self._wait(failures, error)

    def _turn(self, follow: Callable[[list[Outcome]], None] | None) -> int:
        """One poll and what follows from it; returns the number of messages."""
        messages = self._source.poll(POLL_S, MAX_MESSAGES)
        started = self._health.clock()
        for outcomes in self._batches(messages):
            self._check_ratio(outcomes)
            self._publish(outcomes)
            self._rejected.extend(bool(outcome.rejected) for outcome in outcomes)
            self._account(outcomes, self._health.clock() - started)
            started = self._health.clock()
            if follow is not None:
                for outcome in outcomes:
                    self._show_life()
                    follow([outcome])
        self._show_lag()
        if self._desk.now() >= self._next_heartbeat:
            self._next_heartbeat = self._desk.now() + HEARTBEAT_S
            self._sink.publish([self._heartbeat()])
        self._tell_progress()
        return len(messages)

    def _batches(self, messages: list[Message]) -> Iterator[list[Outcome]]:
        """What becomes of the messages of one poll, in batches of about BATCH_S, or of those before a stop.

        The batch that is given must be committed before the next one is asked for.
        """
        if not messages:
            return
        batch: list[Outcome] = []
        begun = self._begin(messages)
        # All are read while the first is scored: a poll is small, and a file system that sleeps wakes up once.
        reading = ahead(lambda message: read(self._desk, message), messages, len(messages))
        for n, (message, spectra) in enumerate(reading, 1):
            if self._stop.is_set():  # a poll may take longer than a stop may
                break
            self._show_life()  # of each message: four of 10 000 spectra without redshifts take 10 minutes
            batch.append(deal_with(self._desk, message, spectra.result))
            if self._health.clock() - begun >= BATCH_S:
                yield batch
                batch, begun = [], self._begin(messages[n:])
        if batch:
            yield batch

    def _show_life(self) -> None:
        self._health.turn()
        self._desk.metrics.heartbeat_timestamp_seconds.set(self._desk.now())

    def _begin(self, waiting: list[Message]) -> float:
        """A batch of the first of these begins; returns when."""
        self._desk.repeats.begin()
        oldest = min((message.timestamp_ms / 1000 for message in waiting), default=self._desk.now())
        self._desk.metrics.oldest_unscored_age_seconds.set(max(0.0, self._desk.now() - oldest))
        return self._health.clock()

    def _publish(self, outcomes: list[Outcome]) -> None:
        metrics, result = self._desk.metrics, "aborted"
        records = [record for outcome in outcomes for record in outcome.records]
        try:
            with metrics.stage_duration_seconds.labels(stage="publish").time():
                self._sink.publish(records, self._source.consumed(outcome.message for outcome in outcomes))
            result = "committed"
            self._desk.repeats.keep()
        finally:
            metrics.transactions_total.labels(result=result).inc()

    def _check_ratio(self, outcomes: list[Outcome]) -> None:
        recent = [*self._rejected, *(bool(outcome.rejected) for outcome in outcomes)][-WINDOW:]
        if len(recent) >= MIN_WINDOW and sum(recent) > self._max_dead_ratio * len(recent):
            raise TooManyDeadLetters(
                f"{sum(recent)} of the last {len(recent)} messages were rejected: the fault is likely ours "
                "rather than theirs. The log names them and the reasons; this batch is not committed"
            )

    def _account(self, outcomes: list[Outcome], seconds: float) -> None:
        """Count a committed batch, and write its one line."""
        metrics, now = self._desk.metrics, self._desk.now()
        metrics.oldest_unscored_age_seconds.set(0)
        for outcome in outcomes:
            metrics.end_to_end_seconds.observe(max(0.0, now - outcome.message.timestamp_ms / 1000))
            if outcome.rejected:
                metrics.dead_letters_total.labels(stage=outcome.rejected).inc()
                continue
            metrics.batch_rows.observe(outcome.n_spectra)
            metrics.spectra_consumed_total.inc(outcome.n_spectra)
            metrics.spectra_scored_total.inc(outcome.n_scored)
            for kind, n in outcome.published.items():
                metrics.alerts_published_total.labels(kind=kind).inc(n)
            for reason, n in outcome.suppressed.items():
                metrics.alerts_suppressed_total.labels(reason=reason).inc(n)
            for reason, n in outcome.reasons.items():
                if reason:
                    metrics.spectra_ineligible_total.labels(reason=reason).inc(n)
        self._n_scored += sum(outcome.n_scored for outcome in outcomes)
        self._n_messages += len(outcomes)
        fields = {
            "messages": [str(outcome.message) for outcome in outcomes],
            "nights": sorted({outcome.night for outcome in outcomes if outcome.night >= 0}),
            "spectra": sum(outcome.n_spectra for outcome in outcomes),
            "scored": sum(outcome.n_scored for outcome in outcomes),
            "alerts": sum(outcome.published["spectrum"] for outcome in outcomes),
            "groups": sum(outcome.published["group"] for outcome in outcomes),
            "rejected": sum(bool(outcome.rejected) for outcome in outcomes),
            "seconds": round(seconds, 3),
        }
        log.info("batch", extra={"fields": fields})

    def _show_lag(self) -> None:
        metrics, lag = self._desk.metrics, self._source.lag()
        self._health.is_assigned = bool(lag)
        for partition in self._partitions - lag.keys():
            metrics.consumer_lag_records.remove(str(partition[1]))
        for partition, n in lag.items():
            metrics.consumer_lag_records.labels(partition=str(partition[1])).set(n)
        self._partitions = set(lag)

    def _tell_progress(self) -> None:
        """While messages wait, say once a minute how many of our partitions, and when they will be done."""
        left = sum(self._source.lag().values())
        fields = self._progress.report(self._n_messages, left)
        if fields and left:
            log.info("backlog", extra={"fields": fields})

    def _heartbeat(self) -> Record:
        content = {
            "created": datetime.fromtimestamp(self._desk.now(), UTC).isoformat(timespec="milliseconds"),
            "bundle": self._desk.scorer.bundle_id,
            "provider": self._desk.scorer.provider,
            "version": latenight.__version__,
            "scored": self._n_scored,
            "lag": sum(self._source.lag().values()),
        }
        value = json.dumps(content).encode()
        return Record(self._desk.topics.status, None, value, content_type(CONTENT_JSON))

    def _wait(self, failures: int, error: Unavailable) -> None:
        delay = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (failures - 1))
        log.warning(
            "unavailable", extra={"fields": {"reason": str(error), "attempt": failures, "retry_s": delay}}
        )
        self._stop.wait(delay)
