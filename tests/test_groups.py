"""Faults that many fibres of a petal share, found among the scores of one message."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latenight.groups import FALSE_GROUPS, INFLATION, MIN_MEMBERS, PREVALENCE, Group, find_groups, log_tail
from latenight.scores import empty_scores
from latenight.spectra import empty_table

THRESHOLD = 1e-3
N = 500
STATISTICS = [f"statistic {k}" for k in range(60)]
Tables = tuple[np.ndarray, np.ndarray]


def ordinary_petal(rng: np.random.Generator, petal: int = 3) -> Tables:
    """Table and scores of a petal as bad as an ordinary one may be, a tenth of it not eligible.

    1.5 % are anomalies, the p_values of the others are five times too small, and 20 % fire at no wavelength.
    """
    table = empty_table(N)
    table["tileid"], table["petal"] = 7, petal
    table["fiber"] = N * petal + np.arange(N)
    table["targetid"] = rng.permutation(10**6)[:N]
    scores = empty_scores(np.where(rng.random(N) < 0.1, "sky", ""))
    p = rng.random(N)
    p = np.where(p < 1 / (1 + INFLATION), p / INFLATION, p)
    scores["p_value"] = np.where(rng.random(N) < PREVALENCE, 1e-6 * p, p)
    scores["p_value"][~scores["eligible"]] = np.nan
    scores["wavelength"], scores["width"] = rng.uniform(3600, 9824, N), 0.8 * 2.0 ** rng.integers(0, 10, N)
    nowhere = rng.random(N) < 0.2
    scores["wavelength"][nowhere] = scores["width"][nowhere] = 0.0
    scores["sign"] = rng.choice([-1, 1], N)
    scores["statistic"] = rng.choice(STATISTICS, N)
    return table, scores


def uniform_petal(rng: np.random.Generator) -> Tables:
    """A petal without anomalies and with perfect calibration."""
    table, scores = ordinary_petal(rng)
    scores["p_value"] = np.where(scores["eligible"], rng.random(N), np.nan)
    return table, scores


def strike(
    rng: np.random.Generator,
    petal: Tables,
    fibers: np.ndarray,
    wavelengths: tuple[float, float] = (0.0, 0.0),
    *,
    width: float = 20.0,
    p: tuple[float, float] = (1e-8, 1e-3),
) -> np.ndarray:
    """Give some fibres a fault at a random place of a range, (0, 0) for none; returns the eligible rows among them."""
    scores, n = petal[1], len(fibers)
    scores["p_value"][fibers] = 10 ** rng.uniform(np.log10(p[0]), np.log10(p[1]), n)
    scores["wavelength"][fibers] = rng.uniform(*wavelengths, n)
    scores["width"][fibers] = width if wavelengths[0] else 0.0
    return np.asarray(fibers[scores["eligible"][fibers]])


def only(groups: list[Group]) -> Group:
    (group,) = groups
    return group


def test_an_ordinary_petal_has_no_group() -> None:
    """In 300 petals, half uniform and half as bad as an ordinary one may be, nothing fires beyond chance."""
    assert 300 * FALSE_GROUPS < 0.05  # what chance may do here
    rng = np.random.default_rng(1)
    for _ in range(150):
        assert find_groups(*ordinary_petal(rng), THRESHOLD) == []
        assert find_groups(*uniform_petal(rng), THRESHOLD) == []


def test_one_object_in_many_exposures_is_no_fault_of_its_petal() -> None:
    """What is strange in each of eight exposures of one fibre is eight spectra; a fault of an exposure is a group."""
    rng = np.random.default_rng(4)
    exposures = [uniform_petal(rng) for _ in range(8)]
    for exposure in exposures:
        exposure[1]["eligible"][40] = True
        strike(rng, exposure, np.array([40]), (6000.0, 6001.0))
    table, scores = (np.concatenate(columns) for columns in zip(*exposures, strict=True))
    assert find_groups(table, scores, THRESHOLD) == []
    members = strike(rng, exposures[2], np.arange(100, 130), (6000.0, 6001.0))
    table, scores = (np.concatenate(columns) for columns in zip(*exposures, strict=True))
    assert set(only(find_groups(table, scores, THRESHOLD)).rows) == set(2 * N + members)


def test_the_bound_holds_for_the_binomial_tail() -> None:
    """The bound lies above the exact tail of the binomial distribution, by less than a factor of 50 here."""
    n, q = 40, 0.05
    p = np.array([1.0])
    for _ in range(n):
        p = np.convolve(p, [1 - q, q])
    k = np.arange(3, n + 1)
    exact = np.log(np.cumsum(p[::-1])[::-1][k])
    bound = log_tail(k.astype(float), np.array(n), np.array(q))
    assert np.all(bound >= exact - 1e-9)
    assert np.all(bound <= exact + np.log(50))
    assert log_tail(np.array([2.0, 0.0]), np.array(n), np.array(q)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("fibers", "wavelengths", "width", "p"),
    [
        (np.arange(500), (3600.0, 9824.0), 20.0, (1e-8, 1e-3)),
        (np.arange(500), (0.0, 0.0), 0.0, (1e-8, 1e-3)),
        (np.arange(500), (7600.0, 9800.0), 20.0, (1.1e-3, 9e-3)),  # each of them only a little strange
        (np.arange(0, 500, 4), (8300.0, 8340.0), 5.0, (1e-8, 1e-3)),
        (np.arange(250), (6675.0, 6675.0), 890.0, (1e-8, 1e-3)),
        (np.arange(30, 130), (3600.0, 5700.0), 40.0, (1e-8, 1e-3)),
        (np.arange(203, 221), (5000.0, 5010.0), 5.0, (1e-8, 1e-3)),
    ],
    ids=["petal", "nowhere", "weak", "line", "amplifier", "fibres", "column"],
)
def test_one_fault_is_one_group(
    fibers: np.ndarray, wavelengths: tuple[float, float], width: float, p: tuple[float, float]
) -> None:
    """Nine in ten of the spectra that a fault strikes are one group, with at most a tenth of others or ten."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        petal = ordinary_petal(rng)
        struck = strike(rng, petal, fibers, wavelengths, width=width, p=p)
        group = only(find_groups(*petal, THRESHOLD))
        assert np.isin(struck, group.rows).mean() > 0.9
        assert len(group.rows) <= max(1.1 * len(struck), len(struck) + 10)
        assert group.p_value < FALSE_GROUPS


