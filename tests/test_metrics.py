"""The list of metrics: names, labels, and what promtool thinks of them."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from latenight.metrics import CONTENT_TYPE, Metrics
from latenight.spectra import REASONS

if TYPE_CHECKING:
    from pathlib import Path

# The dozen that the rest of the deployment (rules, dashboard, runbooks) is written against.
NAMES = {
    "spectra_consumed_total", "spectra_scored_total", "spectra_ineligible_total", "dead_letters_total",
    "alerts_published_total", "alerts_suppressed_total", "transactions_total", "batch_rows",
    "stage_duration_seconds", "end_to_end_seconds", "oldest_unscored_age_seconds", "consumer_lag_records",
    "alert_budget_ratio", "model_info", "provider_fallback", "build_info", "heartbeat_timestamp_seconds",
    "bundles_refused_total", "shadow_spectra_total", "shadow_log_p_difference", "shadow_failures_total", "shadow_info",
}  # fmt: skip


def used() -> Metrics:
    """Metrics of a daemon that has scored one petal."""
    metrics = Metrics()
    metrics.spectra_consumed_total.inc(500)
    metrics.stage_duration_seconds.labels(stage="read").observe(0.4)
    metrics.consumer_lag_records.labels(partition="0").set(3)
    metrics.model_info.labels(bundle="ab12", provider="CPUExecutionProvider").set(1)
    return metrics


def test_every_attribute_is_exported_under_the_prefix_with_help() -> None:
    """Every metric is an attribute, is exported as latenight_<attribute>, and says what it means."""
    metrics = used()
    text = metrics.exposition().decode()
    exported = set(re.findall(r"^# HELP latenight_(\w+) \S+", text, re.MULTILINE))
    assert {name for name in exported if not name.endswith("_created")} == NAMES
    assert set(vars(metrics)) - {"registry"} == NAMES


def test_known_labels_start_at_zero() -> None:
    """A label value that is known beforehand is exported as 0 before its first event."""
    text = Metrics().exposition().decode()
    for reason in REASONS:
        assert f'latenight_spectra_ineligible_total{{reason="{reason}"}} 0.0' in text
    assert 'latenight_dead_letters_total{stage="read"} 0.0' in text
    assert 'latenight_transactions_total{result="aborted"} 0.0' in text
    assert 'latenight_stage_duration_seconds_count{stage="publish"} 0.0' in text


def test_two_daemons_do_not_share_values() -> None:
    """Metrics of two daemons in one process are independent."""
    first, second = Metrics(), Metrics()
    first.spectra_consumed_total.inc(500)
    assert "latenight_spectra_consumed_total 500.0" in first.exposition().decode()
    assert "latenight_spectra_consumed_total 0.0" in second.exposition().decode()


def test_the_version_is_exported() -> None:
    """The build_info metric names the installed version."""
    import latenight

    assert f'version="{latenight.__version__}"' in Metrics().exposition().decode()
    assert "version=0.0.4" in CONTENT_TYPE


def test_promtool_accepts_the_exposition(promtool: Path) -> None:
    """The linter of Prometheus finds nothing to say about the names, types and help texts."""
    result = subprocess.run(
        [promtool, "check", "metrics"], input=used().exposition(), capture_output=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
