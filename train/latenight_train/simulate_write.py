"""FITS files of the simulator: writes coadd, redrock and truth files; reads redrock templates."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import fitsio
import numpy as np

from latenight.spectra import ARMS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
_IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"


def _write(path: Path, fill: Callable[[fitsio.FITS], None]) -> None:
    """Write under a temporary name, then rename, as desispec does: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}_tmp{os.getpid()}.fits")
    with fitsio.FITS(str(unfinished), "rw", clobber=True) as fits:
        fill(fits)
    unfinished.replace(path)


def write_coadd(
    path: Path,
    header: Mapping[str, object],
    tables: Mapping[str, np.ndarray],
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    mask: NDArray[np.int32],
) -> None:
    """Write a coadd file.

    Args:
        path: of the file; folders are made.
        header: keywords of the primary HDU.
        tables: binary tables by HDU name (FIBERMAP, EXP_FIBERMAP).
        flux: (N, 7958) [1e-17 erg s-1 cm-2 A-1].
        ivar: (N, 7958).
        mask: (N, 7958) bits of specmask.
    """

    def fill(fits: fitsio.FITS) -> None:
        fits.write(None, header=dict(header))
        for name, table in tables.items():
            fits.write(table, extname=name)
        for arm in ARMS:
            prefix = arm.name.upper()
            fits.write(arm.wave, extname=f"{prefix}_WAVELENGTH", header={"BUNIT": "Angstrom"})
            fits.write(
                np.ascontiguousarray(flux[:, arm.pixels]),
                extname=f"{prefix}_FLUX",
                header={"BUNIT": _FLUX_UNIT},
            )
            fits.write(
                np.ascontiguousarray(ivar[:, arm.pixels]),
                extname=f"{prefix}_IVAR",
                header={"BUNIT": _IVAR_UNIT},
            )
            fits.write(np.ascontiguousarray(mask[:, arm.pixels]), extname=f"{prefix}_MASK")

    _write(path, fill)


def write_tables(path: Path, header: Mapping[str, object], tables: Mapping[str, np.ndarray]) -> None:
    """Write a file of binary tables by HDU name (redrock and truth files)."""

    def fill(fits: fitsio.FITS) -> None:
        fits.write(None, header=dict(header))
        for name, table in tables.items():
            fits.write(table, extname=name)

    _write(path, fill)


def read_images(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keywords of the primary HDU and of the first image, and the images by HDU name, of a template file."""
    with fitsio.FITS(str(path)) as fits:
        header = dict(fits[0].read_header())
        images: dict[str, np.ndarray] = {}
        for hdu in fits:
            if hdu.get_exttype() == "IMAGE_HDU" and hdu.has_data():
                header |= dict(hdu.read_header()) if not images else {}
                images[hdu.get_extname()] = hdu.read().astype(np.float64)
        return header, images
