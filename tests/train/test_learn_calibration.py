"""p-values hold their nominal rate in every class and at every signal-to-noise."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.calibration import Calibration, calibrated, from_arrays
from latenight.channels import FAMILIES as CHANNELS
from latenight.channels import FAMILY, STATISTICS
from latenight.spectra import SPECTYPES
from latenight_train.learn_calibration import fit_calibration

GALAXY, QSO, STAR, UNKNOWN = range(len(SPECTYPES))
N_STATISTICS = len(STATISTICS)
RELATIVES = [np.array([k]) for k in range(len(SPECTYPES))]


def sample(n: int, seed: int, *, ordinary_tails: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated statistics whose level and spread depend on class and S/N.

    As among ordinary spectra 6 % stray almost twice as far as the others, unless told otherwise.
    """
    rng = np.random.default_rng(seed)
    group = rng.choice([GALAXY, QSO, STAR, UNKNOWN], n, p=[0.4, 0.2, 0.2, 0.2])
    snr = rng.lognormal(0.8, 0.9, n).astype(np.float32)
    level = 0.2 * group + 0.3 * np.log(snr)
    shared = rng.standard_normal((n, 1))
    noise = 0.5 * shared + rng.standard_normal((n, N_STATISTICS))
    if ordinary_tails:
        noise *= np.where(rng.random((n, 1)) < 0.06, 1.8, 1)
    return np.exp(level[:, None] + 0.05 * (1 + snr[:, None] ** 0.3) * noise), group, snr


def calibration_of(seed: int) -> Calibration:
    return fit_calibration(*sample(40_000, seed), RELATIVES, np.arange(40_000) % 3)


CALIBRATION = calibration_of(1)


def test_the_nominal_rate_holds_in_every_class_and_at_every_snr() -> None:
    """Of ordinary spectra .7-1.4 % fall below p = 1 % by each of three calibrations, .4-1.8 % of a cell on average."""
    statistics, group, snr = sample(60_000, seed=2)
    quintile = np.searchsorted(np.quantile(snr, [0.2, 0.4, 0.6, 0.8]), snr)
    rates = np.zeros((len(SPECTYPES), 5))
    for other in (None, 11, 12):
        calibration = CALIBRATION if other is None else calibration_of(other)
        low = calibrated(calibration, statistics, group, snr).p_value < 0.01
        assert 0.007 < low.mean() < 0.014
        rates += [
            [low[(group == k) & (quintile == q)].mean() / 3 for q in range(5)] for k in range(len(SPECTYPES))
        ]
    assert ((rates > 0.004) & (rates < 0.018)).all(), rates


def test_light_tails_make_the_rate_low_not_high() -> None:
    """Where no ordinary spectrum strays, .35-1 % fall below p = 1 %, and at most .1 % below .1 %."""
    calibration = fit_calibration(*sample(20_000, 21, ordinary_tails=False), RELATIVES, np.arange(20_000) % 3)
    p_value = calibrated(calibration, *sample(40_000, 22, ordinary_tails=False)).p_value
    assert 0.0035 < (p_value < 0.01).mean() < 0.01
    assert (p_value < 0.001).mean() < 0.001


