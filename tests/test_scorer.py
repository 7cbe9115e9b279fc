"""The scorer on real graphs: calibrated, deterministic, blind to what must not matter."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from latenight.bundle import load_bundle, write_golden, write_manifest
from latenight.channels import COMBINED, STATISTICS
from latenight.errors import StartupError
from latenight.passes import usable_redshift
from latenight.scorer import Scorer, check_golden, load_scorer
from latenight.scores import CHANNELS, SCORES, Scores
from latenight.spectra import ARMS, N_PIX, PIXEL, SPECTYPES, UNKNOWN, WAVE, ineligible_reasons
from latenight.wire import decode_spectra, encode_spectra
from tests.bundles import PETALS, ROWS
from tests.fakes import DEAD_ROW, SKY_ROWS, UNKNOWN_ROW, assert_same_tables, make_spectra

if TYPE_CHECKING:
    from pathlib import Path

    from latenight.spectra import Spectra

FLOATS = [name for name in SCORES.names or () if SCORES[name].kind == "f"]
RAW = ("snr", "log_prob", "chi2", "knn_distance", "arm_chi2_b", "arm_chi2_r", "arm_chi2_z", "sigma")


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Scorer:
    """A scorer on the untrained bundle."""
    return load_scorer(bundle, device="cpu", threads=1)


def assert_same_scores(found: np.ndarray, expected: np.ndarray) -> None:
    for name in RAW:
        np.testing.assert_allclose(found[name], expected[name], rtol=3e-5, err_msg=name)
    for name in ("wavelength", "width", "sign", "eligible", "reason", "channel"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def without_company(spectra: Spectra) -> Spectra:
    """Every row the only one of its petal, so that the petal step has nothing to compare it with."""
    table = spectra.table.copy()
    table["tileid"] = np.arange(len(table))
    return replace(spectra, table=table)


def test_every_eligible_spectrum_gets_finite_scores_and_every_other_a_reason(scorer: Scorer) -> None:
    """Eligible rows, the one without redshift included, hold only finite scores; others only NaN and why."""
    table = scorer.score(make_spectra(70, seed=9)).table
    others = [*SKY_ROWS, DEAD_ROW]
    assert table["eligible"][UNKNOWN_ROW]
    assert np.flatnonzero(~table["eligible"]).tolist() == sorted(others)
    assert table["reason"][others].tolist() == ["sky", "sky", "no_data"]
    for name in FLOATS:
        assert np.isfinite(table[name][table["eligible"]]).all(), name
        assert np.isnan(table[name][others]).all(), name
    p = np.stack([table[f"p_{channel}"] for channel in CHANNELS])[:, table["eligible"]]
    assert ((p > 0) & (p <= 1)).all()
    strangest = np.array(CHANNELS)[COMBINED][p[COMBINED].argmin(axis=0)]
    assert (strangest == table["channel"][table["eligible"]]).all()
    family = {statistic.name: statistic.family for statistic in STATISTICS}
    assert [family[name] for name in table["statistic"][table["eligible"]]] == table["channel"][
        table["eligible"]
    ].tolist()


def test_a_score_does_not_depend_on_the_order_of_rows(scorer: Scorer) -> None:
    """A permutation of the rows of a message permutes its scores."""
    spectra = make_spectra(70, seed=9)
    order = np.random.default_rng(0).permutation(70)
    assert_same_scores(scorer.score(spectra.take(order)).table, scorer.score(spectra).table[order])


@pytest.mark.parametrize("n", [1, 63, 64, 65])
def test_a_score_does_not_depend_on_the_number_of_rows(scorer: Scorer, n: int) -> None:
    """Where the petal step is neutral, the first n rows score as they do among more rows."""
    spectra = without_company(make_spectra(70, seed=9))
    assert_same_scores(scorer.score(spectra.take(slice(n))).table, scorer.score(spectra).table[:n])


def test_the_flux_of_masked_pixels_does_not_matter(scorer: Scorer) -> None:
    """Garbage under ivar 0 of an inline message changes no score."""
    spectra = make_spectra(70, seed=9)
    garbage = replace(spectra, flux=np.where(spectra.ivar == 0, np.float32(np.nan), spectra.flux))
    expected = scorer.score(spectra).table
    assert_same_tables(scorer.score(decode_spectra(encode_spectra(garbage))).table, expected)


@pytest.mark.parametrize("wave", [4100.0, 6500.0, 9300.0])
def test_a_spike_is_told_with_its_wavelength(scorer: Scorer, wave: float) -> None:
    """A pixel that is 60 sigma too high is found by a narrow window, at its wavelength to 16 pixels."""
    spectra = make_spectra(70, seed=9)
    pixel = np.abs(WAVE - wave).argmin()
    flux, row = (
        spectra.flux.copy(),
        np.flatnonzero((ineligible_reasons(spectra) == "") & (spectra.ivar[:, pixel] > 0))[5],
    )
    flux[row, pixel] += 60 / np.sqrt(spectra.ivar[row, pixel])
    told = scorer.score(replace(spectra, flux=flux)).table[row]
    assert told["statistic"].startswith("scan")
    assert told["wavelength"] == pytest.approx(wave, abs=16 * PIXEL)


def test_the_petal_step_follows_the_noise_of_the_petal(scorer: Scorer) -> None:
    """Doubling the noise of one arm in a whole petal leaves the arm's chi2 nearly as it was."""
    spectra = make_spectra(70, seed=9)
    ivar = spectra.ivar.copy()
    ivar[:, ARMS[1].pixels] *= 2.0  # ivar twice too large
    known = scorer.score(replace(spectra, ivar=ivar)).table["arm_chi2_r"]
    lost = scorer.score(replace(without_company(spectra), ivar=ivar)).table["arm_chi2_r"]
    assert np.nanmedian(lost) > 1.3 * np.nanmedian(known)


