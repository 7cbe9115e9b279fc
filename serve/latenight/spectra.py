"""The Spectra batch: what one message holds; arm grids, column names, shapes and units.

All fluxes are in 1e-17 erg s-1 cm-2 A-1, wavelengths in vacuum Angstrom. The three arms are kept
at their own pixels, concatenated b | r | z (7958 pixels); the joint grid (7781 pixels) is what
remains when pixels of the same wavelength are counted once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Arm:
    """One spectrograph arm: its pixels on the concatenated and on the joint grid.

    Attributes:
        name: "b", "r" or "z".
        wave_min: wavelength of the first pixel [A].
        n: number of pixels, 0.8 A apart.
        start: index of the first pixel on the concatenated grid (7958).
        joint_start: index of the first pixel on the joint grid (7781).
    """

    name: str
    wave_min: float
    n: int
    start: int
    joint_start: int

    @property
    def pixels(self) -> slice:
        """Pixels of the arm on the concatenated grid."""
        return slice(self.start, self.start + self.n)

    @property
    def joint_pixels(self) -> slice:
        """Pixels of the arm on the joint grid."""
        return slice(self.joint_start, self.joint_start + self.n)

    @property
    def wave(self) -> NDArray[np.float64]:
        """Vacuum wavelengths of the arm's pixels, (n,) [A]."""
        return self.wave_min + PIXEL * np.arange(self.n, dtype=np.float64)


PIXEL = 0.8  # Angstrom, the same in every DESI reduction
ARMS = (
    Arm("b", 3600.0, 2751, 0, 0),
    Arm("r", 5760.0, 2326, 2751, 2700),
    Arm("z", 7520.0, 2881, 5077, 4900),
)
N_PIX = 7958
N_JOINT = 7781
WAVE = np.concatenate([arm.wave for arm in ARMS])  # (7958,)
WAVE_JOINT = 3600.0 + PIXEL * np.arange(N_JOINT)  # (7781,)
# What is beyond is read as these, so that squares of artefacts stay inside float32: 1e-11 erg s-1 cm-2 A-1 is more than
# any target gives.
MAX_FLUX, MAX_IVAR = 1e6, 1e12
# A wavelength in the overlap of two arms belongs to the arm whose own end is farther away.
ARM_EDGES = [(low.wave[-1] + high.wave_min) / 2.0 for low, high in pairwise(ARMS)]  # [A]
ARM_OF_PIXEL = np.repeat(np.arange(len(ARMS)), [arm.n for arm in ARMS])  # (7958,) 0, 1, 2

# One message or file holds no more: a petal has 500 rows, the densest healpix pixel of DR1 some thousands. 10 000
# take 640 MB; what claims more is damaged, and would take the daemon's memory before anything else is checked.
MAX_ROWS = 10_000

UNKNOWN = "UNKNOWN"  # spectype of a spectrum without a redrock row
SPECTYPES = ("GALAXY", "QSO", "STAR", UNKNOWN)

# One row per spectrum. A column that the file does not have holds its missing value (MISSING).
TABLE = np.dtype(
    [
        ("row", "i4"),  # row of the file or message
        ("targetid", "i8"),
        ("tileid", "i4"),
        ("night", "i4"),
        ("petal", "i2"),
        ("fiber", "i4"),
        ("survey", "U16"),
        ("program", "U16"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("objtype", "U3"),
        ("desi_target", "i8"),
        ("coadd_fiberstatus", "i8"),
        ("z", "f4"),
        ("zwarn", "i8"),
        ("spectype", "U8"),
        ("deltachi2", "f4"),
    ]
)
MISSING: dict[str, object] = {
    "targetid": 0,
    "tileid": -1,
    "night": -1,
    "petal": -1,
    "fiber": -1,
    "survey": "",
    "program": "",
    "ra": np.nan,
    "dec": np.nan,
    "objtype": "",
    "desi_target": 0,
    "coadd_fiberstatus": 0,
    "z": np.nan,
    "zwarn": -1,
    "spectype": UNKNOWN,
    "deltachi2": np.nan,
}


def at_wavelengths(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values at the pixels of the arms, (N, 7958), as (N, 7781) on the joint grid; where two arms overlap, the bluer's.

    For what depends on wavelength alone, such as a reconstruction.
    """
    joint = np.empty((len(values), N_JOINT), np.float32)
    for arm in reversed(ARMS):
        joint[:, arm.joint_pixels] = values[:, arm.pixels]
    return joint


def empty_table(n: int) -> np.ndarray:
    """A table of n rows in which every column holds its missing value and row counts from 0."""
    table = np.zeros(n, TABLE)
    table["row"] = np.arange(n)
    for name, value in MISSING.items():
        table[name] = value
    return table


def bound(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> None:
    """Bring finite flux and ivar, of any shape, within what Spectra may hold, in place."""
    np.clip(flux, -MAX_FLUX, MAX_FLUX, out=flux)
    np.minimum(ivar, MAX_IVAR, out=ivar)


@dataclass(frozen=True)
class Spectra:
    """The spectra of one message: one petal coadd, as a rule 500 rows.

    Attributes:
        flux: (N, 7958) float32 [1e-17 erg s-1 cm-2 A-1]; 0 where ivar is 0; within +-MAX_FLUX.
        ivar: (N, 7958) float32 [1e34 erg-2 s2 cm4 A2]; 0 in bad pixels (mask != 0, non-finite,
            ivar <= 0); at most MAX_IVAR.
        table: (N,) structured array of dtype TABLE; z is NaN and spectype "UNKNOWN" without redrock.
        source: where the spectra came from (file path or topic/partition/offset), for messages.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    table: np.ndarray
    source: str

    def __len__(self) -> int:
        """The number of spectra."""
        return len(self.table)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Spectra:
        """The spectra of the given rows, in the given order."""
        return replace(self, flux=self.flux[rows], ivar=self.ivar[rows], table=self.table[rows])


# desispec's "good fibre": COADD_FIBERSTATUS 0, or RESTRICTED (bit 3) or VARIABLETHRU (bit 14, accepted
# since desispec 0.71.5). Bad amplifiers (bits 22-24) remove one arm only, whose pixels then have ivar 0.
GOOD_FIBERSTATUS_BITS = (1 << 3) | (1 << 14) | (1 << 22) | (1 << 23) | (1 << 24)
# Fewer good pixels than this leave nothing to compare with a model: half the smallest arm.
MIN_GOOD_PIXELS = 1163
REASONS = ("sky", "not_target", "fiberstatus", "no_data", "few_pixels")


def ineligible_reasons(spectra: Spectra) -> np.ndarray:
    """Why each spectrum is kept out of the ranking, (N,) str; "" marks the eligible ones.

    The first reason that applies is given, in the order of REASONS. What a file does not say
    (a healpix coadd without OBJTYPE, a file without FIBERMAP) excludes nothing.
    """
    table = spectra.table
    n_good = np.count_nonzero(spectra.ivar, axis=1)
    objtype = table["objtype"]
    conditions = {
        "sky": objtype == "SKY",
        "not_target": ((objtype != "") & (objtype != "TGT")) | (table["targetid"] < 0),
        "fiberstatus": (table["coadd_fiberstatus"] & ~GOOD_FIBERSTATUS_BITS) != 0,
        "no_data": n_good == 0,
        "few_pixels": n_good < MIN_GOOD_PIXELS,
    }
    return np.select(list(conditions.values()), list(conditions), default="")
