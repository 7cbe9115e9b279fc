"""A comparison as a markdown table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latenight_train.evaluate_report import table

if TYPE_CHECKING:
    from collections.abc import Mapping

FAMILIES = ("artefact", "physical")


def markdown(comparison: Mapping[str, Any]) -> str:
    """One row per method, in the order in which they were measured.

    Args:
        comparison: the content of comparison.json.
    """
    head = [
        "method",
        "recall at 1 %",
        *FAMILIES,
        "at 0.1 %",
        *FAMILIES,
        "AUROC",
        "training [s]",
        "score [ms]",
    ]
    rows = [
        [
            name,
            *(_share(rates[rate].get(part)) for rate in ("0.01", "0.001") for part in ("mean", *FAMILIES)),
            _share(comparison["auroc"][name].get("mean")),
            _seconds(comparison["training_s"][name]),
            f"{comparison['scoring_ms'][name]:.2f}",
        ]
        for name, rates in comparison["recall"].items()
    ]  # fmt: skip
    spectra = comparison["spectra"]
    return (
        f"{table(head, rows)}\n\n"
        f"Seed {comparison['seed']}, {comparison['training_spectra']} training spectra; tested on "
        f"{spectra['ordinary']} ordinary spectra of other petals and on {spectra['injected']} injected anomalies.\n"
        "Recall: mean over the kinds at the measured rate of false alerts. Times: CPU seconds of the training (ours: "
        "of the network, by the clock), CPU milliseconds per spectrum.\n"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
