"""The linear models of a bundle: what ordinary spectra of each group are made of, as the graphs get it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import SPECTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FINE = 2  # points a bin
# Where ordinary coefficients lie, of R regions: (K + 1, R), coefficients times its first rows plus the last are largest
# in the region of a spectrum; (R, K) expected coefficients; (R, K * K) inverse covariances.
REGIONS = ("centres", "expected", "precisions")


@dataclass(frozen=True)
class ModeGroup:
    """The linear model of one group of spectra.

    Attributes:
        spectype: redrock's class.
        z_min, z_max: redshifts that it serves.
        weights: what the graphs of both passes get of it.
    """

    spectype: str
    z_min: float
    z_max: float
    weights: dict[str, np.ndarray]

    def given(self, *names: str) -> dict[str, np.ndarray]:
        """What both graphs get, and beside it those named, in the order of the modules' arguments."""
        return {name: self.weights[name] for name in ("modes", "profiles", "grid", *names)}


def groups_of(
    groups: Sequence[ModeGroup], spectype: NDArray[np.int64], z: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Index of the group that serves each row, (n,), -1 for none; from index into SPECTYPES and redshift, (n,) each."""
    found = np.full(len(z), -1)
    for k, group in enumerate(groups):
        mine = (spectype == SPECTYPES.index(group.spectype)) & (z >= group.z_min) & (z < group.z_max)
        found[mine] = k
    return found


def read_modes(path: Path) -> list[ModeGroup]:
    """The linear models in a bundle's modes.npz."""
    with np.load(path, allow_pickle=False) as arrays:
        facts = zip(arrays["spectype"].tolist(), arrays["z_range"].tolist(), strict=True)
        names = ("columns", "grid", "precision")
        return [
            ModeGroup(
                spectype,
                z_min,
                z_max,
                weights_of(*(arrays[f"{name}_{k}"] for name in names))
                | {name: arrays[f"{name}_{k}"] for name in REGIONS},
            )
            for k, (spectype, (z_min, z_max)) in enumerate(facts)
        ]


def weights_of(columns: Floats, grid: NDArray[np.float64], precision: Floats) -> dict[str, np.ndarray]:
    """What the graphs get of a group's linear model: read off at the nearest of FINE points a bin.

    The graphs then gather one row per pixel. To interpolate between two inside them took 14 % of pass 2; the nearest
    of 2 is at most a quarter of a bin away, 7 km/s, where redshifts err by 10 and more. Against 4 points the strongest
    windows of 1 to 4 pixels change by .02 of their scatter, and gathering takes .11 ms a spectrum instead of .28: the
    points next to each other are read together.

    Args:
        columns: (bins, K + 3) modes, mean spectrum, variance and quiet bins.
        grid: (2,) ln(wavelength) of the first bin and bins per unit of it.
        precision: (K, K) inverse covariance of the coefficients.

    Returns:
        modes: (points, K). profiles: (3, points) mean spectrum, variance, quiet. grid: (3,) of the points, and the
        number of the last. precision.
    """
    n = len(columns)
    at = np.arange((n - 1) * FINE + 1) / FINE
    low = np.minimum(at.astype(int), n - 2)
    share = (at - low)[:, None].astype(np.float32)
    fine = columns[low] * (1 - share) + columns[low + 1] * share
    return {
        "modes": np.ascontiguousarray(fine[:, : len(precision)]),
        "profiles": np.ascontiguousarray(fine[:, len(precision) :].T),
        "grid": np.array([grid[0], grid[1] * FINE, len(at) - 1]),
        "precision": precision,
    }
