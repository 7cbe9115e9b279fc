"""The README's results are what the evaluation measured, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latenight.errors import StartupError
from latenight.scores import CHANNELS, SCORES
from latenight_train.evaluate import PLACE
from latenight_train.inject import KINDS
from latenight_train.injected import TRUTH
from latenight_train.measures import measured
from latenight_train.results import BEGIN, END, main, results, with_results

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = st.text().filter(lambda text: BEGIN not in text and END not in text)


def fake_evaluation() -> dict[str, Any]:
    """An evaluation of random scores in which every cosmic and nothing else is found."""
    rng = np.random.default_rng(1)
    kinds = [*[""] * 700, *[kind for kind in KINDS for _ in range(6)]]
    trials = np.zeros(len(kinds), np.dtype([*PLACE, *TRUTH.descr, *SCORES.descr]))
    trials["kind"], trials["counts"] = kinds, True
    trials["cluster"], trials["matched_snr"] = np.arange(len(kinds)), 20.0
    trials["spectype"], trials["snr"] = "GALAXY", rng.lognormal(0, 1, len(kinds))
    for name in ("p_value", *(f"p_{channel}" for channel in CHANNELS)):
        trials[name] = rng.uniform(0.02, 1.0, len(kinds))
    trials["p_value"][trials["kind"] != ""] = 0.9
    trials["p_value"][trials["kind"] == "cosmic"] = 1e-6
    trials["channel"] = CHANNELS[0]
    training = {"spectra": 9876, "epochs": 1, "minutes": 1}
    return {"bundle": "ab" * 32, "seed": 17, "training": training, **measured(trials, seed=1)}


@given(TEXT, TEXT, TEXT, TEXT)
def test_only_what_lies_between_the_markers_changes(head: str, old: str, tail: str, new: str) -> None:
    """Text before and after stays to the letter, and writing the same results twice changes nothing more."""
    first = with_results(head + BEGIN + old + END + tail, new)
    assert first.startswith(head + BEGIN)
    assert first.endswith(END + tail)
    assert new.strip() in first
    assert with_results(first, new) == first


@pytest.mark.parametrize("readme", ["", BEGIN, END + BEGIN, BEGIN + END + BEGIN + END])
def test_missing_markers_are_an_error(readme: str) -> None:
    """A README without exactly one pair of markers is refused rather than overwritten."""
    with pytest.raises(StartupError, match="results"):
        with_results(readme, "new")


def test_the_project_readme_can_take_results(tmp_path: Path) -> None:
    """The README of the project has the markers, and gets figures, seed and sizes of the run."""
    copy, evaluation = tmp_path / "README.md", tmp_path / "evaluation.json"
    copy.write_text(README.read_text())
    evaluation.write_text(json.dumps(fake_evaluation()))
    main([str(copy), str(evaluation)])
    text = copy.read_text()
    for fact in (
        "9876",
        "700 ordinary spectra",
        "132 anomalies of 22 kinds",
        "seed 17",
        "abababababab",
        "cosmic 1.000",
    ):
        assert fact in text, fact


def test_the_recall_is_that_of_the_run() -> None:
    """One kind of 22 is found: the mean recall of p_value is .045, its artefacts' 1/13."""
    row = next(line for line in results(fake_evaluation()).splitlines() if line.startswith("| `p_value`"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:4] == [".045", ".045"]
    assert cells[5] == ".077"
