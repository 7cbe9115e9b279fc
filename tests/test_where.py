"""The language in which subscribers say which alerts they want."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latenight.where import parse_where

EXAMPLE: dict[str, Any] = json.loads((files("latenight") / "schema/alert-1.0-example.json").read_text())
ALERT: dict[str, Any] = {
    **EXAMPLE,
    "night": 20260101,
    "target": {**EXAMPLE["target"], "program": "dark", "fiber": None},
    "redrock": {**EXAMPLE["redrock"], "spectype": "QSO", "z": 2.5},
    "scores": {**EXAMPLE["scores"], "p_value": 1e-6},
}


@pytest.mark.parametrize(
    "text",
    [
        "scores.p_value < 1e-4 and target.program == 'dark'",
        "night == 20260101",
        "20260101 <= night <= 20260131",
        "redrock.spectype in ('QSO', 'STAR')",
        "redrock.spectype not in ['GALAXY']",
        "not (redrock.z < 2 or redrock.z > 3)",
        "target.fiber == None",
        "target.fiber != 5",
        "-1 < redrock.z",
        "explain.triage.label in ('unclear', 'physical')",
        "target.program",
        "True",
    ],
)
def test_what_holds_is_wanted(text: str) -> None:
    """Comparisons, chains, and, or, not, membership and constants mean what they mean in Python."""
    assert parse_where(text)(ALERT)


@pytest.mark.parametrize(
    "text",
    [
        "scores.p_value < 1e-9",
        "target.program == 'bright' or night == 20260102",
        "target.fiber < 5",
        "target.fiber >= 5",
        "not target.program",
        "20260101 < night < 20260131",
        "'sky' in target.fiber",
        "'sky' not in target.fiber",
        "target.fiber in 'dark, bright'",
        "target.fiber not in 'dark, bright'",
    ],
)
def test_what_does_not_hold_is_not(text: str) -> None:
    """A field that is null is neither smaller nor greater than anything, and nothing is in it or told to be out."""
    assert not parse_where(text)(ALERT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("score.p_value < 1", "no field 'score.p_value'"),
        ("p_value < 1", "no field 'p_value'"),
        ("__import__('os').system('true')", "neither a field, a constant"),
        ("target.__class__ == 1", "no field"),
        ("(lambda: 1)()", "neither a field, a constant"),
        ("[x for x in (1,)]", "neither a field, a constant"),
        ("2 ** 99999999 > 1", "neither a field, a constant"),
        ("night is None", "no such comparison: Is"),
        ("night = 1", "cannot read"),
        ("", "cannot read"),
        ("(" * 5000 + "night" + ")" * 5000, "cannot read|longer"),
        ("not " * 2400 + "night", "cannot read|recursion"),
    ],
)
def test_what_is_no_expression_is_refused_at_once(text: str, reason: str) -> None:
    """Unknown fields, calls, arithmetic and nonsense are errors before the first alert."""
    with pytest.raises(ValueError, match=reason):
        parse_where(text)


def test_comparing_a_number_with_a_text_is_an_error() -> None:
    """The error names the expression."""
    with pytest.raises(ValueError, match="program < 3"):
        parse_where("target.program < 3")(ALERT)


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    """Nothing that a user may type raises anything else."""
    with suppress(ValueError):
        assert callable(parse_where(text))