def test_what_the_sky_subtraction_left_in_a_petal_is_no_light_of_its_targets(scorer: Scorer) -> None:
    """Half a sigma in every fibre raises the S/N of targets by .4 and more, where sky fibres show it by less than .3.

    Made-up noise has no lines to tell the sky from a bright fibre's own light by: there a half of it stays.
    """
    spectra = make_spectra(70, seed=9)
    sky = np.arange(40, 70)
    noise = np.random.default_rng(3).standard_normal((len(sky), N_PIX)) / np.sqrt(
        np.maximum(spectra.ivar[sky], 1e-9)
    )
    spectra.flux[sky] = np.where(spectra.ivar[sky] > 0, noise, 0)
    spectra.table["objtype"][sky] = "SKY"
    offset = np.where(spectra.ivar > 0, spectra.flux + 0.5 / np.sqrt(np.maximum(spectra.ivar, 1e-9)), 0)
    left = replace(spectra, flux=offset.astype(np.float32))
    known = scorer.score(left).table["snr"] - scorer.score(spectra).table["snr"]
    lost = (
        scorer.score(without_company(left)).table["snr"] - scorer.score(without_company(spectra)).table["snr"]
    )
    assert np.nanmax(np.abs(known)) < 0.3
    assert np.nanmin(known) < 0.1
    assert np.nanmin(lost) > 0.4


def test_a_spectrum_with_a_dead_arm_is_scored(scorer: Scorer) -> None:
    """Without one arm a spectrum stays eligible and gets finite scores."""
    spectra = make_spectra(3, seed=1)
    ivar = spectra.ivar.copy()
    ivar[1, ARMS[2].pixels] = 0
    row = scorer.score(replace(spectra, ivar=ivar)).table[1]
    assert row["eligible"]
    assert all(np.isfinite(row[name]) for name in FLOATS)
    assert row["arm_chi2_z"] == 0


def test_strange_rows_come_with_their_reconstruction(scorer: Scorer) -> None:
    """Rows with p_value below the limit get a reconstruction and a positive sigma, others none."""
    spectra = make_spectra(70, seed=9)
    limit = float(np.nanquantile(scorer.score(spectra).table["p_value"], 0.3))
    scores = scorer.score(spectra, explain_below=limit)
    expected = np.flatnonzero(scores.table["p_value"] < limit)
    np.testing.assert_array_equal(scores.explained, expected)
    assert 0 < len(expected) < 70
    assert scores.recon.shape == scores.recon_sigma.shape == (len(expected), 7781)
    assert np.isfinite(scores.recon).all()
    assert (scores.recon_sigma > 0).all()
    assert len(scorer.score(spectra).explained) == 0


def test_a_message_without_eligible_rows_is_scored(scorer: Scorer) -> None:
    """A message of sky fibres, and an empty one, give tables without scores."""
    spectra = make_spectra(6, seed=0)
    sky = scorer.score(spectra.take(np.array([SKY_ROWS[0]])))
    assert sky.table["reason"].tolist() == ["sky"]
    assert len(scorer.score(spectra.take(slice(0))).table) == 0


