"""Triage is learned from injected anomalies, and its confusion is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.channels import STATISTICS
from latenight.errors import StartupError
from latenight_train import learn_triage as learner
from latenight_train.learn_triage import RIDGE, learn_triage, regression
from latenight_train.simulate import Night, simulate
from latenight_train.triaged import confusion

if TYPE_CHECKING:
    from pathlib import Path


def test_the_regression_is_at_its_optimum() -> None:
    """The gradient of the balanced, penalised likelihood vanishes at the weights."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (400, 5))
    is_artefact = rng.random(400) < 1 / (1 + np.exp(-(4 * x[:, 0] - 4 * x[:, 1] + 1)))
    weights, constant = regression(x, is_artefact)
    n = np.count_nonzero(is_artefact)
    balance = np.where(is_artefact, 200 / n, 200 / (400 - n))
    error = balance * (is_artefact - 1 / (1 + np.exp(-(x @ weights + constant))))
    np.testing.assert_allclose(x.T @ error, RIDGE * weights, atol=1e-6)
    assert abs(error.sum()) < 1e-4
    assert weights[0] > 2 > -2 > weights[1]


def test_one_sort_of_anomaly_teaches_nothing() -> None:
    """Without an artefact, or with nothing else, there is no regression."""
    with pytest.raises(StartupError, match="0 of 3 alerts are artefacts"):
        regression(np.ones((3, 2)), np.zeros(3, bool))


def test_labels_are_counted_by_kind_and_family() -> None:
    """Only alerts count; wrong redshifts and false alerts are neither right nor wrong."""
    rows = [
        ("cosmic", 0.9, True),
        ("cosmic", 0.5, True),
        ("bad_column", 0.1, True),
        ("bal", 0.1, True),
        ("bal", 0.9, False),
        ("wrong_z", 0.9, True),
        ("", 0.9, True),
    ]
    trials = np.array([row[:2] for row in rows], [("kind", "U16"), ("artefact_probability", "f4")])
    found = confusion(trials, np.array([row[2] for row in rows]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["unclear"] == pytest.approx(1 / 4)
    assert found["families"]["artefact"] == {"artefact": 1, "physical": 1, "unclear": 1}
    assert found["families"]["wrong_z"] == {"artefact": 1, "physical": 0, "unclear": 0}
    assert list(found["kinds"]) == ["", "cosmic", "bad_column", "bal", "wrong_z"]


def test_weights_are_learned_from_a_night(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night gives a finite weight for every statistic, and says what it was learned from."""
    simulate(Night(tmp_path / "night", 20260105, 1, 1, 40, 11, 0.0), processes=1)
    monkeypatch.setattr(learner, "ALERTS", 0.5)  # the untrained bundle finds little
    found = learn_triage(bundle, [tmp_path / "night"], rounds=4)
    assert list(found["weights"]) == [statistic.name for statistic in STATISTICS]
    assert np.isfinite(list(found["weights"].values())).all()
    alerts = found["learned_from"]["alerts"]
    assert sum(alerts.values()) >= 5
    assert "wrong_z" not in alerts
