"""The grids and the gates of the Spectra contract."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.spectra import (
    ARM_OF_PIXEL,
    ARMS,
    MIN_GOOD_PIXELS,
    MISSING,
    N_JOINT,
    N_PIX,
    REASONS,
    TABLE,
    WAVE,
    WAVE_JOINT,
    Spectra,
    at_wavelengths,
    empty_table,
    ineligible_reasons,
)
from tests.fakes import make_spectra


def reasons_of(n_good: int = N_PIX, **columns: object) -> str:
    """The reason of one spectrum with that many good pixels and columns."""
    spectra = make_spectra(1, seed=0, **columns)
    ivar = np.zeros_like(spectra.ivar)
    ivar[:, :n_good] = 1.0
    return str(ineligible_reasons(Spectra(spectra.flux, ivar, spectra.table, ""))[0])


class TestGrids:
    def test_arms_fill_the_grid(self) -> None:
        """The three arms lie one after the other on 7958 pixels."""
        pixels = np.concatenate([np.arange(N_PIX)[arm.pixels] for arm in ARMS])
        np.testing.assert_array_equal(pixels, np.arange(N_PIX))
        np.testing.assert_array_equal(np.bincount(ARM_OF_PIXEL), [2751, 2326, 2881])

    def test_arms_lie_on_the_joint_grid(self) -> None:
        """Every arm pixel has the wavelength of its joint pixel, and the arms cover 3600-9824 A."""
        assert len(WAVE_JOINT) == N_JOINT
        for arm in ARMS:
            np.testing.assert_allclose(arm.wave, WAVE_JOINT[arm.joint_pixels])
            np.testing.assert_allclose(arm.wave, WAVE[arm.pixels])
        np.testing.assert_allclose([WAVE_JOINT[0], WAVE_JOINT[-1]], [3600.0, 9824.0])

    def test_neighbours_overlap(self) -> None:
        """Arms b and r share 51 joint pixels, r and z share 126."""
        b, r, z = (set(range(N_JOINT)[arm.joint_pixels]) for arm in ARMS)
        assert (len(b & r), len(r & z), len(b & z)) == (51, 126, 0)

    def test_of_two_arms_the_bluer_speaks(self) -> None:
        """At a wavelength that two arms see stands the value of the bluer one; all others keep theirs."""
        found = at_wavelengths(ARM_OF_PIXEL[None].astype(np.float32))[0]
        np.testing.assert_array_equal(np.bincount(found.astype(int)), [2751, 2326 - 51, 2881 - 126])
        assert (np.diff(found) >= 0).all()


class TestTable:
    def test_empty_means_missing(self) -> None:
        """An empty table counts its rows and says of nothing else that it is known."""
        table = empty_table(3)
        assert table.dtype == TABLE
        assert table["row"].tolist() == [0, 1, 2]
        for name, value in MISSING.items():
            np.testing.assert_array_equal(table[name], np.full(3, value, TABLE[name]), err_msg=name)

    def test_take_keeps_rows_together(self) -> None:
        """Rows are taken from flux, ivar and table alike, and keep their row number."""
        spectra = make_spectra(5, seed=1)
        taken = spectra.take(np.array([4, 1]))
        assert len(taken) == 2
        assert taken.table["row"].tolist() == [4, 1]
        np.testing.assert_array_equal(taken.flux, spectra.flux[[4, 1]])
        np.testing.assert_array_equal(taken.ivar, spectra.ivar[[4, 1]])


class TestReasons:
    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ({}, ""),
            ({"objtype": ""}, ""),
            ({"objtype": "SKY"}, "sky"),
            ({"objtype": "BAD"}, "not_target"),
            ({"targetid": -5}, "not_target"),
            ({"targetid": 0}, ""),
            ({"objtype": "SKY", "targetid": -5, "coadd_fiberstatus": 2}, "sky"),
            ({"coadd_fiberstatus": 1 << 3}, ""),
            ({"coadd_fiberstatus": 1 << 14}, ""),
            ({"coadd_fiberstatus": 1 << 23}, ""),
            ({"coadd_fiberstatus": 1 << 9}, "fiberstatus"),
            ({"coadd_fiberstatus": 1 << 3 | 1 << 16}, "fiberstatus"),
        ],
    )
    def test_identity_decides_first(self, columns: dict[str, object], reason: str) -> None:
        """Sky, then no target, then a bad fibre; what is unknown excludes nothing."""
        assert reasons_of(N_PIX, **columns) == reason

    @pytest.mark.parametrize(
        ("n_good", "reason"),
        [(0, "no_data"), (1, "few_pixels"), (MIN_GOOD_PIXELS - 1, "few_pixels"), (MIN_GOOD_PIXELS, "")],
    )
    def test_then_the_good_pixels(self, n_good: int, reason: str) -> None:
        """Without good pixels there is no data; below the minimum there are few."""
        assert reasons_of(n_good) == reason

    def test_all_reasons_are_listed(self) -> None:
        """The reasons that can occur are REASONS, and they fit the scores table."""
        found = {reasons_of(0), reasons_of(1), reasons_of(objtype="SKY"), reasons_of(objtype="NON")}
        assert found | {reasons_of(coadd_fiberstatus=2)} == set(REASONS)