def test_tails_that_grow_with_snr_are_allowed_for() -> None:
    """Where only the brightest fifth strays, .25-2 % of it and .25-1.2 % of the others fall below p = 1 %."""

    def strays(seed: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        statistics, group, snr = sample(n, seed, ordinary_tails=False)
        rng = np.random.default_rng(seed + 1)
        some = (snr > np.quantile(snr, 0.8)) & (rng.random(len(snr)) < 0.05)
        return np.where(some[:, None], statistics**1.3, statistics), group, snr

    calibration = fit_calibration(*strays(31), RELATIVES, np.arange(20_000) % 3)
    statistics, group, snr = strays(41, 60_000)
    low = calibrated(calibration, statistics, group, snr).p_value < 0.01
    bright = snr > np.quantile(snr, 0.8)
    # Five pairs of seeds gave .39-.83 % and .31-.56 %: low, for the rate is held where ordinary spectra stray as well.
    assert 0.0025 < low[bright].mean() < 0.02
    assert 0.0025 < low[~bright].mean() < 0.012


def test_scatter_that_grows_with_snr_is_followed_beyond_the_brightest_bin() -> None:
    """Of the brightest 2 %, .5-2.5 % fall below p = 1 % by each statistic where models err by a share of the light."""

    def grows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        snr = rng.lognormal(0.8, 0.9, n).astype(np.float32)
        noise = (0.05 + 0.015 * snr[:, None]) * rng.standard_normal((n, N_STATISTICS))
        return np.exp(noise), np.zeros(n, np.int64), snr

    calibration = fit_calibration(*grows(4000, 61), [np.array([0])], np.arange(4000) % 3)
    statistics, group, snr = grows(40_000, 62)
    low = calibrated(calibration, statistics, group, snr).statistics < 0.01
    assert (
        0.005 < low[snr > np.quantile(snr, 0.98)].mean() < 0.025
    )  # .035 where values stay those of the last bin


def test_single_statistics_with_heavy_tails_are_known_as_such() -> None:
    """Statistics that stray as the square of others fall below p = .01 % in up to .04 %, others in .003 % or more."""

    def heavy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        noise = np.random.default_rng(seed).standard_normal((n, N_STATISTICS))
        noise[:, ::2] *= np.abs(noise[:, ::2])
        return np.exp(0.1 * noise), np.zeros(n, np.int64), np.ones(n, np.float32)

    calibration = fit_calibration(*heavy(20_000, 51), [np.array([0])], np.arange(20_000) % 3)
    rare = (calibrated(calibration, *heavy(40_000, 52)).statistics < 1e-4).mean(axis=0)
    assert rare[::2].mean() < 4e-4  # 5.4e-4 with the slopes of the sample's quantiles
    assert rare[1::2].mean() > 3e-5


def test_petals_that_differ_do_not_flood() -> None:
    """Where petals differ, leaving out a spectrum's own brings the rate on new petals nearer to the nominal 1 %."""

    def petals(n: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        statistics, group, snr = sample(n, seed=11 + first)
        scales = np.random.default_rng(first).lognormal(0, 0.06, (6, N_STATISTICS))
        return statistics * scales[np.arange(n) % 6], group, snr

    def rate(fold: np.ndarray) -> float:
        calibration = fit_calibration(*petals(6000, 0), RELATIVES, fold)
        return float((calibrated(calibration, *petals(6000, 100)).p_value < 0.01).mean())

    own_left_out, own_kept = rate(np.arange(6000) % 3), rate(np.zeros(6000, np.int64))
    assert abs(own_left_out - 0.01) < abs(own_kept - 0.01)


def test_petals_that_are_known_have_equal_shares_of_low_p_values() -> None:
    """Where petals differ, the numbers below 10 % in new ones vary more than twice as little in their company."""

    def petals(n: int, first: int) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        statistics, group, snr = sample(n, seed=11 + first)
        petal = np.arange(n) // 300
        scatter = np.random.default_rng(first).lognormal(0, 0.15, (n // 300, N_STATISTICS))[petal]
        level = (0.2 * group + 0.3 * np.log(snr))[:, None]
        return (np.exp(level + (np.log(statistics) - level) * scatter), group, snr), petal

    def variation(known: bool) -> float:
        (learned, petal), (new, new_petal) = petals(9000, 0), petals(9000, 100)
        company = (petal, new_petal) if known else (None, None)
        calibration = fit_calibration(*learned, RELATIVES, petal % 3, company[0])
        low = calibrated(calibration, *new, company[1]).statistics < 0.1
        of_petal = np.array([low[new_petal == k].mean(axis=0) for k in range(30)])
        return float(of_petal.var(axis=0).mean())

    assert variation(known=True) < 0.5 * variation(known=False)


def test_every_channel_is_uniform() -> None:
    """The median p of each channel is one half, and a tenth lies below 10 %."""
    p = calibrated(CALIBRATION, *sample(20_000, seed=3)).channels
    np.testing.assert_allclose(np.median(p, axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose((p < 0.1).mean(axis=0), 0.1, atol=0.01)


def test_a_channel_that_few_spectra_have_is_uniform() -> None:
    """Where three quarters of the calibration spectra, or all of a fold, lack a channel, its p is uniform."""
    statistics, group, snr = sample(12_000, seed=13)
    recon = CHANNELS.index("recon")
    for lacking in (np.arange(12_000) % 4 > 0, np.arange(12_000) % 3 > 0):
        known = statistics.copy()
        known[np.ix_(lacking, np.flatnonzero(recon == FAMILY))] = np.nan
        calibration = fit_calibration(known, group, snr, RELATIVES, np.arange(12_000) % 3)
        p = calibrated(calibration, *sample(12_000, seed=14)).channels[:, recon]
        assert np.median(p) == pytest.approx(0.5, abs=0.05)
        assert np.mean(p < 0.1) == pytest.approx(0.1, abs=0.03)


def test_a_stranger_statistic_never_has_a_larger_p() -> None:
    """P falls with the statistic, far beyond the calibration sample too, and stays positive; all strange is strange."""
    statistics = np.tile(np.geomspace(0.1, 1e6, 400)[:, None], (1, N_STATISTICS))
    found = calibrated(CALIBRATION, statistics, np.full(400, QSO), np.full(400, 3.0, np.float32))
    for p in (found.statistics, found.channels):
        assert (np.diff(p, axis=0) <= 0).all()
        assert (p > 0).all()
    assert (found.p_value > 0).all()
    assert found.p_value[-1] < 1e-6
    assert found.p_value[0] > 0.1


def test_a_p_beyond_the_sample_is_flagged() -> None:
    """P below one over the calibration size is extrapolated and says so; others are not flagged."""
    statistics, group, snr = sample(1000, seed=4)
    statistics[:10] *= 1e3
    found = calibrated(CALIBRATION, statistics, group, snr)
    assert found.beyond[:10].all()
    assert (found.beyond == (found.p_value < 1 / (CALIBRATION.strangest.n[group] + 1))).all()


def test_contamination_of_the_calibration_set_does_not_hide_anomalies() -> None:
    """With 1.5 % wild anomalies among the held-out spectra the rate at p < 1 % stays 0.5-1.7 %."""
    statistics, group, snr = sample(6_000, seed=5)
    statistics[:90] *= 50
    p_value = calibrated(
        fit_calibration(statistics, group, snr, RELATIVES, np.arange(len(snr)) % 3), *sample(12_000, seed=6)
    ).p_value
    assert 0.005 < (p_value < 0.01).mean() < 0.017


def test_trouble_that_no_flag_tells_of_leaves_a_rate() -> None:
    """With 1.5 % of the spectra far out in one statistic, as by missed cosmics, p < 1 % does not become empty."""
    statistics, group, snr = sample(12_000, seed=15)
    statistics[:180, 20] *= 50
    calibration = fit_calibration(statistics, group, snr, RELATIVES, np.arange(len(snr)) % 3)
    p_value = calibrated(calibration, *sample(12_000, seed=16)).p_value
    assert 0.004 < (p_value < 0.01).mean() < 0.014


def test_a_class_with_few_spectra_uses_the_table_of_all() -> None:
    """A class with too few held-out spectra still gets p-values."""
    statistics, group, snr = sample(3000, seed=7)
    few = fit_calibration(
        statistics, np.where(group == STAR, GALAXY, group), snr, RELATIVES, np.arange(len(snr)) % 3
    )
    assert few.statistics.n[STAR] == 3000
    p_value = calibrated(few, statistics, np.full(3000, STAR), snr).p_value
    assert np.isfinite(p_value).all()


def test_relatives_stand_in_for_a_group_with_few_spectra() -> None:
    """A group with too few spectra uses those of its relatives before those of all."""
    statistics, group, snr = sample(3000, seed=7)
    relatives = [*RELATIVES[:STAR], np.array([QSO, STAR]), RELATIVES[UNKNOWN]]
    few = fit_calibration(
        statistics, np.where(group == STAR, GALAXY, group), snr, relatives, np.arange(len(snr)) % 3
    )
    assert few.statistics.n[STAR] == np.count_nonzero(group == QSO)


def test_a_missing_statistic_is_never_strange() -> None:
    """Where a statistic does not cover a spectrum its p is 1, and the others keep theirs."""
    statistics, group, snr = sample(3000, seed=11)
    expected = calibrated(CALIBRATION, statistics, group, snr).statistics
    statistics[:, 3] = np.nan
    found = calibrated(CALIBRATION, statistics, group, snr).statistics
    assert (found[:, 3] == 1).all()
    np.testing.assert_array_equal(np.delete(found, 3, axis=1), np.delete(expected, 3, axis=1))


def test_a_tiny_calibration_set_works() -> None:
    """Even thirty spectra of equal S/N give finite p-values between 0 and 1."""
    statistics, group, _ = sample(30, seed=8)
    snr = np.ones(30, np.float32)
    found = calibrated(
        fit_calibration(statistics, group, snr, RELATIVES, np.arange(len(snr)) % 3), statistics, group, snr
    )
    for p in (found.channels, found.p_value):
        assert ((p > 0) & (p <= 1)).all()


def test_arrays_bring_the_calibration_back() -> None:
    """What is saved in the bundle gives the same p-values."""
    again = calibrated(from_arrays(CALIBRATION.arrays()), *sample(100, 9))
    np.testing.assert_array_equal(again.p_value, calibrated(CALIBRATION, *sample(100, 9)).p_value)


@pytest.mark.parametrize("snr", [-3.0, 0.0, 1e5])
def test_any_snr_has_a_p_value(snr: float) -> None:
    """Spectra of negative or extreme S/N use the outermost table."""
    statistics, group, _ = sample(50, seed=10)
    p_value = calibrated(CALIBRATION, statistics, group, np.full(50, snr, np.float32)).p_value
    assert ((p_value > 0) & (p_value <= 1)).all()


def with_trouble(
    share: float, seed: int, bright_share: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordinary spectra of one group, a share of which has three statistics 20 to 60 sigma away.

    Of the brightest fifth it is bright_share, if that is given.
    """
    statistics, _, snr = sample(20_000, seed)
    rng = np.random.default_rng(seed + 1)
    shares = np.where(snr > np.quantile(snr, 0.8), share if bright_share is None else bright_share, share)
    troubled, n = rng.random(len(snr)) < shares, len(snr)
    away = np.zeros_like(statistics)
    away[np.arange(n)[:, None], rng.integers(2, N_STATISTICS, (n, 3))] = rng.uniform(20, 60, (n, 1))
    group = np.zeros(n, np.int64)
    return np.where(troubled[:, None], statistics * np.exp(0.1 * away), statistics), group, snr


def rate_after(share: float) -> float:
    """Rate of ordinary spectra below p = 1 % by a calibration learned from such a sample."""
    calibration = fit_calibration(*with_trouble(share, 71), [np.array([0])], np.arange(20_000) % 3)
    return float((calibrated(calibration, *with_trouble(0, 81)).p_value < 0.01).mean())


def test_trouble_in_the_sample_does_not_make_p_values_cautious() -> None:
    """With .9 % of cosmics and failed redshifts in it a nominal 1 % is within a tenth of what it is without."""
    assert rate_after(0.009) == pytest.approx(rate_after(0), rel=0.1)


def test_bright_spectra_that_stray_do_not_shelter_the_trouble_of_faint_ones() -> None:
    """Where a tenth of the brightest strays, 1.5 % of trouble among the others changes their rate by less than .15."""
    rates = []
    for share in (0.0, 0.015):
        learned = with_trouble(share, 71, bright_share=0.1)
        calibration = fit_calibration(*learned, [np.array([0])], np.arange(20_000) % 3)
        statistics, group, snr = with_trouble(0, 81)
        p_value = calibrated(calibration, statistics, group, snr).p_value
        rates.append(float((p_value < 0.01)[snr < np.quantile(snr, 0.8)].mean()))
    assert rates[1] == pytest.approx(rates[0], rel=0.15)


def test_what_is_common_is_no_trouble() -> None:
    """Where a tenth of a survey is that strange it counts: of such spectra less than a third fall below p = 1 %."""
    calibration = fit_calibration(*with_trouble(0.1, 71), [np.array([0])], np.arange(20_000) % 3)
    statistics, group, snr = with_trouble(1, 81)
    assert (calibrated(calibration, statistics, group, snr).p_value < 0.01).mean() < 1 / 3
