"""What redrock would answer, right or wrong: redshift, class, DELTACHI2 and ZWARN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, N_PIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

REDSHIFTS = np.dtype(
    [
        ("TARGETID", "i8"), ("Z", "f8"), ("ZERR", "f8"), ("ZWARN", "i8"), ("CHI2", "f8"),
        ("COEFF", "f8", (10,)), ("NPIXELS", "i8"), ("SPECTYPE", "S6"), ("SUBTYPE", "S20"), ("NCOEFF", "i8"),
        ("DELTACHI2", "f8"),
    ]
)  # fmt: skip
SMALL_DELTA_CHI2, SKY, NODATA = 4, 1, 512  # bits of ZWARN
# Windows [pixels] of the running mean: redrock lives on breaks and broad lines as well as on narrow lines.
QSO_WINDOW, GALAXY_WINDOW = 401, 601
# Pairs of features that redrock takes for each other [A].
_CONFUSED = (
    (3728.5, 6564.6), (6564.6, 3728.5), (5008.2, 6564.6), (3728.5, 5008.2), (1908.7, 2799.0),
    (2799.0, 1549.0), (2799.0, 1908.7), (1549.0, 2799.0), (3728.5, 9376.0), (1215.7, 3728.5),
)  # fmt: skip


def feature_strength(source: Array, ivar: NDArray[np.floating], window: int) -> float:
    """Information on the redshift in a noise-free spectrum: sum of ivar x (flux - running mean)^2."""
    total = 0.0
    for arm in ARMS:
        flux = source[arm.pixels]
        padded = np.cumsum(np.concatenate([[0.0], np.pad(flux, window // 2, mode="edge")]))
        smooth = (padded[window:] - padded[:-window])[: arm.n] / window
        total += float(np.sum(ivar[arm.pixels] * (flux - smooth) ** 2))
    return total


def answer(
    rng: np.random.Generator, source: Array, ivar: NDArray[np.floating], z: float, spectype: str, subtype: str
) -> tuple[np.ndarray, bool]:
    """The row of the redrock table for a spectrum, TARGETID left 0, and whether its z is wrong.

    Args:
        rng: source of randomness.
        source: (7958,) noise-free flux.
        ivar: (7958,) reported.
        z: true redshift.
        spectype: true class.
        subtype: of a star.
    """
    row = np.zeros(1, REDSHIFTS)
    row["NPIXELS"] = n_good = np.count_nonzero(ivar)
    row["CHI2"] = n_good * rng.normal(1.08, 0.03)
    row["NCOEFF"] = {"GALAXY": 10, "QSO": 4, "STAR": 5}[spectype]
    if n_good == 0:
        row["Z"], row["SPECTYPE"], row["SUBTYPE"], row["ZWARN"] = (
            -0.002,
            b"STAR",
            b"B",
            NODATA | SMALL_DELTA_CHI2,
        )
        return row, True
    strength = feature_strength(source, ivar, QSO_WINDOW if spectype == "QSO" else GALAXY_WINDOW)
    gap = strength * rng.lognormal(0.0, 0.25)  # chi2 between the best and the second-best redshift
    # Below a gap of about 12 noise peaks compete; 0.4 % of the bright ones fail too (artefacts, blends, gaps
    # of templates).
    fails = rng.random() < 0.004 + 0.996 / (1.0 + (gap / 12.0) ** 2.5)
    if fails:
        z, spectype, subtype, gap = *_wrong(rng, z, spectype), rng.exponential(4.5)
    error = (3e-4 if spectype == "QSO" else 2.5e-5) * (1.0 + z) * np.sqrt(60.0 / max(gap, 5.0))
    row["ZERR"] = np.clip(error, 2e-6, 2e-3)
    row["Z"] = z + row["ZERR"] * rng.normal(0.0, 1.1)
    row["SPECTYPE"], row["SUBTYPE"], row["DELTACHI2"] = spectype.encode(), subtype.encode(), gap
    row["ZWARN"] = SMALL_DELTA_CHI2 if gap < 9.0 else 0
    return row, bool(fails)


def confuse(rng: np.random.Generator, z: float, spectype: str) -> float:
    """A wrong redshift of the same class: one line taken for another, or anything that redrock tries."""
    highest = 1.7 if spectype == "GALAXY" else 4.5
    if rng.random() < 0.5:
        true, taken = _CONFUSED[rng.integers(len(_CONFUSED))]
        confused = (1.0 + z) * true / taken - 1.0
        if 0.0 < confused < highest:
            return float(confused)
    return float(rng.uniform(0.0, highest))


def _wrong(rng: np.random.Generator, z: float, spectype: str) -> tuple[float, str, str]:
    """A wrong redshift, class and subtype."""
    if spectype != "STAR" and rng.random() < 0.7:
        return confuse(rng, z, spectype), spectype, ""
    kind = str(rng.choice(["GALAXY", "QSO", "STAR"], p=[0.72, 0.16, 0.12]))
    if kind == "STAR":
        return float(rng.normal(0.0, 1e-3)), kind, str(rng.choice(["M", "K", "WD"]))
    return confuse(rng, 0.3, kind), kind, ""


def sky_answer(rng: np.random.Generator) -> np.ndarray:
    """The row for a sky fibre: some redshift without meaning."""
    row = np.zeros(1, REDSHIFTS)
    z, spectype, subtype = _wrong(rng, 0.0, "STAR")
    row["Z"], row["SPECTYPE"], row["SUBTYPE"] = z, spectype.encode(), subtype.encode()
    row["ZERR"], row["ZWARN"], row["DELTACHI2"] = 1e-4, SKY | SMALL_DELTA_CHI2, rng.exponential(5.0)
    row["NPIXELS"], row["CHI2"] = N_PIX, N_PIX * rng.normal(1.1, 0.05)
    return row