def test_a_group_says_where_it_is() -> None:
    """Fibres, arm, wavelengths, statistic and sign of the members are told, in one line, too."""
    rng = np.random.default_rng(2)
    petal = uniform_petal(rng)
    fibers = np.arange(100, 140)
    petal[1]["statistic"][fibers], petal[1]["sign"][fibers] = "offset_r_low", -1
    strike(rng, petal, fibers, (6000.0, 6010.0))
    petal[1]["eligible"][[100, 139]] = True
    group = only(find_groups(*petal, THRESHOLD))
    assert (group.tileid, group.petal, group.fibers) == (7, 3, (1600, 1639))
    assert (group.arm, group.statistic, group.sign) == ("r", "offset_r_low", -1)
    assert group.wavelengths is not None
    assert group.wavelengths == pytest.approx((5991.0, 6019.0), abs=2.0)
    assert group.n_eligible == np.count_nonzero(petal[1]["eligible"][100:140])
    assert f"{len(group.rows)} of {group.n_eligible} spectra of petal 3" in str(group)
    assert "fibres 1600-1639, arm r, 59" in str(group)


def test_fibres_in_which_the_same_statistic_fires_are_a_group() -> None:
    """Scattered fibres that fire at no wavelength are found by the name of what fires, and the others are not."""
    rng = np.random.default_rng(2)
    for name in ("arm_shift", ""):
        petal = uniform_petal(rng)
        fibers = rng.permutation(N)[:24]
        struck = strike(rng, petal, fibers, p=(1e-8, 1e-4))
        if name:
            petal[1]["statistic"][fibers] = name
            group = only(find_groups(*petal, THRESHOLD))
            assert (group.statistic, set(group.rows)) == (name, set(struck))
        else:
            assert find_groups(*petal, THRESHOLD) == []


