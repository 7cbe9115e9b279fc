"""The simulated night: files like DESI's, the same for the same seed, with the survey's mix."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.desi import find_coadds, read_coadd
from latenight.spectra import ARM_OF_PIXEL, ineligible_reasons
from latenight_train.simulate import Night, simulate, simulate_petal
from latenight_train.targets import MIX, REDSHIFT, draw_redshift, draw_source

if TYPE_CHECKING:
    from pathlib import Path

N = 30


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    plan = Night(tmp_path_factory.mktemp("survey"), 20260101, 2, 1, N, 7, 0.3)
    simulate(plan, processes=1)
    return plan


def truth_of(night: Night) -> list[dict[str, str]]:
    with (night.out / "truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_layout(night: Night) -> None:
    """Coadds lie where DESI puts them, each with its redrock file, and no unfinished file is left."""
    names = sorted(str(path.relative_to(night.out)) for path in night.out.rglob("*") if path.is_file())
    assert names == [
        f"tiles/cumulative/1010{tile}/20260101/{kind}-0-1010{tile}-thru20260101.fits"
        for tile in (0, 1)
        for kind in ("coadd", "redrock")
    ] + ["truth.csv"]


def test_reader_understands_the_files(night: Night) -> None:
    """The reader finds targets, sky fibres, redshifts and positions in a simulated coadd."""
    for path in find_coadds([night.out]):
        spectra = read_coadd(path)
        reasons = ineligible_reasons(spectra)
        assert len(spectra) == N
        assert np.count_nonzero(reasons == "") > N // 2
        assert np.count_nonzero(reasons == "sky") >= 1
        assert np.isfinite(spectra.table["z"]).all()
        assert set(spectra.table["spectype"]) <= {"GALAXY", "QSO", "STAR"}
        assert (spectra.table["night"] == night.night).all()
        assert np.isfinite(spectra.table["ra"]).all()


def test_truth_tells_what_every_fibre_is(night: Night) -> None:
    """Every target of the coadds has one row in truth.csv; sky fibres carry no anomaly."""
    rows = truth_of(night)
    targets = np.concatenate([read_coadd(path).table["targetid"] for path in find_coadds([night.out])])
    assert sorted(int(row["TARGETID"]) for row in rows) == sorted(targets.tolist())
    assert len(set(targets.tolist())) == len(targets)
    assert sum(row["KIND"] != "" for row in rows) >= 5
    assert all(row["KIND"] == "" for row in rows if row["TRACER"] == "SKY")
    assert all(float(row["MATCHED_SNR"]) > 0 for row in rows if row["KIND"])


def test_a_second_night_keeps_the_truth_of_the_first(night: Night) -> None:
    """truth.csv holds all nights of a folder, and a night simulated again once."""
    before = truth_of(night)
    other = replace(night, night=20260102, tiles=1)
    simulate(other, processes=1)
    simulate(other, processes=1)
    after = truth_of(night)
    assert [row for row in after if row["NIGHT"] == "20260101"] == before
    assert sum(row["NIGHT"] == "20260102" for row in after) == N


def test_same_seed_same_spectra(night: Night, tmp_path: Path) -> None:
    """A petal made alone equals the one made with its night; another seed gives another one."""
    again, _ = simulate_petal(replace(night, out=tmp_path / "a"), 1, 0)
    other, _ = simulate_petal(replace(night, out=tmp_path / "b", seed=8), 1, 0)
    first = read_coadd(night.out / again.relative_to(tmp_path / "a"))
    assert np.array_equal(first.flux, read_coadd(again).flux)
    assert np.array_equal(first.table, read_coadd(again).table)
    assert not np.array_equal(first.flux, read_coadd(other).flux)


def test_two_processes_make_the_same_night(night: Night, tmp_path: Path) -> None:
    """The number of processes changes no file."""
    plan = replace(night, out=tmp_path, night=20260101)
    for path in simulate(plan, processes=2):
        assert np.array_equal(read_coadd(path).flux, read_coadd(night.out / path.relative_to(tmp_path)).flux)


def test_redrock_is_right_where_it_says_so(night: Night) -> None:
    """A redshift without warning is, as a rule, the true one; injected wrong redshifts excepted."""
    truth = {int(row["TARGETID"]): row for row in truth_of(night)}
    right = []
    for path in find_coadds([night.out]):
        table = read_coadd(path).table
        for entry in table[(table["zwarn"] == 0) & (table["deltachi2"] > 40)]:
            row = truth[int(entry["targetid"])]
            if row["TRACER"] != "SKY" and row["KIND"] != "wrong_z":
                right.append(abs(entry["z"] - float(row["Z"])) < 0.01 * (1 + entry["z"]))
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("tracer", ["BGS", "LRG", "ELG", "QSO"])
def test_redshifts_follow_the_survey(tracer: str) -> None:
    """The median and the quartiles of the redshifts are those of DR1 within 0.05."""
    rng = np.random.default_rng(1)
    z = [draw_redshift(rng, tracer) for _ in range(2000)]
    assert np.allclose(np.quantile(z, [0.25, 0.5, 0.75]), REDSHIFT[tracer][2:5], atol=0.05)


def test_class_mix_follows_the_survey() -> None:
    """Over dark and bright tiles together, 70 % of the targets are galaxies, 9 % quasars, 21 % stars."""
    share = {"GALAXY": 0.0, "QSO": 0.0, "STAR": 0.0}
    for mix in MIX.values():
        share["QSO"] += 0.5 * 0.8 * mix.get("QSO", 0.0)
        share["STAR"] += 0.5 * (mix.get("MWS", 0.0) + mix["STD"] + 0.12 * mix.get("QSO", 0.0))
        share["GALAXY"] += 0.5 * sum(mix.get(name, 0.0) for name in ("BGS", "LRG", "ELG"))
    assert abs(share["GALAXY"] - 0.70) < 0.03
    assert abs(share["QSO"] - 0.09) < 0.03
    assert abs(share["STAR"] - 0.21) < 0.03


@pytest.mark.parametrize("tracer", ["BGS", "LRG", "ELG", "QSO", "MWS", "STD"])
def test_sources_are_finite_and_bright_enough(tracer: str) -> None:
    """Noise-free spectra are finite, almost everywhere positive, and never the same twice."""
    sources = [draw_source(np.random.default_rng(i), tracer) for i in range(4)]
    for source in sources:
        assert np.isfinite(source.flux).all()
        assert np.quantile(source.flux, 0.01) >= 0.0
    assert not np.allclose(sources[0].flux / sources[0].flux.mean(), sources[1].flux / sources[1].flux.mean())


def test_arms_agree_where_they_overlap() -> None:
    """The noise-free flux of a smooth source is the same in both arms of an overlap."""
    flux = draw_source(np.random.default_rng(2), "STD").flux
    for left, right, n in ((0, 1, 51), (1, 2, 126)):
        a, b = flux[left == ARM_OF_PIXEL][-n:], flux[right == ARM_OF_PIXEL][:n]
        assert np.allclose(a[5:-5], b[5:-5], rtol=0.05)
