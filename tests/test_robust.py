"""What is broken in part is judged by what remains; what is unknown or doubtful is judged in a defined way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight import petal
from latenight.desi import read_coadd
from latenight.modes import read_modes
from latenight.passes import DOUBTED, FOUND, TRUSTED, Passes
from latenight.scorer import Scorer, load_scorer
from latenight.spectra import ARMS, N_PIX, UNKNOWN, WAVE
from latenight_train.data import without_redshift
from tests.coadds import REDROCK_NAME, write_coadd
from tests.fakes import assert_same_tables, make_spectra

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.spectra import Arm, Spectra

N = 60
EVERY_FIFTH = np.arange(0, N, 5)
STRANGE = 0.02  # of the ordinary spectra here one is odd to the small bundle, and the others lie above .04


def galaxies() -> Spectra:
    """Spectra of one petal; the small bundle has linear modes of galaxies only, and without them it finds little."""
    return make_spectra(N, seed=9, spectype="GALAXY")


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Scorer:
    """A scorer on the untrained bundle."""
    return load_scorer(bundle, device="cpu", threads=1)


def raised(spectra: Spectra, rows: NDArray[np.intp], pixels: slice, sigmas: float) -> Spectra:
    """The same spectra with the good pixels of some rows so many sigma higher."""
    flux, ivar = spectra.flux.copy(), spectra.ivar[rows, pixels]
    sigma = np.divide(1, np.sqrt(ivar), out=np.zeros_like(ivar), where=ivar > 0)
    flux[rows, pixels] += sigmas * sigma
    return replace(spectra, flux=flux)


def without_arm(spectra: Spectra, row: int, arm: Arm) -> Spectra:
    """The same spectra, one row without data of an arm."""
    flux, ivar = spectra.flux.copy(), spectra.ivar.copy()
    flux[row, arm.pixels] = ivar[row, arm.pixels] = 0
    return replace(spectra, flux=flux, ivar=ivar)


@pytest.mark.parametrize("dead", ARMS, ids=lambda arm: arm.name)
def test_an_anomaly_beside_a_dead_arm_is_found(scorer: Scorer, dead: Arm) -> None:
    """A row without one arm is as ordinary as before, and a spike in another arm is found where it is."""
    alive = next(arm for arm in ARMS if arm is not dead)
    spectra = without_arm(galaxies(), 1, dead)
    assert scorer.score(spectra).table["p_value"][1] > 1e-3
    pixel = alive.start + 1000
    found = scorer.score(raised(spectra, np.array([1]), slice(pixel, pixel + 2), 20)).table[1]
    assert found["p_value"] < STRANGE
    assert found["wavelength"] == pytest.approx(WAVE[pixel], abs=2)


FAULTS = {
    "half of the r arm too high": (slice(ARMS[1].start, ARMS[1].start + 1163), 3.0),
    "a line left by the sky": (slice(2400, 2404), 12.0),  # rest wavelengths that most training spectra cover
    "the blue too low": (slice(0, 600), -3.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fifth_of_bad_fibres_stands_out_of_its_petal(scorer: Scorer, fault: str) -> None:
    """Where a fifth of a petal's fibres has the same fault, these are strange and the others are as before."""
    before = scorer.score(galaxies()).table
    after = scorer.score(raised(galaxies(), EVERY_FIFTH, *FAULTS[fault])).table
    bad = np.isin(np.arange(N), EVERY_FIFTH) & after["eligible"]
    others = ~bad & after["eligible"]
    assert after["p_value"][bad].max() < STRANGE
    assert np.mean(after["p_value"][others] < 1e-3) <= np.mean(before["p_value"][others] < 1e-3) + 0.02


def test_without_redrock_a_file_is_scored_at_redshifts_found_here(scorer: Scorer, tmp_path: Path) -> None:
    """A coadd without redrock file is scored as spectra of unknown class and redshift, and finds its spike."""
    spectra = raised(make_spectra(N, seed=9), np.array([1]), slice(4000, 4002), 15)
    coadd = write_coadd(tmp_path, spectra)
    (tmp_path / REDROCK_NAME).unlink()
    read = read_coadd(coadd)
    assert (read.table["spectype"] == UNKNOWN).all()
    found = scorer.score(read).table
    expected = scorer.score(replace(read, table=without_redshift(spectra.table))).table
    assert_same_tables(found, expected)
    assert np.isfinite(found["p_value"][found["eligible"]]).all()
    assert found["wavelength"][1] == pytest.approx(WAVE[4000], abs=2)


def test_a_doubtful_redshift_is_used_as_it_is(scorer: Scorer) -> None:
    """ZWARN changes no score: redrock's best fit is used. Only the p-values are those of doubtful spectra."""
    spectra = make_spectra(N, seed=9)
    doubtful = spectra.table.copy()
    doubtful["zwarn"] = 4
    found, expected = (scorer.score(s).table for s in (replace(spectra, table=doubtful), spectra))
    for name in ("model_z", "model_spectype", "chi2", "log_prob", "knn_distance"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert np.isfinite(found["p_value"][found["eligible"]]).all()


def test_redshifts_that_are_trusted_doubted_and_found_have_p_values_of_their_own(bundle: Path) -> None:
    """The kind of a spectrum, which picks its tables of p, follows from ZWARN, its redshift and its sky fibres."""
    groups = read_modes(bundle / "modes.npz")
    learned = petal.Learned(np.ones(N_PIX, np.float32), np.ones(N_PIX, np.float32))
    passes = Passes(bundle, learned, np.array([-0.01, 2.0]), device="cpu", threads=1)
    spectra = make_spectra(3, seed=9, spectype="GALAXY")
    table = spectra.table.copy()
    table["zwarn"], table["petal"] = [0, 4, -1], -1
    table["z"][2] = np.nan
    kinds = passes(replace(spectra, table=table), np.full(3, "")).group // len(groups)
    assert kinds.tolist() == [3 + TRUSTED, 3 + DOUBTED, 3 + FOUND]