def test_members_come_from_the_strangest_on_and_once() -> None:
    """The rows of a group ascend in p_value and none is twice there."""
    rng = np.random.default_rng(3)
    petal = ordinary_petal(rng)
    strike(rng, petal, np.arange(300), (8000.0, 8500.0))
    group = only(find_groups(*petal, THRESHOLD))
    assert np.all(np.diff(petal[1]["p_value"][group.rows]) >= 0)
    assert len(set(group.rows.tolist())) == len(group.rows)


def test_few_very_strange_fibres_are_found_by_the_threshold_of_alerts() -> None:
    """Scattered fibres far below the threshold are a group, though they are no more than chance puts below 0.01."""
    rng = np.random.default_rng(10)
    petal = uniform_petal(rng)
    struck = strike(rng, petal, rng.permutation(N)[:50], p=(1e-9, 1e-4))
    assert set(struck) <= set(only(find_groups(*petal, THRESHOLD)).rows)


def test_a_line_that_upsets_other_statistics_too_is_one_fault() -> None:
    """Fibres that fire at a line, and others between them that fire at no wavelength, are joined in one group."""
    rng = np.random.default_rng(11)
    petal = uniform_petal(rng)
    at_line = strike(rng, petal, np.arange(0, 300), (8340.0, 8350.0))
    nowhere = strike(rng, petal, np.arange(300, 400))
    group = only(find_groups(*petal, THRESHOLD))
    assert {*at_line, *nowhere} <= set(group.rows)
    assert group.wavelengths is None


def test_two_ranges_of_one_arm_are_one_fault() -> None:
    """Fibres that fire at two places of an arm, and at no other, are one group; those of another arm are a second."""
    rng = np.random.default_rng(12)
    petal = uniform_petal(rng)
    low = strike(rng, petal, np.arange(0, 500, 3), (8340.0, 8350.0))
    high = strike(rng, petal, np.arange(1, 500, 3), (9400.0, 9410.0))
    blue = strike(rng, petal, np.arange(2, 500, 9), (4100.0, 4110.0))
    groups = {group.arm: set(group.rows) for group in find_groups(*petal, THRESHOLD)}
    assert set(groups) == {"b", "z"}
    assert {*low, *high} <= groups["z"]
    assert set(blue) <= groups["b"]


def test_what_fires_elsewhere_is_not_a_member() -> None:
    """Spectra at other wavelengths than the fault's, and ordinary ones at its own, are left alone."""
    rng = np.random.default_rng(4)
    petal = uniform_petal(rng)
    petal[1]["p_value"] = np.where(petal[1]["eligible"], np.maximum(petal[1]["p_value"], 0.02), np.nan)
    petal[1]["eligible"][[50, 60]] = True
    strike(rng, petal, np.arange(0, 500, 2), (8000.0, 8010.0))
    strike(rng, petal, np.array([50, 60]), (4000.0, 5000.0), p=(1e-9, 1e-8))
    petal[1]["wavelength"][51] = 8005.0
    group = only(find_groups(*petal, THRESHOLD))
    assert not {50, 51, 60} & set(group.rows.tolist())


