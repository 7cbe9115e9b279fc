"""Coadd files as desispec writes them, small, to be broken by the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fitsio
import numpy as np

from latenight.spectra import ARMS, Spectra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HEADER = {"NIGHT": 20260101, "TILEID": 1000, "PETAL": 0, "SURVEY": "main", "PROGRAM": "dark"}
NAME = "coadd-0-1000-thru20260101.fits"
REDROCK_NAME = "redrock-0-1000-thru20260101.fits"


def make_fibermap(table: np.ndarray) -> np.ndarray:
    """FIBERMAP of a tile coadd."""
    columns = {
        "TARGETID": table["targetid"],
        "PETAL_LOC": table["petal"],
        "FIBER": table["fiber"],
        "COADD_FIBERSTATUS": table["coadd_fiberstatus"].astype("i4"),
        "TARGET_RA": table["ra"],
        "TARGET_DEC": table["dec"],
        "OBJTYPE": table["objtype"].astype("S3"),
        "DESI_TARGET": table["desi_target"],
        "TILEID": table["tileid"],
        "EBV": np.zeros(len(table), "f4"),
    }
    return make_table(columns)


def make_redshifts(table: np.ndarray) -> np.ndarray:
    """REDSHIFTS of redrock for the rows that have a redshift."""
    rows = table[np.isfinite(table["z"])]
    columns = {
        "TARGETID": rows["targetid"],
        "Z": rows["z"].astype("f8"),
        "ZWARN": rows["zwarn"],
        "SPECTYPE": rows["spectype"].astype("S6"),
        "DELTACHI2": rows["deltachi2"].astype("f8"),
    }
    return make_table(columns)


def make_table(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """A structured array of the columns."""
    table = np.zeros(
        len(next(iter(columns.values()))), [(name, values.dtype) for name, values in columns.items()]
    )
    for name, values in columns.items():
        table[name] = values
    return table


def coadd_hdus(spectra: Spectra) -> dict[str, np.ndarray]:
    """All HDUs of a coadd by name; bad pixels of the spectra are masked, and their content is garbage."""
    hdus = {"FIBERMAP": make_fibermap(spectra.table)}
    for arm in ARMS:
        prefix = arm.name.upper()
        bad = spectra.ivar[:, arm.pixels] == 0
        hdus[f"{prefix}_WAVELENGTH"] = arm.wave
        hdus[f"{prefix}_FLUX"] = np.where(bad, np.float32(1e6), spectra.flux[:, arm.pixels])
        hdus[f"{prefix}_IVAR"] = np.where(bad, np.float32(7.0), spectra.ivar[:, arm.pixels])
        hdus[f"{prefix}_MASK"] = bad.astype("i4") * 4
    return hdus


def write_hdus(path: Path, hdus: Mapping[str, np.ndarray], header: Mapping[str, Any] = HEADER) -> Path:
    """Write the HDUs after an empty primary HDU with the header."""
    with fitsio.FITS(str(path), "rw", clobber=True) as fits:
        fits.write(None, header=dict(header))
        for name, values in hdus.items():
            fits.write(values, extname=name)
    return path


def write_coadd(folder: Path, spectra: Spectra, name: str = NAME) -> Path:
    """Write a coadd and then, as the pipeline does, its redrock file; gives the path of the coadd."""
    path = write_hdus(folder / name, coadd_hdus(spectra))
    redrock = folder / name.replace("coadd-", "redrock-")
    write_hdus(redrock, {"REDSHIFTS": make_redshifts(spectra.table)})
    return path
