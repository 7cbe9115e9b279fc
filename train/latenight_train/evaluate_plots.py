"""An evaluation as one picture: recall by kind, by score, by amplitude; rates of false alerts."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from latenight_train.evaluate_report import PERCENT, span
from latenight_train.inject import FAMILIES, family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

COLORS = dict(zip(FAMILIES, ("#1f6fb4", "#c0392b", "#6c3483"), strict=True))
GOAL = (0.7, 1.4)  # per cent of false alerts at a nominal 1 %: what calls itself calibrated
MIN_TRIALS = 5  # a recall of fewer says nothing


def plot_evaluation(evaluation: Mapping[str, Any]) -> bytes:
    """The picture of an evaluation (the content of evaluation.json), PNG."""
    figure = Figure(figsize=(14.0, 11.0), dpi=100, layout="constrained")
    panels = figure.subplots(2, 2)
    _draw_kinds(panels[0, 0], evaluation)
    _draw_scores(panels[0, 1], evaluation)
    _draw_amplitudes(panels[1, 0], evaluation["by_amplitude"])
    _draw_false_alerts(panels[1, 1], evaluation)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_kinds(axes: Axes, evaluation: Mapping[str, Any]) -> None:
    """Recall of p_value by kind with its interval; a tick marks the best single channel."""
    recall = evaluation["recall"]
    channels = [name for name in recall if name.startswith("p_") and name != "p_value"]
    kinds = sorted(evaluation["kinds"], key=lambda kind: recall["p_value"]["0.01"][kind])
    for place, kind in enumerate(kinds):
        low, high = evaluation["kinds"][kind]["recall"]["interval"]
        axes.barh(place, recall["p_value"]["0.01"][kind], color=COLORS[family(kind)], alpha=0.7)
        axes.plot([low, high], [place, place], color="0.2", linewidth=1.0)
        best = max(recall[name]["0.01"][kind] for name in channels)
        axes.plot(best, place, "|", color="black", markersize=10, markeredgewidth=2)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_title("recall at 1 % measured false alerts, 95 %; tick: best single channel", fontsize=9)


def _draw_scores(axes: Axes, evaluation: Mapping[str, Any]) -> None:
    """Mean recall over the kinds against the measured rate of false alerts, for each score."""
    for name, rates in evaluation["recall"].items():
        values = [rates[rate].get("mean", np.nan) for rate in PERCENT]
        width = 2.5 if name == "p_value" else 1.0
        axes.plot(
            [100 * float(rate) for rate in PERCENT], values, "o-", label=name, linewidth=width, markersize=3
        )
    axes.set_xscale("log")
    axes.set_xlabel("measured false alerts [%]")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, ncols=2)
    axes.set_title("mean recall over the kinds", fontsize=9)


def _draw_amplitudes(axes: Axes, bins: Mapping[str, Any]) -> None:
    """Recall against the matched-filter S/N of the anomaly: each kind, and all."""
    places = range(len(bins["edges"]) - 1)

    def values(cells: list[dict[str, Any]]) -> list[float]:
        return [cell["recall"] if cell["n"] >= MIN_TRIALS else np.nan for cell in cells]

    for kind, cells in bins["kinds"].items():
        axes.plot(places, values(cells), color=COLORS[family(kind)], alpha=0.35, linewidth=1.0)
    axes.plot(places, values(bins["all"]), "o-", color="black", linewidth=2.5, label="all")
    for name, color in COLORS.items():
        axes.plot([], [], color=color, label=name)
    axes.set_xticks(places, [span(low, high) for low, high in pairwise(bins["edges"])], fontsize=8)
    axes.set_xlabel("matched-filter S/N")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=8)
    axes.set_title("recall at 1 % measured false alerts, by kind", fontsize=9)


def _draw_false_alerts(axes: Axes, evaluation: Mapping[str, Any]) -> None:
    """Rate of false alerts at a nominal 1 % in every cell, with its interval."""
    cells = evaluation["false_alerts"]
    for place, cell in enumerate(cells):
        found = cell["nominal"]["0.01"]
        low, high = found["interval"]
        axes.plot([place, place], [100 * low, 100 * high], color="0.4", linewidth=1.5)
        axes.plot(place, 100 * found["rate"], "o", color="#1f6fb4")
    axes.axhspan(*GOAL, color="#2e8b57", alpha=0.2, linewidth=0)
    names = [f"{cell['spectype']} {span(*cell['snr'])} ({cell['n']})" for cell in cells]
    axes.set_xticks(range(len(cells)), names, fontsize=7, rotation=70, ha="right")
    axes.set_ylim(bottom=0)
    axes.set_title("% of ordinary spectra with p_value < 0.01, by spectype and S/N (n)", fontsize=9)
