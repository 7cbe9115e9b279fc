"""The measures of an evaluation on trials whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.scores import CHANNELS, SCORES
from latenight_train.evaluate import PLACE
from latenight_train.inject import FAMILIES, KINDS, family
from latenight_train.injected import TRUTH
from latenight_train.measures import (
    anomaly_scores,
    correlations,
    false_alerts,
    measured,
    petals,
    recall_in_bins,
    with_means,
)

N = 3000


def trials_of(kinds: list[str], seed: int = 1) -> np.ndarray:
    """Trials whose p-values are uniform, whatever the kind."""
    rng = np.random.default_rng(seed)
    trials = np.zeros(len(kinds), np.dtype([*PLACE, *TRUTH.descr, *SCORES.descr]))
    trials["kind"], trials["cluster"] = kinds, np.arange(len(kinds))
    trials["spectype"] = rng.choice(["GALAXY", "QSO", "STAR"], len(kinds), p=[0.7, 0.1, 0.2])
    trials["snr"] = rng.lognormal(0.0, 1.0, len(kinds))
    for name in ("p_value", *(f"p_{channel}" for channel in CHANNELS)):
        trials[name] = rng.uniform(1e-9, 1.0, len(kinds))
    trials["channel"] = CHANNELS[0]
    return trials


def test_scores_grow_with_strangeness_and_missing_ones_never_alert() -> None:
    """A smaller p and a smaller log_prob are stranger, a larger distance too; NaN lies below everything."""
    trials = trials_of(["", "cosmic", "cosmic"])
    trials["p_value"], trials["log_prob"] = [0.5, 1e-9, np.nan], [-1.0, -9.0, np.nan]
    trials["knn_distance"] = [1.0, 5.0, np.nan]
    scores = anomaly_scores(trials)
    for name in ("p_value", "log_prob", "knn_distance"):
        assert scores[name][1] > scores[name][0] > scores[name][2] == -np.inf, name
    assert next(iter(scores)) == "p_value"
    assert "p_extrapolated" not in scores


def test_the_cells_of_a_class_share_its_spectra() -> None:
    """Every ordinary spectrum lies in one cell of its class; cells hold 300 or are the whole class."""
    ordinary = trials_of([""] * N)
    found = false_alerts(ordinary)
    assert found[0]["spectype"] == "all"
    assert found[0]["n"] == N
    for spectype in ("GALAXY", "QSO", "STAR"):
        whole, *cells = [cell for cell in found if cell["spectype"] == spectype]
        assert whole["n"] == np.count_nonzero(ordinary["spectype"] == spectype)
        assert not cells or sum(cell["n"] for cell in cells) == whole["n"]
        assert all(cell["n"] >= 299 for cell in cells)
    assert len([cell for cell in found if cell["spectype"] == "GALAXY"]) == 6


def test_honest_p_values_give_their_nominal_rate() -> None:
    """The interval of uniform p-values holds 1 % and .1 % overall; p-values ten times too small do not pass."""
    ordinary = trials_of([""] * N)
    low, high = false_alerts(ordinary)[0]["nominal"]["0.01"]["interval"]
    assert low < 0.01 < high
    ordinary["p_value"] /= 10
    assert false_alerts(ordinary)[0]["nominal"]["0.01"]["interval"][0] > 0.05


def test_a_bad_petal_shows() -> None:
    """Each petal has its number of spectra and of alerts."""
    ordinary = trials_of([""] * 300)
    ordinary["message"], ordinary["p_value"] = np.repeat([2, 5, 6], 100), 0.5
    ordinary["p_value"][[120, 130]] = 1e-3
    assert petals(ordinary) == [
        {"message": 2, "n": 100, "alerts": 0},
        {"message": 5, "n": 100, "alerts": 2},
        {"message": 6, "n": 100, "alerts": 0},
    ]


def test_a_score_that_ranks_brightness_is_exposed() -> None:
    """Rank correlation is near 0 for honest p-values and 1 where p falls with S/N."""
    ordinary = trials_of([""] * N)
    assert abs(correlations(ordinary)["all"]) < 0.06
    ordinary["p_value"] = 1 / (1 + ordinary["snr"])
    assert correlations(ordinary) == pytest.approx({"all": 1, "GALAXY": 1, "QSO": 1, "STAR": 1}, abs=1e-6)


def test_recall_is_measured_where_the_anomaly_lies() -> None:
    """If only amplitudes above 20 are found, recall is 1 in the bins above and 0 below, for each kind and for all."""
    kinds = [""] * 1000 + ["cosmic", "bal"] * 100
    trials = trials_of(kinds)
    trials["matched_snr"] = np.where(
        trials["kind"] == "", 0, np.random.default_rng(2).uniform(6, 60, len(kinds))
    )
    values = np.where(trials["matched_snr"] >= 20, 9.0, -1.0)
    found = recall_in_bins(trials, values, trials["matched_snr"], (0.0, 10.0, 20.0, 50.0, np.inf))
    for cells in (found["all"], *found["kinds"].values()):
        assert [cell["recall"] for cell in cells] == [0, 0, 1, 1]
    assert sum(cell["n"] for cell in found["all"]) == 200
    assert found["edges"] == [0, 10, 20, 50, None]


def test_each_kind_weighs_the_same_in_a_mean() -> None:
    """A mean is over kinds, not over trials, and each family has its own."""
    found = with_means({"cosmic": 1.0, "bad_column": 0.0, "bal": 0.2, "wrong_z": 0.4})
    assert found["mean"] == pytest.approx(0.4)
    assert (found["artefact"], found["physical"], found["wrong_z"]) == pytest.approx((0.5, 0.2, 0.4))
    assert {family(kind) for kind in KINDS} == set(FAMILIES)
    assert sum(family(kind) == "artefact" for kind in KINDS) == 13


def test_blind_scores_are_called_blind() -> None:
    """Uniform p-values for anomalies: recall near the rate, AUROC near a half, purity near the prevalence."""
    found = measured(trials_of([""] * N + list(KINDS) * 60), seed=1)
    assert found["recall"]["p_value"]["0.01"]["mean"] == pytest.approx(0.01, abs=0.01)
    assert found["purity"]["purity"]["p_value"] == pytest.approx(0.015, abs=0.03)
    inside = [low <= 0.5 <= high for low, high in (k["auroc"]["interval"] for k in found["kinds"].values())]
    assert np.mean(inside) > 0.7
    low, high = found["mean_recall"]["p_knn"]["lead"]
    assert low < 0 < high
