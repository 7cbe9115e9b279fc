"""The reader: every release that we have, every way a file can be broken."""

from __future__ import annotations

import errno
import gzip
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import fitsio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latenight import desi, fits
from latenight.errors import BadInput, Unavailable
from latenight.spectra import ARMS, MAX_FLUX, MAX_IVAR, N_PIX, TABLE, Spectra, ineligible_reasons
from tests.coadds import (
    HEADER,
    NAME,
    REDROCK_NAME,
    coadd_hdus,
    make_redshifts,
    make_table,
    write_coadd,
    write_hdus,
)
from tests.fakes import DEAD_ROW, SKY_ROWS, UNKNOWN_ROW, assert_same_tables, make_spectra

if TYPE_CHECKING:
    from latenight.fits import Fits

IN_TMP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TILE = "fastspecfit/coadd-4-80613-thru20210324.fits"


@pytest.fixture(scope="module")
def spectra() -> Spectra:
    return make_spectra(9, seed=3)


@pytest.fixture
def coadd(tmp_path: Path, spectra: Spectra) -> Path:
    return write_coadd(tmp_path, spectra)


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "n", "reasons"),
        [
            (TILE, 1, {}),
            ("fastspecfit/fuji/coadd-4-80613-thru20210324.fits", 1, {}),
            ("picca/coadd-1-80693-thru20210204.fits", 5, {}),
            ("picca/coadd-main-dark-9144.fits", 2, {}),
            # No FIBERMAP: the six sky fibres cannot be told from targets, the dead one still can.
            ("QuasarNP/test_coadd.fits", 25, {11: "no_data"}),
        ],
    )
    def test_every_release_gives_one_clean_row_per_fibre(
        self, desi_data: Path, name: str, n: int, reasons: dict[int, str]
    ) -> None:
        """Each real coadd gives finite native float32 spectra, and only the named rows are ineligible."""
        spectra = desi.read_coadd(desi_data / name)
        assert spectra.flux.shape == spectra.ivar.shape == (n, N_PIX)
        assert spectra.flux.dtype == spectra.ivar.dtype == np.dtype("=f4")
        assert np.isfinite(spectra.flux).all()
        assert np.isfinite(spectra.ivar).all()
        assert (spectra.ivar >= 0).all()
        assert not spectra.flux[spectra.ivar == 0].any()
        found = ineligible_reasons(spectra)
        assert {row: found[row] for row in np.flatnonzero(found != "")} == reasons

    def test_a_tile_coadd_tells_everything(self, desi_data: Path) -> None:
        """An iron tile coadd of survey validation gives identity, SV1 target bits and redrock's redshift."""
        spectra = desi.read_coadd(desi_data / TILE)
        row = dict(zip(TABLE.names or (), spectra.table[0].item(), strict=True))
        assert row == {
            "row": 0,
            "targetid": 39633345008634465,
            "tileid": 80613,
            "night": 20210324,
            "petal": 4,
            "fiber": 2233,
            "survey": "sv1",
            "program": "",
            "ra": pytest.approx(105.48977452498902),
            "dec": pytest.approx(56.66930006),
            "objtype": "TGT",
            "desi_target": 1 << 60,
            "coadd_fiberstatus": 0,
            "z": pytest.approx(0.36874355, abs=1e-7),
            "zwarn": 0,
            "spectype": "GALAXY",
            "deltachi2": pytest.approx(150343.774),
        }
        assert spectra.source == str((desi_data / TILE).resolve())

    def test_two_reductions_of_one_target_differ(self, desi_data: Path) -> None:
        """Both fuji (uint32 MASK) and iron (int32 MASK) give the same target with other numbers."""
        iron, fuji = (
            desi.read_coadd(desi_data / d / Path(TILE).name) for d in ("fastspecfit", "fastspecfit/fuji")
        )
        assert iron.table["targetid"] == fuji.table["targetid"]
        assert not np.array_equal(iron.flux, fuji.flux)

    def test_masked_pixels_of_a_real_file_are_bad(self, desi_data: Path) -> None:
        """The 23 pixels with mask bits of a healpix coadd come out with flux and ivar 0."""
        path = desi_data / "picca/coadd-main-dark-9144.fits"
        spectra = desi.read_coadd(path)
        masked = np.hstack([fitsio.read(str(path), f"{arm.name.upper()}_MASK") != 0 for arm in ARMS])
        assert masked.sum() == 23
        assert not spectra.flux[masked].any()
        assert not spectra.ivar[masked].any()

    @pytest.mark.parametrize("name", ["picca/missing_z_color.fits", "picca/spectra-main-dark-9144.fits"])
    def test_malformed_files_are_bad_input(self, desi_data: Path, name: str) -> None:
        """A real file without an arm is BadInput that names the file and the missing HDU."""
        with pytest.raises(BadInput, match=rf"{name}: HDU B_FLUX: is missing"):
            desi.read_coadd(desi_data / name)

    def test_a_redrock_file_of_other_targets_changes_nothing(self, desi_data: Path) -> None:
        """Redrock rows of other targets leave the redshift missing."""
        spectra = desi.read_coadd(desi_data / TILE, desi_data / "redrock/redrock-test.fits")
        assert np.isnan(spectra.table["z"]).all()
        assert (spectra.table["spectype"] == "UNKNOWN").all()


