"""What becomes of one message: its scores and alerts, or a dead letter."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from latenight.alert import alert_key, encode_alert, make_alert, make_group_alert
from latenight.broker import Headers, Message, Record
from latenight.deadletters import dead_letter
from latenight.errors import BadInput, Gone
from latenight.policy import Decision, alert_threshold, decide
from latenight.repeats import Repeats
from latenight.wire import CONTENT_ARROW, encode_scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from latenight.broker.topics import Topics
    from latenight.metrics import Metrics
    from latenight.scores import Scores
    from latenight.spectra import Spectra

log = logging.getLogger(__name__)

CONTENT_JSON = "application/json"
# A file that is missing so long after its announcement will not come: NFS clients remember for up to 60 s that a
# name did not exist (acdirmax, nfs(5)).
GONE_AFTER_S = 120.0


class SpectraScorer(Protocol):
    """What the daemon needs of latenight.scorer.Scorer."""

    bundle_id: str
    provider: str

    def score(self, spectra: Spectra, explain_below: float = 0.0) -> Scores:
        """Scores of one message; rows with p_value below `explain_below` get their reconstruction."""


@dataclass(frozen=True)
class Judged:
    """The spectra of one message, scored and judged.

    Attributes:
        scores: what the scorer says, and the group of each member of one.
        decision: what the policy makes of it.
        packets: the alert packet of each group and each row of the decision.
    """

    scores: Scores
    decision: Decision
    packets: list[dict[str, Any]]


def judge(spectra: Spectra, scorer: SpectraScorer, *, budget: float, created: datetime) -> Judged:
    """Score spectra and choose their alerts: the one way for files (score) and for messages (serve).

    Args:
        spectra: what one message holds.
        scorer: the loaded bundle.
        budget: expected false alerts per 100 000 eligible spectra.
        created: now, with a time zone.
    """
    scores = scorer.score(spectra, explain_below=alert_threshold(budget))
    decision = decide(spectra, scores, budget)
    groups = [make_group_alert(spectra, scores, group, created=created) for group in decision.groups]
    for group, packet in zip(decision.groups, groups, strict=True):
        scores.table["group"][group.rows] = packet["alert_id"]
    packets = [make_alert(spectra, scores, int(row), created=created) for row in decision.rows]
    return Judged(scores, decision, groups + packets)


@dataclass(frozen=True)
class Outcome:
    """What became of one message: the records to publish, and what is counted once they are.

    Attributes:
        message: the message.
        records: its scores and alerts, or its dead letter.
        rejected: the stage that refused it ("decode", "read", "score"), "" if none did.
        night: night of the first spectrum, -1 if unknown.
        reasons: reason -> number of spectra, "" for those that are eligible.
        n_scored: spectra that got a p_value.
        published: kind of alert -> number of them among the records.
        suppressed: reason -> number of spectra under the threshold that were not published one by one.
    """

    message: Message
    records: tuple[Record, ...]
    rejected: str = ""
    night: int = -1
    reasons: Counter[str] = field(default_factory=Counter)
    n_scored: int = 0
    published: Counter[str] = field(default_factory=Counter)
    suppressed: Counter[str] = field(default_factory=Counter)

    @property
    def n_spectra(self) -> int:
        """How many spectra the message held."""
        return self.reasons.total()


@dataclass(frozen=True)
class Desk:
    """What it takes to deal with a message.

    Attributes:
        topics: the names of the topics.
        read: message -> its spectra.
        scorer: spectra -> scores.
        budget: expected false alerts per 100 000 eligible spectra.
        metrics: what is counted and timed.
        now: the clock, seconds since 1970 UTC.
        repeats: what is published already.
    """

    topics: Topics
    read: Callable[[Message], Spectra]
    scorer: SpectraScorer
    budget: float
    metrics: Metrics
    now: Callable[[], float] = time.time
    repeats: Repeats = field(default_factory=Repeats)


def read(desk: Desk, message: Message) -> Spectra:
    """The spectra of a message; in any thread.

    Raises:
        BadInput, Gone, Unavailable: as Desk.read.
    """
    with desk.metrics.stage_duration_seconds.labels(stage="read").time():
        return desk.read(message)


def deal_with(desk: Desk, message: Message, spectra_of: Callable[[], Spectra]) -> Outcome:
    """Score and judge one message; bad input becomes a dead letter, and so does a file that is gone.

    Args:
        desk: what it takes.
        message: the message.
        spectra_of: gives its spectra, or raises what `read` raised.

    Raises:
        Unavailable: the file cannot be read now.
    """
    if message.damage:
        return _reject(desk, message, "decode", BadInput(message.damage))
    try:
        spectra = spectra_of()
    except BadInput as error:
        return _reject(desk, message, "read", error)
    except Gone as error:
        # Its age tells, not the number of tries: that survives a restart, and a backlog of deleted files does
        # not cost a wait each. A clock that is ahead of ours by less counts as ours; one of the far future buys no
        # patience.
        if abs(desk.now() - message.timestamp_ms / 1000) < GONE_AFTER_S:
            raise
        return _reject(desk, message, "read", error)
    try:
        with desk.metrics.stage_duration_seconds.labels(stage="score").time():
            return _accept(desk, message, spectra)
    except BadInput as error:
        return _reject(desk, message, "score", error)


def _accept(desk: Desk, message: Message, spectra: Spectra) -> Outcome:
    created = datetime.fromtimestamp(desk.now(), UTC)
    judged = judge(spectra, desk.scorer, budget=desk.budget, created=created)
    origin = ("input", str(message).encode())
    table = encode_scores(spectra, judged.scores)
    scored = Record(desk.topics.scores, message.key, table, (*content_type(CONTENT_ARROW), origin))
    packets = [packet for packet in map(desk.repeats.fresh, judged.packets) if packet is not None]
    alerts = [
        Record(
            desk.topics.alerts,
            alert_key(packet),
            encode_alert(packet),
            (*content_type(CONTENT_JSON), ("alert-id", packet["alert_id"].encode()), origin),
        )
        for packet in packets
    ]
    desk.repeats.offer(packets)
    decision, published = judged.decision, Counter(packet["kind"] for packet in packets)
    n_repeated = len(decision.rows) - published["spectrum"]
    return Outcome(
        message,
        (scored, *alerts),
        night=int(spectra.table["night"][0]) if len(spectra) else -1,
        reasons=Counter(judged.scores.table["reason"].tolist()),
        n_scored=int(np.count_nonzero(np.isfinite(judged.scores.table["p_value"]))),
        published=published,
        suppressed=Counter(group=decision.n_grouped, budget=decision.n_suppressed, repeat=n_repeated),
    )


def _reject(desk: Desk, message: Message, stage: str, error: BadInput | Gone) -> Outcome:
    """A dead letter instead of scores."""
    fields = {"message": str(message), "stage": stage, "reason": str(error)}
    log.warning("rejected", extra={"fields": fields})
    letter = dead_letter(desk.topics.deadletters, message, stage, str(error))
    return Outcome(message, (letter,), rejected=stage)


def content_type(name: str) -> Headers:
    """The header that says what the payload is."""
    return (("content-type", name.encode()),)
