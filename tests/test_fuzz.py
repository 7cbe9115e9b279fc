"""The short form of `make fuzz`: some thousand broken messages and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fuzz.targets import Bench, run

if TYPE_CHECKING:
    from pathlib import Path

SEED = 2026  # another than that of `make fuzz`


@pytest.mark.parametrize(("target", "n"), [("message", 1000), ("file", 500)])
def test_broken_input_is_refused_or_read_and_nothing_else(tmp_path: Path, target: str, n: int) -> None:
    """Each input gives spectra that keep their contract, or BadInput; both happen."""
    bench = Bench(tmp_path)
    became = {run(bench, target, SEED, index) for index in range(n)}
    assert {"read", "refused"} <= became <= {"read", "refused", "unavailable"}
