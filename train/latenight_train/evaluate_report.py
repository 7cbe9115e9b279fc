"""An evaluation as markdown tables."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from latenight.triage import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PERCENT = {"0.001": "0.1 %", "0.005": "0.5 %", "0.01": "1 %", "0.02": "2 %"}


def markdown(evaluation: Mapping[str, Any]) -> str:
    """All tables of an evaluation (the content of evaluation.json)."""
    n = evaluation["spectra"]
    head = (
        f"bundle {evaluation['bundle'][:12]}, seed {evaluation['seed']}: {n['ordinary']} ordinary spectra, "
        f"{sum(n['injected'].values())} anomalies of {len(n['injected'])} kinds, "
        f"median matched-filter S/N {n['median_matched_snr'] or 0:.3g}"
    )
    parts = {
        "Recall by score": scores_table(evaluation),
        "Recall by kind (p_value)": kinds_table(evaluation),
        "False alerts": false_alerts_table(evaluation),
        "Recall at 1 % by matched-filter S/N of the anomaly": bins_table(evaluation["by_amplitude"]),
        "Recall at 1 % by S/N of the spectrum": bins_table(evaluation["by_snr"]),
        "Strongest channel of the alerts at 1 %": winners_table(evaluation),
        "Triage of the alerts at 1 %": triage_table(evaluation),
    }
    sections = [f"## {title}\n{body}" for title, body in parts.items()]
    return "\n\n".join([head, *sections, _closing(evaluation)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scores_table(evaluation: Mapping[str, Any]) -> str:
    """Mean recall over the kinds of each score, and of each family of kinds at 1 %."""
    families = ("artefact", "physical", "wrong_z")
    head = ["score", *(f"at {text}" for text in PERCENT.values()), *(f"{name} at 1 %" for name in families)]
    head += ["95 % at 1 %", "p_value leads by", "purity"]
    purity = evaluation["purity"].get("purity", {})
    rows = [
        [
            name,
            *(number(rates[rate].get("mean")) for rate in PERCENT),
            *(number(rates["0.01"].get(part)) for part in families),
            _interval(evaluation["mean_recall"].get(name, {}).get("interval")),
            _interval(evaluation["mean_recall"].get(name, {}).get("lead")),
            number(purity.get(name)),
        ]
        for name, rates in evaluation["recall"].items()
    ]
    return table(head, rows)


def kinds_table(evaluation: Mapping[str, Any]) -> str:
    """Every kind: recall of p_value at each rate of false alerts, AUROC, average precision, best other score."""
    recall = evaluation["recall"]
    head = ["kind", "n", *PERCENT.values(), "95 % at 1 %", "AUROC", "95 %", "AP", "best channel at 1 %"]
    rows = []
    for kind, found in evaluation["kinds"].items():
        channels = {
            name: rates["0.01"][kind]
            for name, rates in recall.items()
            if name.startswith("p_") and name != "p_value"
        }
        best = max(channels, key=channels.__getitem__)
        rows.append(
            [
                kind,
                str(found["n"]),
                *(number(recall["p_value"][rate][kind]) for rate in PERCENT),
                _interval(found["recall"]["interval"]),
                number(found["auroc"]["value"]),
                _interval(found["auroc"]["interval"]),
                number(found["average_precision"]["value"]),
                f"{best.removeprefix('p_')} {number(channels[best])}",
            ]
        )
    return table(head, rows)


def false_alerts_table(evaluation: Mapping[str, Any]) -> str:
    """Rates of false alerts at nominal 1 % and 0.1 % in every cell, per cent with 95 % intervals."""
    rows = []
    for cell in evaluation["false_alerts"]:
        rates = cell["nominal"]
        texts = [
            f"{100 * rates[p]['rate']:.2f} ({100 * rates[p]['interval'][0]:.2f}-{100 * rates[p]['interval'][1]:.2f})"
            for p in ("0.01", "0.001")
        ]
        rows.append([cell["spectype"], span(*cell["snr"]), str(cell["n"]), *texts])
    return table(["spectype", "S/N", "n", "% at p < 0.01", "% at p < 0.001"], rows)


def bins_table(bins: Mapping[str, Any]) -> str:
    """Recall of every kind in the bins, with the number of anomalies."""
    edges = bins["edges"]
    head = ["kind", *(span(low, high) for low, high in pairwise(edges))]
    rows = [
        [name, *(f"{number(cell['recall'])} ({cell['n']})" for cell in cells)]
        for name, cells in [("all", bins["all"]), *bins["kinds"].items()]
    ]
    return table(head, rows)


def winners_table(evaluation: Mapping[str, Any]) -> str:
    """How often each channel is the strongest, by kind."""
    winners = evaluation["winners"]
    channels = sorted({channel for counts in winners.values() for channel in counts})
    rows = [
        [kind or "(false alerts)", *(str(counts.get(channel, "")) for channel in channels)]
        for kind, counts in winners.items()
    ]
    return table(["kind", *channels], rows)


def triage_table(evaluation: Mapping[str, Any]) -> str:
    """How often the alerts of each family and kind are called artefact, physical or unclear."""
    found = evaluation["triage"]
    rows = {f"all {name}": counts for name, counts in found["families"].items()}
    rows |= {kind or "(false alerts)": counts for kind, counts in found["kinds"].items()}
    body = table(
        ["kind", *LABELS], [[name, *(str(counts[text]) for text in LABELS)] for name, counts in rows.items()]
    )
    return (
        f"Right are {number(found['accuracy'])} of the artefacts and physical anomalies that are called one or the "
        f"other; unclear are {number(found['unclear'])}.\n\n{body}"
    )


def _closing(evaluation: Mapping[str, Any]) -> str:
    correlation = ", ".join(f"{name} {value:+.3f}" for name, value in evaluation["rank_correlation"].items())
    n = evaluation["spectra"]["ordinary"]
    rates = sorted(100 * petal["alerts"] / petal["n"] for petal in evaluation["petals"])
    return (
        f"False alerts at p < 0.01 by petal: {rates[0]:.1f} to {rates[-1]:.1f} %, median "
        f"{rates[len(rates) // 2]:.1f} %, {len(rates)} petals.\n"
        f"{n} ordinary spectra resolve rates of false alerts down to {100 / n:.2g} %; at lower ones, a recall is "
        "what lies above all of them.\n"
        f"Rank correlation of -log10 p_value with S/N on ordinary spectra: {correlation or 'too few spectra'}.\n"
        f"Purity: share of anomalies in the top {evaluation['purity'].get('top')} of "
        f"{evaluation['purity'].get('n')} spectra at a prevalence of {evaluation['purity'].get('prevalence')}."
    )


def number(value: float | None) -> str:
    """A share with three digits, - where there is none."""
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else " to ".join(number(end) for end in ends)


def span(low: float | None, high: float | None) -> str:
    """A range of numbers in words; None is no limit."""
    if low is None and high is None:
        return "all"
    if low is None:
        return f"< {high:.3g}"
    return f">= {low:.3g}" if high is None else f"{low:.3g}-{high:.3g}"
