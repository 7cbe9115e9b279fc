"""Every metric that latenight exports: one list, and the only module that imports prometheus_client.

One prefix ``latenight_``, base units, ``_total`` for counters. No label is unbounded: a TARGETID, a TILEID or
a file belongs to the log, never to a label. Labels whose values are known start at zero, so that a rate sees
the first event and a series that is missing always means a daemon that is missing.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

import latenight
from latenight.spectra import REASONS

if TYPE_CHECKING:
    from prometheus_client.metrics import MetricWrapperBase

# The text format that every Prometheus reads; what `Metrics.exposition` returns.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STAGES = ("read", "score", "publish")  # publish includes the commit

# A petal is 500 spectra, a healpix file often fewer, a poll a few petals.
ROW_BUCKETS = (1, 10, 50, 100, 250, 500, 1000, 2500, 5000)
# 1 ms (an empty commit) to 30 s (a file system that hangs); a petal on two cores takes about a second.
STAGE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# The aim is 3 s, the rules complain after 900 s, and an hour is a night that nobody watched.
END_TO_END_BUCKETS = (0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
# Two sessions of one bundle agree to .01; p_values are uniform to 1e-3 and alerts begin there.
DECADE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

Kind = TypeVar("Kind", bound="MetricWrapperBase")


class Metrics:
    """All metrics of one daemon, in a registry of their own.

    Attributes are the names without the prefix: ``metrics.spectra_consumed_total.inc(500)``,
    ``metrics.stage_duration_seconds.labels(stage="read").observe(0.4)``. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # process_resident_memory_bytes, process_cpu_seconds_total, ...

        def counter(name: str, text: str, **label: tuple[str, ...]) -> Counter:
            return _with_zeros(Counter(f"latenight_{name}", text, tuple(label), registry=registry), label)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"latenight_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], **label: tuple[str, ...]
        ) -> Histogram:
            metric = Histogram(f"latenight_{name}", text, tuple(label), buckets=buckets, registry=registry)
            return _with_zeros(metric, label)

        self.spectra_consumed_total = counter(
            "spectra_consumed_total", "Spectra read from messages, eligible or not."
        )
        self.spectra_scored_total = counter("spectra_scored_total", "Eligible spectra that got a p_value.")
        self.spectra_ineligible_total = counter(
            "spectra_ineligible_total", "Spectra kept out of the ranking, by reason.", reason=REASONS
        )
        self.dead_letters_total = counter(
            "dead_letters_total",
            "Messages set aside as bad input, by the stage that refused.",
            stage=("decode", "read", "score"),
        )
        self.alerts_published_total = counter(
            "alerts_published_total", "Alert packets published, by kind.", kind=("spectrum", "group")
        )
        self.alerts_suppressed_total = counter(
            "alerts_suppressed_total",
            "Spectra below the threshold that were not published one by one, by reason.",
            reason=("group", "budget", "repeat"),
        )
        self.transactions_total = counter(
            "transactions_total", "Kafka transactions, by result.", result=("committed", "aborted")
        )
        self.batch_rows = histogram("batch_rows", "Spectra in one scored message.", ROW_BUCKETS)
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds",
            "Time that one batch spent in a stage; publish includes the commit.",
            STAGE_BUCKETS,
            stage=STAGES,
        )
        self.end_to_end_seconds = histogram(
            "end_to_end_seconds",
            "From the time stamp of a message to the commit of its scores.",
            END_TO_END_BUCKETS,
        )
        self.oldest_unscored_age_seconds = gauge(
            "oldest_unscored_age_seconds",
            "Age of the oldest announced message that is not scored and committed; 0 when none waits.",
        )
        self.consumer_lag_records = gauge(
            "consumer_lag_records", "Messages between our position and the end of the partition.", "partition"
        )
        self.alert_budget_ratio = gauge(
            "alert_budget_ratio",
            "Expected false alerts per eligible spectrum (the option --budget / 100 000).",
        )
        self.model_info = gauge(
            "model_info",
            "Always 1; says which bundle scores on which execution provider.",
            "bundle",
            "provider",
        )
        self.bundles_refused_total = counter(
            "bundles_refused_total", "Bundles that the link was set to and that failed their proof."
        )
        self.provider_fallback = gauge(
            "provider_fallback", "1 when a GPU build of the runtime scores on the CPU, else 0."
        )
        self.shadow_spectra_total = counter(
            "shadow_spectra_total",
            "Spectra scored by main and shadow bundle, by who puts them under the threshold of alerts.",
            alerts=("both", "main", "shadow", "neither"),
        )
        self.shadow_log_p_difference = histogram(
            "shadow_log_p_difference",
            "Decades between the p_values that main and shadow bundle give the same spectrum.",
            DECADE_BUCKETS,
        )
        self.shadow_failures_total = counter(
            "shadow_failures_total",
            "Messages that the shadow bundle did not score, and bundles that failed as shadow.",
        )
        self.shadow_info = gauge(
            "shadow_info", "1 for the bundle that scores as shadow.", "bundle", "provider"
        )
        self.build_info = gauge("build_info", "Always 1; says which version runs.", "version", "python")
        self.heartbeat_timestamp_seconds = gauge(
            "heartbeat_timestamp_seconds", "Unix time of the last turn of the daemon's loop."
        )
        self.build_info.labels(version=latenight.__version__, python=sys.version.split()[0]).set(1)
        self.heartbeat_timestamp_seconds.set(time.time())

    def exposition(self) -> bytes:
        """The current values in Prometheus text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


def _with_zeros(metric: Kind, label: dict[str, tuple[str, ...]]) -> Kind:
    """Create the series of every known label value."""
    for name, values in label.items():
        for value in values:
            metric.labels(**{name: value})
    return metric
