"""What does a second bundle say of the same spectra, and would it have told of the same ones?

It looks at a batch when everything of the main bundle is committed, reads each message again, and publishes its scores
in a topic of their own, where nobody takes them for the scores. It alerts on nothing, and whatever happens to it is
counted and logged, and that is all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.broker import PlaceLost, Record
from latenight.errors import BadInput, StartupError
from latenight.outcome import content_type
from latenight.policy import alert_threshold
from latenight.proof import prove
from latenight.scorer import load_scorer
from latenight.wire import CONTENT_ARROW, decode_scores, encode_scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from threading import Event

    from numpy.typing import NDArray

    from latenight.broker import Sink
    from latenight.outcome import Desk, Outcome, SpectraScorer

log = logging.getLogger(__name__)

TINY = 1e-300  # p_values end there


@dataclass(frozen=True)
class Agreement:
    """How two bundles judge the same spectra.

    Attributes:
        alerts: "both", "main", "shadow" or "neither" -> number of spectra under the threshold of alerts.
        difference: (n,) abs(log10(p_value of one / p_value of the other)).
    """

    alerts: dict[str, int]
    difference: NDArray[np.float64]


def agreement(main: np.ndarray, shadow: np.ndarray, threshold: float) -> Agreement:
    """Compare the p_values of the same spectra, (N,) each; where one is missing nothing is compared.

    Args:
        main: of the bundle that is served.
        shadow: of the other one.
        threshold: spectra below it alert.
    """
    has_both = np.isfinite(main) & np.isfinite(shadow)
    p, q = main[has_both], shadow[has_both]
    below, below_too = p < threshold, q < threshold
    alerts = {
        "both": below & below_too,
        "main": below & ~below_too,
        "shadow": ~below & below_too,
        "neither": ~below & ~below_too,
    }
    difference = np.abs(np.log10(np.maximum(p, TINY) / np.maximum(q, TINY)))
    return Agreement({name: int(np.count_nonzero(which)) for name, which in alerts.items()}, difference)


class Shadow:
    """Scores what the daemon has scored, with another bundle.

    Args:
        scorer: of the other bundle.
        desk: how the daemon deals with messages.
        sink: publishes the scores.
        stop: set when the daemon shall leave; the shadow leaves at once.
    """

    def __init__(self, scorer: SpectraScorer, desk: Desk, sink: Sink, stop: Event) -> None:
        self._scorer = scorer
        self._desk = desk
        self._sink = sink
        self._stop = stop
        desk.metrics.shadow_info.labels(bundle=scorer.bundle_id, provider=scorer.provider).set(1)

    def follow(self, outcomes: Sequence[Outcome]) -> None:
        """Score the messages of a committed batch.

        Raises:
            PlaceLost: another process runs as this instance.
        """
        for outcome in outcomes:
            if outcome.rejected or self._stop.is_set():
                continue
            try:
                self._score(outcome)
            except PlaceLost:
                raise
            except Exception as error:  # noqa: BLE001  (whatever it is, the scores that count are out)
                self._desk.metrics.shadow_failures_total.inc()
                fields = {"message": str(outcome.message), "reason": repr(error)}
                log.warning("shadow failed", extra={"fields": fields})

    def _score(self, outcome: Outcome) -> None:
        message, metrics = outcome.message, self._desk.metrics
        spectra = self._desk.read(message)
        scores = self._scorer.score(spectra)
        main = decode_scores(outcome.records[0].value)
        if not np.array_equal(main["targetid"], spectra.table["targetid"]):
            raise BadInput("other spectra than those that were scored")
        headers = (("input", str(message).encode()), ("shadow-of", self._desk.scorer.bundle_id.encode()))
        table = encode_scores(spectra, scores)
        record = Record(
            self._desk.topics.shadow, message.key, table, (*content_type(CONTENT_ARROW), *headers)
        )
        self._sink.publish([record])
        found = agreement(main["p_value"], scores.table["p_value"], alert_threshold(self._desk.budget))
        for name, n in found.alerts.items():
            metrics.shadow_spectra_total.labels(alerts=name).inc(n)
        for value in found.difference:
            metrics.shadow_log_p_difference.observe(value)


def load_shadow(
    path: Path, *, device: str, threads: int | None, desk: Desk, sink: Sink, stop: Event
) -> Shadow | None:
    """The shadow; None, logged and counted, if its bundle is no good: the daemon serves without it.

    Args:
        path: of its bundle; a link is resolved once.
        device: "cpu" or "cuda".
        threads: as for load_scorer.
        desk: as for Shadow.
        sink: as for Shadow.
        stop: as for Shadow.
    """
    path = path.resolve()
    try:
        prove(path, device, stop)  # in a child process first: should it crash, it crashes there
        scorer = load_scorer(path, device=device, threads=threads)
    except (StartupError, OSError) as error:
        desk.metrics.shadow_failures_total.inc()
        log.warning("shadow refused", extra={"fields": {"path": str(path), "reason": str(error)}})
        return None
    return Shadow(scorer, desk, sink, stop)