def test_a_training_spectrum_is_not_its_own_neighbour(scorer: Scorer, bundle: Path) -> None:
    """A spectrum of the bank is farther from the bank under its own TARGETID than under a strange one."""
    bank_ids = np.load(bundle / "bank_ids.npy")
    petals = (make_spectra(ROWS, seed=k, petal=-1) for k in range(PETALS))
    known = next(petal for petal in petals if petal.table["targetid"][0] in bank_ids)
    table = known.table.copy()
    table["targetid"] = 1
    strange = scorer.score(replace(known, table=table)).table["knn_distance"]
    difference = scorer.score(known).table["knn_distance"] - strange
    assert np.nanmin(difference) >= 0
    assert np.nanmax(difference) > 0


def test_a_spectrum_without_redshift_is_scored_at_the_one_that_is_found(scorer: Scorer) -> None:
    """The redshift and class that the scores name, given as redrock's, give the same reconstruction and statistics."""
    spectra = make_spectra(20, seed=2)
    found = scorer.score(spectra, explain_below=2.0)
    row = found.table[UNKNOWN_ROW]
    assert np.isnan(spectra.table["z"][UNKNOWN_ROW])
    assert np.isfinite(row["model_z"])
    given = spectra.table.copy()
    given["z"][UNKNOWN_ROW], given["spectype"][UNKNOWN_ROW] = row["model_z"], row["model_spectype"]
    again = scorer.score(replace(spectra, table=given), explain_below=2.0)
    np.testing.assert_allclose(again.recon, found.recon, rtol=1e-4, atol=1e-4)
    for name in ("chi2", "arm_chi2_b", "arm_chi2_r", "arm_chi2_z", "log_prob", "knn_distance"):
        np.testing.assert_allclose(again.table[name], found.table[name], rtol=1e-4)


def test_redshifts_outside_the_model_count_as_unknown() -> None:
    """NaN, negative and huge redshifts, and unknown classes, become group UNKNOWN at z = 0."""
    table = make_spectra(6, seed=0).table
    table["spectype"], table["z"] = "GALAXY", [0.5, np.nan, -0.5, 7.0, 0.0, 0.3]
    table["spectype"][5] = "NOVA"
    z, group = usable_redshift(table, np.array([-0.01, 4.98]))
    unknown = SPECTYPES.index(UNKNOWN)
    assert group.tolist() == [0, unknown, unknown, unknown, 0, unknown]
    np.testing.assert_allclose(z, [0.5, 0, 0, 0, 0, 0])


def test_a_session_that_disagrees_with_the_golden_scores_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A bundle whose golden scores are not reproduced does not start, and the score is named."""
    copied = shutil.copytree(bundle, tmp_path / "bundle")
    spectra, scores = load_bundle(copied).golden()
    scores["chi2"] *= 1.01
    write_golden(copied, spectra, scores)
    facts = {k: v for k, v in load_manifest(copied).items() if k not in ("files", "schema")}
    write_manifest(copied, facts)
    with pytest.raises(StartupError, match="chi2 of the golden spectra"):
        load_scorer(copied, device="cpu", threads=1)


def test_a_session_that_makes_nan_of_golden_scores_is_refused(bundle: Path) -> None:
    """Scores that are finite in the bundle and NaN here are a difference, were it in a single row."""
    copy = load_bundle(bundle)
    scorer = Scorer(copy, device="cpu", threads=1)
    whole = scorer.score

    def broken(spectra: Spectra, explain_below: float = 0.0) -> Scores:
        scores = whole(spectra, explain_below)
        scores.table["chi2"][np.flatnonzero(scores.table["eligible"])[0]] = np.nan
        return scores

    scorer.score = broken  # type: ignore[method-assign]
    with pytest.raises(StartupError, match="chi2 of the golden spectra differs by nan"):
        check_golden(scorer, copy)


def test_a_bundle_of_other_statistics_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A bundle that calibrates another number of statistics than this version measures does not start."""
    copied = shutil.copytree(bundle, tmp_path / "bundle")
    arrays: dict[str, Any] = load_bundle(copied).arrays("calibration.npz")
    arrays["statistics_median"] = arrays["statistics_median"][..., :-2]
    np.savez(copied / "calibration.npz", **arrays)
    facts = {k: v for k, v in load_manifest(copied).items() if k not in ("files", "schema")}
    write_manifest(copied, facts)
    n = len(STATISTICS)
    with pytest.raises(StartupError, match=f"has {n - 2} statistics, this version {n}: fit it again"):
        load_scorer(copied, device="cpu", threads=1)


def load_manifest(folder: Path) -> dict[str, object]:
    """The manifest as it stands, unverified."""
    manifest: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_a_gpu_that_is_asked_for_and_absent_stops_the_start(bundle: Path) -> None:
    """Device cuda on a machine without GPU is an error, never a silent fallback."""
    with pytest.raises(StartupError, match="cuda"):
        load_scorer(bundle, device="cuda", threads=1)
