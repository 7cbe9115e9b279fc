"""Writes measured results into the README: `make results` runs what they come from.

`python -m latenight_train.results README.md evaluation.json [comparison.json]`. The text between the markers is
replaced; it comes from the files alone, so that no figure is typed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latenight.errors import LatenightError, StartupError
from latenight_train.compare_report import markdown
from latenight_train.evaluate_report import false_alerts_table, number, table
from latenight_train.inject import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def with_results(readme: str, text: str) -> str:
    """The README with the text between its markers.

    Raises:
        StartupError: the markers are not there, once each and in order.
    """
    head, found, rest = readme.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not (found and closed) or BEGIN in tail or END in head + tail:
        raise StartupError(f"the README needs one {BEGIN} and, after it, one {END}")
    return f"{head}{BEGIN}\n{text.strip()}\n{END}{tail}"


def results(evaluation: Mapping[str, Any]) -> str:
    """What the README says of an evaluation (the content of evaluation.json)."""
    n, training = evaluation["spectra"], evaluation["training"]
    intro = (
        f"Trained on {training['spectra']} spectra; {sum(n['injected'].values())} anomalies of "
        f"{len(n['injected'])} kinds in {n['ordinary']} ordinary spectra of other nights, seed {evaluation['seed']}, "
        f"bundle `{evaluation['bundle'][:12]}`. Recall is the mean over the kinds at a measured rate of false alerts."
    )
    parts = [
        intro,
        _recall(evaluation),
        _kinds(evaluation),
        _calibration(evaluation),
        false_alerts_table(evaluation),
    ]
    return "\n\n".join(parts)


def _recall(evaluation: Mapping[str, Any]) -> str:
    head = [
        "score",
        "recall at 0.1 %",
        "at 1 %",
        "95 %",
        *(f"{name}, 1 %" for name in FAMILIES),
        "purity of top 50",
    ]
    rows = []
    for name, rates in evaluation["recall"].items():
        low, high = evaluation["mean_recall"][name]["interval"]
        means = [rates["0.001"]["mean"], rates["0.01"]["mean"]]
        families = [number(rates["0.01"].get(family)) for family in FAMILIES]
        purity = number(evaluation["purity"]["purity"][name])
        rows.append([f"`{name}`", *map(number, means), f"{number(low)} to {number(high)}", *families, purity])
    return table(head, rows)


def _kinds(evaluation: Mapping[str, Any]) -> str:
    recall = {kind: evaluation["recall"]["p_value"]["0.01"][kind] for kind in evaluation["kinds"]}
    ranked = sorted(recall, key=lambda kind: -recall[kind])
    return f"`p_value` at 1 %, by kind: {', '.join(f'{kind} {number(recall[kind])}' for kind in ranked)}."


def _calibration(evaluation: Mapping[str, Any]) -> str:
    correlation = evaluation["rank_correlation"]["all"]
    return (
        "False alerts at nominal rates, in per cent with 95 % intervals, by spectype and S/N "
        f"(rank correlation of the score with S/N {correlation:+.2f}):"
    )


def main(arguments: Sequence[str]) -> None:
    """Rewrite the README from the files that are named after it."""
    readme, evaluation, *comparison = map(Path, arguments)
    text = results(json.loads(evaluation.read_text()))
    if comparison:
        text += "\n\nPeers on the same spectra:\n\n" + markdown(json.loads(comparison[0].read_text()))
    readme.write_text(with_results(readme.read_text(), text))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LatenightError as error:
        sys.exit(f"latenight: {error}")
