"""Training data are read once, whole, and split by petal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.desi import read_coadd
from latenight.errors import BadInput, StartupError
from latenight_train.data import LEAST_TARGETID, load_survey, split_by_petal, without_repeats
from tests.bundles import small_survey
from tests.coadds import write_coadd
from tests.fakes import assert_same_tables, make_spectra

if TYPE_CHECKING:
    from pathlib import Path


def write_survey(folder: Path) -> list[Path]:
    paths = [folder / f"coadd-{petal}-1000-thru20260101.fits" for petal in range(3)]
    for petal, path in enumerate(paths):
        write_coadd(folder, make_spectra(8, seed=petal, petal=petal), path.name)
    return paths


def test_a_survey_holds_what_the_reader_reads(tmp_path: Path) -> None:
    """Every row of every file is in the survey, in order, message by message."""
    paths = write_survey(tmp_path)
    survey = load_survey([tmp_path], tmp_path / "cache")
    assert len(survey.table) == 24
    for (rows, spectra), path in zip(survey.messages(), paths, strict=True):
        expected = read_coadd(path)
        np.testing.assert_array_equal(survey.flux[rows], expected.flux)
        np.testing.assert_array_equal(spectra.ivar, expected.ivar)
        assert_same_tables(spectra.table, expected.table)


def test_the_cache_is_used_for_the_same_files_only(tmp_path: Path) -> None:
    """A second call reads no file again; a changed file is noticed."""
    paths = write_survey(tmp_path)
    first = load_survey([tmp_path], tmp_path / "cache")
    written = (tmp_path / "cache/flux").stat().st_mtime_ns
    load_survey([tmp_path], tmp_path / "cache")
    assert (tmp_path / "cache/flux").stat().st_mtime_ns == written
    paths[1].unlink()
    write_coadd(tmp_path, make_spectra(9, seed=7, petal=1), paths[1].name)
    assert len(load_survey([tmp_path], tmp_path / "cache").table) == len(first.table) + 1


def test_an_interrupted_reading_leaves_no_index(tmp_path: Path) -> None:
    """After a reading of other files that failed half way, the first ones are read anew."""
    paths = write_survey(tmp_path)
    before = load_survey(paths[:1], tmp_path / "cache").table["targetid"].copy()
    paths[2].write_bytes(paths[2].read_bytes()[:5000])
    with pytest.raises(BadInput):
        load_survey(paths[1:], tmp_path / "cache")
    np.testing.assert_array_equal(load_survey(paths[:1], tmp_path / "cache").table["targetid"], before)


def test_redshifts_that_came_later_are_read(tmp_path: Path) -> None:
    """A survey read without redrock's file is read anew once that lies beside the coadd."""
    path, *_ = write_survey(tmp_path)
    redrock = path.with_name(path.name.replace("coadd-", "redrock-"))
    content = redrock.read_bytes()
    redrock.unlink()
    assert np.isnan(load_survey([path], tmp_path / "cache").table["z"]).all()
    redrock.write_bytes(content)
    assert np.isfinite(load_survey([path], tmp_path / "cache").table["z"]).any()


def test_a_bad_file_stops_the_training(tmp_path: Path) -> None:
    """Training never goes on silently without a file it was given."""
    paths = write_survey(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:5000])
    with pytest.raises(BadInput, match="coadd-2"):
        load_survey([tmp_path], tmp_path / "cache")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without coadds is an error that says what to name."""
    with pytest.raises(StartupError, match="no coadd"):
        load_survey([tmp_path], tmp_path / "cache")


def test_whole_petals_are_held_out() -> None:
    """The split takes a quarter of the petals, never part of one, and depends on the seed alone."""
    table = small_survey().table
    held_out = split_by_petal(table, seed=1)
    for petal in range(4):
        assert len(np.unique(held_out[table["petal"] == petal])) == 1
    assert held_out.sum() == len(table) // 4
    np.testing.assert_array_equal(held_out, split_by_petal(table, seed=1))
    assert any((split_by_petal(table, seed) != held_out).any() for seed in range(2, 9))


def test_a_target_counts_in_one_petal_only(tmp_path: Path) -> None:
    """Of a target that two petals show, only rows of the first are eligible; sky fibres and unknown targets stay."""
    survey = load_survey(write_survey(tmp_path), tmp_path / "cache")
    table, reasons = survey.table.copy(), np.full(len(survey.table), "", "U12")
    table["petal"], table["targetid"] = np.repeat(range(3), 8), LEAST_TARGETID + np.arange(24)
    table["ra"], table["dec"] = 10.0, 20.0
    table["targetid"][[0, 1, 9, 17]] += 100 - np.array([0, 1, 9, 17])  # petals 0, 0, 1 and 2
    table["targetid"][[2, 10]] = 7  # counted by a simulation
    table["targetid"][[3, 11]], reasons[11] = LEAST_TARGETID + 200, "sky"
    # Petal 1 is the first that shows it.
    table["targetid"][[4, 12, 20]], reasons[4] = LEAST_TARGETID + 300, "no_data"
    table["targetid"][[5, 13]], table["ra"][13] = LEAST_TARGETID + 400, 11.0  # two objects
    found = without_repeats(replace(survey, table=table, reasons=reasons)).reasons
    np.testing.assert_array_equal(np.flatnonzero(found == "repeat"), [9, 17, 20])
    assert found[11] == "sky"


def test_spectra_of_unknown_petals_cannot_be_split() -> None:
    """Healpix coadds, most of whose rows tell no petal, are refused with what to train on."""
    table = small_survey().table.copy()
    table["petal"][: len(table) // 2] = -1
    with pytest.raises(StartupError, match="train on coadds of tiles"):
        split_by_petal(table, seed=1)


def test_one_petal_cannot_be_split() -> None:
    """A single petal is refused: nothing would be left to calibrate on."""
    with pytest.raises(StartupError, match="two petals"):
        split_by_petal(make_spectra(9, seed=0).table, seed=1)