def test_two_faults_far_apart_are_two_groups() -> None:
    """An amplifier and, 150 fibres away, neighbours in the same arm are told apart, and share no member."""
    rng = np.random.default_rng(6)
    petal = uniform_petal(rng)
    blue = strike(rng, petal, np.arange(0, 250), (4100.0, 4200.0), width=100.0)
    other = strike(rng, petal, np.arange(400, 430), (4500.0, 4520.0))
    groups = find_groups(*petal, THRESHOLD)
    assert len(groups) == 2
    assert [set(rows) <= set(group.rows) for rows, group in zip((blue, other), groups, strict=True)] == [
        True
    ] * 2
    assert not set(groups[0].rows) & set(groups[1].rows)


def test_other_petals_of_the_message_are_judged_by_themselves() -> None:
    """A bad petal beside a good one, or on another tile, leaves the good one's spectra alone."""
    rng = np.random.default_rng(7)
    bad, good, far = ordinary_petal(rng), ordinary_petal(rng, petal=4), ordinary_petal(rng)
    far[0]["tileid"] = 8
    strike(rng, bad, np.arange(500), (8000.0, 8500.0))
    table, scores = (np.concatenate(parts) for parts in zip(good, bad, far, strict=True))
    group = only(find_groups(table, scores, THRESHOLD))
    assert (group.tileid, group.petal) == (7, 3)
    assert group.rows.min() >= N
    assert group.rows.max() < 2 * N


def test_without_petals_there_is_no_group() -> None:
    """Rows whose petal is not known may come from anywhere and are never grouped."""
    rng = np.random.default_rng(8)
    petal = ordinary_petal(rng)
    strike(rng, petal, np.arange(500), (8000.0, 8500.0))
    petal[0]["petal"] = -1
    assert find_groups(*petal, THRESHOLD) == []


def test_without_fibres_a_petal_is_still_judged_as_a_whole() -> None:
    """A fault of a petal is found where no FIBER is known; the group then names no fibres."""
    rng = np.random.default_rng(8)
    petal = ordinary_petal(rng)
    strike(rng, petal, np.arange(500), (8000.0, 8500.0))
    petal[0]["fiber"] = -1
    group = only(find_groups(*petal, THRESHOLD))
    assert group.fibers == (-1, -1)
    assert "fibres" not in str(group)


def test_a_budget_at_which_everything_alerts_gives_no_group() -> None:
    """With a threshold of 1 every spectrum fires, and no place holds more of them than others."""
    assert find_groups(*uniform_petal(np.random.default_rng(9)), 1.0) == []


def test_few_fibres_are_told_one_by_one() -> None:
    """Fewer than MIN_MEMBERS spectra are no group, however strange they are and however near each other."""
    rng = np.random.default_rng(9)
    for n in (MIN_MEMBERS - 1, MIN_MEMBERS):
        petal = uniform_petal(rng)
        petal[1]["eligible"] = True
        petal[1]["p_value"] = 0.5
        strike(rng, petal, np.arange(100, 100 + n), (6000.0, 6001.0), p=(1e-30, 1e-20))
        assert len(find_groups(*petal, THRESHOLD)) == (n == MIN_MEMBERS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_nothing(seed: int) -> None:
    """Shuffled rows give the same groups of the same targets in the same order."""
    rng = np.random.default_rng(seed)
    petal = ordinary_petal(rng)
    start = int(rng.integers(0, 400))
    wave = float(rng.uniform(3700, 9700))
    strike(rng, petal, np.arange(start, start + int(rng.integers(1, 100))), (wave, wave + 50.0))
    strike(rng, petal, rng.permutation(N)[:20], (5577.0, 5577.0))
    order = rng.permutation(N)
    one = find_groups(*petal, THRESHOLD)
    other = find_groups(petal[0][order], petal[1][order], THRESHOLD)
    targets = petal[0]["targetid"]
    assert [targets[group.rows].tolist() for group in one] == [
        targets[order][group.rows].tolist() for group in other
    ]
    assert [str(group) for group in one] == [str(group) for group in other]
    members = [row for group in one for row in group.rows.tolist()]
    assert len(members) == len(set(members))
