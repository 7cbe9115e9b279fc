"""The choice of alerts among the spectra of a message."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.policy import (
    DEFAULT_BUDGET,
    GUARD_MIN,
    PETAL_ROWS,
    Decision,
    alert_threshold,
    decide,
    max_per_message,
)
from tests.fakes import DEAD_ROW, SKY_ROWS, FakeScorer, add_spikes, make_spectra

if TYPE_CHECKING:
    from latenight.scores import Scores
    from latenight.spectra import Spectra


def decide_spiked(spectra: Spectra, budget: float = DEFAULT_BUDGET) -> tuple[Scores, Decision]:
    scores = FakeScorer().score(spectra)
    return scores, decide(spectra, scores, budget)


def test_the_budget_is_a_number_per_100000_spectra() -> None:
    """A budget of 100 false alerts per 100 000 spectra is a threshold of 0.001."""
    assert alert_threshold(100.0) == pytest.approx(1e-3)


def test_on_ordinary_spectra_the_alerts_keep_to_the_budget() -> None:
    """With uniform p values the number of alerts is the budget within Poisson noise."""
    spectra = make_spectra(400, seed=3)
    scores = FakeScorer().score(spectra)
    rng = np.random.default_rng(1)
    n_alerts, n_eligible = 0, 0
    for _ in range(50):
        table = scores.table.copy()
        table["p_value"] = np.where(table["eligible"], rng.uniform(size=len(table)), np.nan)
        decision = decide(spectra, replace(scores, table=table), 1000.0)
        n_alerts += len(decision.rows)
        n_eligible += decision.n_eligible
    expected = n_eligible * 1000.0 / 100_000.0
    assert abs(n_alerts - expected) < 4.0 * np.sqrt(expected)


def test_alerts_are_ordered_from_the_oddest() -> None:
    """Rows come in ascending order of p_value and are exactly the eligible ones under the threshold."""
    spectra = add_spikes(make_spectra(40, seed=1), [30, 8, 21])
    scores, decision = decide_spiked(spectra, 1e-3)
    assert set(decision.rows.tolist()) == {8, 21, 30}
    assert np.all(np.diff(scores.table["p_value"][decision.rows]) >= 0)
    assert decision.n_suppressed == 0


def test_ineligible_rows_never_alert() -> None:
    """A sky fibre or a dead fibre does not alert, whatever its p value says."""
    spectra = make_spectra(20, seed=2)
    scores = FakeScorer().score(spectra)
    table = scores.table.copy()
    table["p_value"] = 0.0
    decision = decide(spectra, replace(scores, table=table), DEFAULT_BUDGET)
    assert not {*SKY_ROWS, DEAD_ROW} & set(decision.rows.tolist())
    assert decision.n_eligible == 20 - len(SKY_ROWS) - 1


def test_a_missing_p_value_never_alerts() -> None:
    """An eligible spectrum without a p_value does not alert."""
    spectra = make_spectra(10, seed=2)
    scores = FakeScorer().score(spectra)
    table = scores.table.copy()
    table["p_value"] = np.nan
    assert len(decide(spectra, replace(scores, table=table), 1e5).rows) == 0


def test_a_flood_is_cut_to_the_oddest_and_counted() -> None:
    """A message of unknown petals in which every spectrum fires gives max_per_message alerts, and counts the others."""
    spectra = make_spectra(100, seed=4, petal=-1)
    spectra = add_spikes(spectra, range(100))
    scores, decision = decide_spiked(spectra)
    fires = np.sort(scores.table["p_value"][scores.table["eligible"]])
    assert len(decision.rows) == max_per_message(DEFAULT_BUDGET) == GUARD_MIN
    np.testing.assert_array_equal(scores.table["p_value"][decision.rows], fires[:GUARD_MIN])
    assert decision.n_suppressed == len(fires) - GUARD_MIN


def test_members_of_a_group_are_not_told_one_by_one() -> None:
    """Fibres that fire at the same wavelength are one group; the alert of another wavelength stays one by itself."""
    spectra = add_spikes(add_spikes(make_spectra(100, seed=4), range(20, 60)), [80], pixel=1000)
    _, decision = decide_spiked(spectra, 1e-3)
    (group,) = decision.groups
    assert set(group.rows.tolist()) == set(range(20, 60))
    assert decision.rows.tolist() == [80]
    assert (decision.n_grouped, decision.n_suppressed) == (40, 0)


def test_a_large_budget_raises_the_guard() -> None:
    """The guard never cuts below ten times the expected number of false alerts of a petal."""
    assert max_per_message(2000.0) == 10 * PETAL_ROWS * 2000 / 100_000


def test_the_choice_does_not_depend_on_the_order_of_rows() -> None:
    """Equal p values are ordered by TARGETID: shuffled rows give the same targets in the same order."""
    spectra = make_spectra(60, seed=5)
    scores = FakeScorer().score(spectra)
    table = scores.table.copy()
    table["p_value"] = np.where(table["eligible"], 1e-7, np.nan)
    spectra.table["petal"] = -1  # no groups
    order = np.random.default_rng(0).permutation(60)
    shuffled = spectra.take(order)
    one = decide(spectra, replace(scores, table=table), DEFAULT_BUDGET)
    other = decide(shuffled, replace(scores, table=table[order]), DEFAULT_BUDGET)
    np.testing.assert_array_equal(spectra.table["targetid"][one.rows], shuffled.table["targetid"][other.rows])