class TestRoundTrip:
    def test_what_is_written_is_read(self, coadd: Path, spectra: Spectra) -> None:
        """Flux, ivar and the identity of a written coadd come back, garbage under the mask does not."""
        found = desi.read_coadd(coadd)
        np.testing.assert_array_equal(found.flux, spectra.flux)
        np.testing.assert_array_equal(found.ivar, spectra.ivar)
        assert_same_tables(found.table, spectra.table)

    def test_reasons_of_the_roles(self, coadd: Path) -> None:
        """Sky, dead and unplugged rows of a file are recognised."""
        found = desi.read_coadd(coadd)
        reasons = ineligible_reasons(found)
        assert reasons[SKY_ROWS[0]] == "sky"
        assert reasons[DEAD_ROW] == "no_data"
        assert found.table["spectype"][UNKNOWN_ROW] == "UNKNOWN"

    def test_gzip_is_the_same(self, tmp_path: Path, coadd: Path, spectra: Spectra) -> None:
        """A .fits.gz gives what the .fits gives, with the same redrock file."""
        zipped = tmp_path / (NAME + ".gz")
        zipped.write_bytes(gzip.compress(coadd.read_bytes(), 1))
        found = desi.read_coadd(zipped)
        np.testing.assert_array_equal(found.ivar, spectra.ivar)
        assert_same_tables(found.table, spectra.table)

    def test_spectra_files_have_a_row_per_exposure(self, tmp_path: Path, spectra: Spectra) -> None:
        """A spectra-* file may hold a TARGETID twice and FIBERSTATUS instead of COADD_FIBERSTATUS."""
        hdus = coadd_hdus(spectra.take(np.array([0, 0, 1])))
        names = ["FIBERSTATUS" if n == "COADD_FIBERSTATUS" else n for n in hdus["FIBERMAP"].dtype.names or ()]
        hdus["FIBERMAP"].dtype.names = tuple(names)
        hdus["FIBERMAP"]["FIBERSTATUS"] = 1 << 16
        write_hdus(tmp_path / REDROCK_NAME, {"REDSHIFTS": make_redshifts(spectra.table)})
        found = desi.read_coadd(write_hdus(tmp_path / NAME.replace("coadd", "spectra"), hdus))
        np.testing.assert_array_equal(found.table["z"], spectra.table["z"][[0, 0, 1]])
        np.testing.assert_array_equal(found.table["coadd_fiberstatus"], 1 << 16)

    def test_other_types_and_hdus_do_not_matter(self, tmp_path: Path, spectra: Spectra) -> None:
        """float64 images, uint32 masks, any HDU order and unknown HDUs give the same spectra."""
        hdus = dict(reversed(coadd_hdus(spectra).items()))
        for name, values in hdus.items():
            hdus[name] = values.astype({"MASK": "u4", "FLUX": "f8", "IVAR": "f8"}.get(name[2:], values.dtype))
        hdus["B_RESOLUTION"] = np.zeros((len(spectra), 11, ARMS[0].n), "f4")
        found = desi.read_coadd(write_hdus(tmp_path / NAME, hdus))
        np.testing.assert_array_equal(found.flux, spectra.flux)
        np.testing.assert_array_equal(found.ivar, spectra.ivar)

    def test_scaled_images_are_read_as_their_header_says(self, coadd: Path) -> None:
        """BSCALE and BZERO of an image change its values, as for every reader of FITS."""
        with fitsio.FITS(str(coadd), "rw") as fits:
            fits["R_FLUX"].write_key("BSCALE", 2.0)
            fits["Z_IVAR"].write_key("BZERO", 1.5)
        found, (_, r, z) = desi.read_coadd(coadd), ARMS
        with fitsio.FITS(str(coadd)) as fits:
            flux, ivar, mask = (fits[name].read() for name in ("R_FLUX", "Z_IVAR", "Z_MASK"))
        good = found.ivar[:, r.pixels] > 0
        np.testing.assert_array_equal(found.flux[:, r.pixels][good], flux[good])
        good = mask == 0
        np.testing.assert_array_equal(found.ivar[:, z.pixels][good], ivar[good])

    def test_without_mask_ivar_alone_tells_the_bad_pixels(self, tmp_path: Path, spectra: Spectra) -> None:
        """In a file without MASK, zero, negative and non-finite ivar and non-finite flux are bad."""
        hdus = {name: hdu for name, hdu in coadd_hdus(spectra).items() if not name.endswith("MASK")}
        hdus["R_IVAR"][0, :4] = 0.0, -1.0, np.nan, np.inf
        hdus["R_FLUX"][0, 4:6] = np.nan, -np.inf
        found = desi.read_coadd(write_hdus(tmp_path / NAME, hdus))
        red = ARMS[1].pixels.start
        assert not found.ivar[0, red : red + 6].any()
        assert not found.flux[0, red : red + 6].any()

    def test_flux_and_ivar_beyond_any_spectrum_are_bounded(self, tmp_path: Path, spectra: Spectra) -> None:
        """The largest floats count as MAX_FLUX and MAX_IVAR, whose squares float32 holds."""
        hdus = {name: hdu for name, hdu in coadd_hdus(spectra).items() if not name.endswith("MASK")}
        hdus["R_FLUX"][0, 4:6], hdus["R_IVAR"][0, 4:6] = (3e38, -3e38), 3e38
        found = desi.read_coadd(write_hdus(tmp_path / NAME, hdus))
        at = slice(ARMS[1].start + 4, ARMS[1].start + 6)
        np.testing.assert_array_equal(found.flux[0, at], [MAX_FLUX, -MAX_FLUX])
        np.testing.assert_array_equal(found.ivar[0, at], np.full(2, MAX_IVAR, np.float32))

    def test_without_fibermap_rows_have_no_identity(
        self, tmp_path: Path, spectra: Spectra, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file without FIBERMAP is read with targetid 0 and no redshifts, and one warning says so."""
        write_hdus(tmp_path / REDROCK_NAME, {"REDSHIFTS": make_redshifts(spectra.table)})
        hdus = coadd_hdus(spectra)
        del hdus["FIBERMAP"]
        with caplog.at_level(logging.WARNING):
            found = desi.read_coadd(write_hdus(tmp_path / NAME, hdus))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert not found.table["targetid"].any()
        assert np.isnan(found.table["z"]).all()
        assert (found.table["tileid"] == HEADER["TILEID"]).all()

    def test_a_fibermap_of_foreign_columns_tells_nothing(self, tmp_path: Path, spectra: Spectra) -> None:
        """A FIBERMAP without any column that we know leaves the rows unknown."""
        hdus = coadd_hdus(spectra) | {"FIBERMAP": make_table({"EBV": np.zeros(9)})}
        hdus["EXP_FIBERMAP"] = hdus["FIBERMAP"]
        found = desi.read_coadd(write_hdus(tmp_path / NAME, hdus))
        assert not found.table["targetid"].any()
        assert (found.table["fiber"] == -1).all()

    def test_healpix_rows_take_what_all_their_exposures_agree_on(
        self, tmp_path: Path, spectra: Spectra
    ) -> None:
        """TILEID, FIBER, PETAL_LOC and NIGHT of a healpix coadd come from EXP_FIBERMAP where they are one."""
        hdus = coadd_hdus(spectra)
        targetid = spectra.table["targetid"]
        hdus["FIBERMAP"] = make_table({"TARGETID": targetid})
        exposures = {
            "TARGETID": np.array([targetid[1], targetid[0], targetid[1], 5]),
            "TILEID": np.array([7, 8, 7, 9], "i4"),
            "FIBER": np.array([10, 11, 12, 13], "i4"),
            "PETAL_LOC": np.array([2, 3, 2, 4], "i2"),
            "NIGHT": np.array([20260101, 20260102, 20260101, 20260103], "i4"),
        }
        hdus["EXP_FIBERMAP"] = make_table(exposures)
        path = write_hdus(tmp_path / "coadd-main-bright-9144.fits", hdus, {"SURVEY": "sv3"})
        table = desi.read_coadd(path).table
        assert table[["tileid", "fiber", "petal", "night"]][:3].tolist() == [
            (8, 11, 3, 20260102),
            (7, -1, 2, 20260101),
            (-1, -1, -1, -1),
        ]
        assert (table["survey"] == "sv3").all()  # the header is believed before the name
        assert (table["program"] == "bright").all()


class TestInvariance:
    @given(data=st.data())
    @settings(IN_TMP, max_examples=20)
    def test_the_order_of_redrock_does_not_matter(
        self, tmp_path: Path, coadd: Path, spectra: Spectra, data: st.DataObject
    ) -> None:
        """Redrock rows are joined by TARGETID, whatever their order and however many are not ours."""
        redshifts = make_redshifts(spectra.table)
        order = data.draw(st.permutations(range(len(redshifts))))
        others = redshifts[: data.draw(st.integers(0, 3))].copy()
        others["TARGETID"] += 10**9
        write_hdus(tmp_path / REDROCK_NAME, {"REDSHIFTS": np.concatenate([others, redshifts[list(order)]])})
        assert_same_tables(desi.read_coadd(coadd).table, spectra.table)

    @given(flux=st.floats(width=32), ivar=st.floats(width=32))
    @IN_TMP
    def test_masked_pixels_do_not_matter(
        self, tmp_path: Path, spectra: Spectra, flux: float, ivar: float
    ) -> None:
        """Whatever stands in masked pixels, the Spectra are the same."""
        hdus = coadd_hdus(spectra)
        for arm in "BRZ":
            masked = hdus[f"{arm}_MASK"] != 0
            hdus[f"{arm}_FLUX"][masked], hdus[f"{arm}_IVAR"][masked] = flux, ivar
        found = desi.read_coadd(write_hdus(tmp_path / NAME, hdus))
        np.testing.assert_array_equal(found.flux, spectra.flux)
        np.testing.assert_array_equal(found.ivar, spectra.ivar)


class TestBrokenFiles:
    @given(where=st.floats(0, 1))
    @IN_TMP
    def test_a_file_cut_anywhere_is_bad_input(
        self, tmp_path: Path, coadd: Path, spectra: Spectra, where: float
    ) -> None:
        """A file cut at any byte gives BadInput, or the right spectra where only padding is lost."""
        whole = coadd.read_bytes()
        cut = tmp_path / "coadd-9-1000-thru20260101.fits"
        cut.write_bytes(whole[: int(where * len(whole))])
        try:
            found = desi.read_coadd(cut)
        except BadInput:
            return
        np.testing.assert_array_equal(found.ivar, spectra.ivar)

    @given(
        edits=st.lists(
            st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
        )
    )
    @IN_TMP
    def test_flipped_header_bytes_never_crash(
        self, tmp_path: Path, coadd: Path, spectra: Spectra, edits: list[tuple[float, int]]
    ) -> None:
        """Wrong bytes in the headers give BadInput or clean spectra of some identity, no other exception."""
        content = bytearray(coadd.read_bytes())
        with fitsio.FITS(str(coadd)) as fits:
            infos = [hdu.get_info() for hdu in fits]
        headers = np.concatenate([np.arange(info["header_start"], info["data_start"]) for info in infos])
        for where, byte in edits:
            content[headers[int(where * len(headers))]] = byte
        coadd.with_name("coadd-0-1001-thru20260101.fits").write_bytes(content)
        try:
            found = desi.read_coadd(coadd.with_name("coadd-0-1001-thru20260101.fits"))
        except BadInput:
            return
        assert np.isfinite(found.flux).all()
        assert np.isfinite(found.ivar).all()

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"Z_FLUX": None}, "HDU Z_FLUX: is missing; the file has .*B_FLUX"),
            ({"R_WAVELENGTH": ARMS[1].wave + 0.1}, "HDU R_WAVELENGTH: is not the DESI grid"),
            ({"R_WAVELENGTH": ARMS[0].wave}, "HDU R_WAVELENGTH: has shape"),
            (
                {"B_IVAR": np.ones((3, ARMS[0].n), "f4")},
                r"HDU B_IVAR: has shape \[3, 2751\], expected \[9, 2751\]",
            ),
            ({"B_FLUX": np.ones(ARMS[0].n, "f4")}, "HDU B_FLUX: has shape"),
            ({"Z_FLUX": np.full((9, ARMS[2].n), np.nan, "f4")}, "HDU Z_FLUX: holds no finite value"),
            ({"Z_MASK": np.ones((9, ARMS[2].n), "f4")}, "HDU Z_MASK: holds float32"),
            ({"FIBERMAP": make_table({"TARGETID": np.arange(3)})}, "HDU FIBERMAP: is no table of 9 rows"),
            (
                {"FIBERMAP": make_table({"TARGETID": np.ones(9)})},
                "HDU FIBERMAP: column for targetid holds .*f8",
            ),
            (
                {"FIBERMAP": make_table({"TILEID": np.full(9, 1 << 40)})},
                "HDU FIBERMAP: column for tileid holds",
            ),
            ({"FIBERMAP": np.ones((9, 9))}, "HDU FIBERMAP: is no table"),
            (
                {"FIBERMAP": make_table({"OBJTYPE": np.full(9, "x" * 300, "S300")})},
                "HDU FIBERMAP: column OBJTYPE holds 300A",
            ),
            (
                {"FIBERMAP": make_table({"OBJTYPE": np.array(["TGT"] * 9, object)})},
                r"HDU FIBERMAP: column OBJTYPE holds 1PA\(",
            ),
        ],
    )
    def test_wrong_content_names_the_hdu(
        self, tmp_path: Path, spectra: Spectra, change: dict[str, np.ndarray | None], problem: str
    ) -> None:
        """An HDU that is missing or of wrong shape, type or content is BadInput that says which and why."""
        hdus = coadd_hdus(spectra) | change
        path = write_hdus(tmp_path / NAME, {name: hdu for name, hdu in hdus.items() if hdu is not None})
        with pytest.raises(BadInput, match=f"{path}: {problem}"):
            desi.read_coadd(path)

    @pytest.mark.parametrize(
        ("redshifts", "problem"),
        [
            (make_table({"TARGETID": np.array([5, 6, 5]), "Z": np.zeros(3)}), "two rows of one TARGETID"),
            (make_table({"TARGETID": np.array([5, 6])}), "lacks TARGETID or Z"),
        ],
    )
    def test_a_wrong_redrock_file_is_bad_input(
        self, tmp_path: Path, coadd: Path, redshifts: np.ndarray, problem: str
    ) -> None:
        """A redrock file that cannot be joined is BadInput that names it, not the coadd."""
        path = write_hdus(tmp_path / REDROCK_NAME, {"REDSHIFTS": redshifts})
        with pytest.raises(BadInput, match=f"{path}: HDU REDSHIFTS: .*{problem}"):
            desi.read_coadd(coadd)

    def test_a_zipped_file_is_bounded_before_it_is_unpacked(
        self, coadd: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A .gz that holds more than the bound is BadInput: CFITSIO would unpack it whole into memory."""
        zipped = coadd.with_name("coadd-0-1000-zipped.fits.gz")
        zipped.write_bytes(gzip.compress(coadd.read_bytes(), 1))
        assert len(desi.read_coadd(zipped)) == 9
        monkeypatch.setattr(fits, "MAX_UNZIPPED_BYTES", coadd.stat().st_size - 1)
        with pytest.raises(BadInput, match="unpacks to more than"):
            desi.read_coadd(zipped)

    def test_tables_are_bounded(self, coadd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A table without a number of rows of its own (REDSHIFTS, EXP_FIBERMAP) has at most MAX_TABLE_ROWS."""
        monkeypatch.setattr(fits, "MAX_TABLE_ROWS", 5)
        monkeypatch.setattr(desi, "_read_table", lambda *_: make_spectra(9, seed=3).table)
        with pytest.raises(BadInput, match="HDU REDSHIFTS: is no table of up to 5 rows"):
            desi.read_coadd(coadd)

    @pytest.mark.parametrize("content", [b"", b"SIMPLE", b"<html>404</html>", b"\x1f\x8b\x08 not gzip"])
    def test_what_is_not_fits_is_bad_input(self, tmp_path: Path, content: bytes) -> None:
        """Empty and foreign files are BadInput that names the file."""
        path = tmp_path / NAME
        path.write_bytes(content)
        with pytest.raises(BadInput, match=str(path)):
            desi.read_coadd(path)

    def test_a_directory_is_bad_input(self, tmp_path: Path) -> None:
        """A directory is no coadd."""
        with pytest.raises(BadInput, match="not a regular file"):
            desi.read_coadd(tmp_path)

    @pytest.mark.parametrize("name", ["coadd[1].fits", "coadd.fits(copy.fits)"])
    def test_names_that_cfitsio_would_interpret_are_refused(
        self, tmp_path: Path, coadd: Path, name: str
    ) -> None:
        """CFITSIO would filter rows or write a copy for such names; they are BadInput."""
        path = coadd.rename(tmp_path / name)
        with pytest.raises(BadInput, match="rename it"):
            desi.read_coadd(path)

    def test_a_missing_file_may_come_back(self, tmp_path: Path, coadd: Path) -> None:
        """A coadd, or a redrock file that was asked for, that is not there is Unavailable."""
        with pytest.raises(Unavailable, match="No such file"):
            desi.read_coadd(tmp_path / "coadd-gone.fits")
        with pytest.raises(Unavailable, match="redrock-gone"):
            desi.read_coadd(coadd, tmp_path / "redrock-gone.fits")

    def test_a_failing_disk_is_not_the_fault_of_the_file(
        self, coadd: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that cannot be parsed because the disk fails is Unavailable, not BadInput."""
        coadd.write_bytes(b"garbage")

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Path, "open", fail)
        with pytest.raises(Unavailable, match="Input/output error"):
            desi.read_coadd(coadd)

    def test_a_file_that_changes_meanwhile_is_tried_again(
        self, coadd: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that is replaced while it is read is Unavailable: the next attempt reads the new one."""
        read_table = desi._read_table

        def touch(fits: Fits, n: int) -> np.ndarray:
            os.utime(coadd, (1, 1))
            return read_table(fits, n)

        monkeypatch.setattr(desi, "_read_table", touch)
        with pytest.raises(Unavailable, match="changed while it was read"):
            desi.read_coadd(coadd)


class TestDescribe:
    def test_header_facts(self, coadd: Path) -> None:
        """The header of a tile coadd tells tile, petal, night, survey, program and the number of rows."""
        assert desi.describe(coadd) == {
            "tileid": 1000,
            "petal": 0,
            "night": 20260101,
            "survey": "main",
            "program": "dark",
            "n": 9,
        }

    def test_the_name_tells_what_the_header_does_not(self, tmp_path: Path, spectra: Spectra) -> None:
        """Without header keywords the file name is believed; what neither tells is missing."""
        path = write_hdus(tmp_path / "coadd-3-1234-exp00012345.fits", coadd_hdus(spectra), {"TILEID": "x"})
        facts = desi.describe(path)
        assert (facts["tileid"], facts["petal"], facts["night"], facts["survey"]) == (1234, 3, -1, "")


class TestFindCoadds:
    def test_directories_are_searched(self, tmp_path: Path) -> None:
        """Finished coadds are found in sorted order, each once, and .fits is preferred to its .fits.gz."""
        names = [
            "b/coadd-1-2-thru20260101.fits",
            "a/x/coadd-0-2-thru20260101.fits.gz",
            "b/coadd-1-2-thru20260101.fits.gz",
            "b/redrock-1-2-thru20260101.fits",
            "b/coadd-2-2-thru20260101_tmp4321.fits",
            "b/coadd-3-2.h5",
        ]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        expected = [tmp_path / names[1], tmp_path / names[0]]
        assert desi.find_coadds([tmp_path]) == expected
        assert desi.find_coadds([tmp_path / names[1], tmp_path, tmp_path / "b"]) == expected

    def test_a_directory_that_cannot_be_searched_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Spectra below it are not left out in silence; whoever wants to hear of it gets the others."""
        (tmp_path / "closed").mkdir()
        (tmp_path / "coadd-1-2-thru20260101.fits").touch()
        scan = os.scandir

        def closed(path: Path) -> object:
            if Path(path).name == "closed":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", closed)
        with pytest.raises(Unavailable, match=r"closed: cannot be searched: Permission denied"):
            desi.find_coadds([tmp_path])
        told: list[Unavailable] = []
        assert desi.find_coadds([tmp_path], told.append) == [tmp_path / "coadd-1-2-thru20260101.fits"]
        assert len(told) == 1

    def test_a_missing_path_keeps_back_no_other(self, tmp_path: Path) -> None:
        """A path that does not exist is given like a file, whose reader is told."""
        (tmp_path / "coadd-1-2-thru20260101.fits").touch()
        gone = tmp_path / "gone.fits"
        assert desi.find_coadds([gone, tmp_path]) == [gone, tmp_path / "coadd-1-2-thru20260101.fits"]
        with pytest.raises(Unavailable, match=r"gone\.fits"):
            desi.read_coadd(gone)
