"""The reader against desispec, where that is installed (800 MB, in no extra of ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fitsio
import numpy as np
import pytest

from latenight import desi
from latenight.spectra import ARMS, N_JOINT

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight.spectra import Spectra


def join_arms(spectra: Spectra) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux and ivar on the joint grid, (N, 7781): the ivar-weighted mean where arms overlap."""
    weighted, ivar = np.zeros((2, len(spectra), N_JOINT))
    for arm in ARMS:
        arm_ivar = spectra.ivar[:, arm.pixels].astype(float)
        weighted[:, arm.joint_pixels] += spectra.flux[:, arm.pixels] * arm_ivar
        ivar[:, arm.joint_pixels] += arm_ivar
    return np.divide(weighted, ivar, out=np.zeros_like(weighted), where=ivar > 0), ivar


def unmasked(path: Path, n: int) -> NDArray[np.bool_]:
    """Joint-grid pixels without a mask bit in any arm; elsewhere coadd_cameras forgets the mask."""
    good = np.ones((n, N_JOINT), bool)
    with fitsio.FITS(str(path)) as fits:
        for arm in ARMS:
            name = f"{arm.name.upper()}_MASK"
            if name in fits:
                good[:, arm.joint_pixels] &= fits[name].read() == 0
    return good


@pytest.mark.desispec
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "fastspecfit/coadd-4-80613-thru20210324.fits",
        "fastspecfit/fuji/coadd-4-80613-thru20210324.fits",
        "picca/coadd-1-80693-thru20210204.fits",
        "picca/coadd-main-dark-9144.fits",
        "QuasarNP/test_coadd.fits",
    ],
)
def test_agrees_with_desispec(desi_data: Path, name: str) -> None:
    """On unmasked pixels the joined arms equal read_spectra + coadd_cameras to 1e-5 of value or error."""
    reason = "desispec is not installed; it is an optional oracle"
    io = pytest.importorskip("desispec.io", reason=reason)
    coaddition = pytest.importorskip("desispec.coaddition", reason=reason)
    ours = desi.read_coadd(desi_data / name)
    theirs = coaddition.coadd_cameras(io.read_spectra(str(desi_data / name)))
    (band,) = theirs.bands
    flux, ivar = join_arms(ours)
    good = unmasked(desi_data / name, len(ours))
    assert good.mean() > 0.99
    np.testing.assert_allclose(ivar[good], theirs.ivar[band][good], rtol=1e-5)
    scale = np.maximum(np.abs(flux), 1.0 / np.sqrt(np.where(ivar > 0, ivar, np.inf)))[good]
    difference = np.abs(flux - theirs.flux[band])[good]
    assert (difference <= 1e-5 * scale).all()
