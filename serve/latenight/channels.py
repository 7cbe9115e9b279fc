"""The statistics of pass 2 and what each of them says: name, family, where it looks, which sign is strange."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latenight.spectra import ARMS, PIXEL

NARROW = (1, 2, 4, 8, 16)  # pixels of a window after a high pass
SCANNED_BY_ARM = (1, 4)  # of these, each arm by itself as well
BROAD = (32, 64, 128, 256, 512, 1024)  # pixels of a window
NOISE = (64, 128, 256, 512, 1024, 2048)
CHUNKS = (16, 64, 256)
# The middle of each arm, where two amplifiers meet [A].
MIDDLE = {"b": 4730.0, "r": 6690.0, "z": 8670.0}
BLUE_LENGTHS = (150.0, 350.0, 800.0)  # of an offset that fades from 3600 A to the red [A]
TAKES_OVER = (
    3600.0,
    5780.0,
    7570.0,
    9824.0,
)  # where one arm takes over from the one before, and the last ends [A]
# Ends of an arm at which it meets another, (arm, end of it): faults of the dichroics fade away from there so fast [A].
EDGES = (("b", "high"), ("r", "low"), ("r", "high"), ("z", "low"))
EDGE_LENGTHS = (300.0, 900.0)
BALMER_SPEEDS = (800.0, 1700.0, 3500.0)  # km/s

# Families; each gets a p of its own.
FAMILIES = ("recon", "knn", "chi2", "scan", "broad", "block", "noise", "fault", "line", "fringe")
# The network's are published and take no part in p_value: they find nothing that the others miss, and with them half of
# all false alerts were theirs. On 1418 anomalies, by the smallest p of the families, recall at 1 % false alerts was
# .167 with both, .174 without the neighbours, .269 without the reconstruction, .325 without either.
BESIDE = ("recon", "knn")


@dataclass(frozen=True)
class Statistic:
    """One number per spectrum that is calibrated by itself.

    Attributes:
        name: as alerts call it.
        family: of FAMILIES.
        sign: +1 or -1 where only large values of that sign are strange, 0 where both are.
        wavelength: centre of what it looks at [A]; NaN where that differs from spectrum to spectrum or is all of it.
        width: of what it looks at [A]; NaN for all of the spectrum.
    """

    name: str
    family: str
    sign: int = 1
    wavelength: float = np.nan
    width: float = np.nan


def _both(name: str, family: str, width: float) -> list[Statistic]:
    return [Statistic(f"{name}+", family, 1, width=width), Statistic(f"{name}-", family, -1, width=width)]


def _arms(name: str, family: str, sign: int) -> list[Statistic]:
    """One statistic per arm."""
    return [
        Statistic(f"{name}_{a.name}", family, sign, a.wave_min + PIXEL * a.n / 2, PIXEL * a.n) for a in ARMS
    ]


def _halves(name: str) -> list[Statistic]:
    """One statistic per half of an arm."""
    found = []
    for arm in ARMS:
        first, middle, last = arm.wave_min, MIDDLE[arm.name], arm.wave_min + PIXEL * arm.n
        found.append(Statistic(f"{name}_{arm.name}_low", "fault", 0, (first + middle) / 2, middle - first))
        found.append(Statistic(f"{name}_{arm.name}_high", "fault", 0, (middle + last) / 2, last - middle))
    return found


def _edges() -> list[Statistic]:
    found = []
    for length in EDGE_LENGTHS:
        for name, side in EDGES:
            end = TAKES_OVER["brz".index(name) + (side == "high")]
            centre = end + (length / 2 if side == "low" else -length / 2)
            found.append(Statistic(f"edge{length:.0f}_{name}_{side}", "fault", 0, centre, length))
    return found


def _scans() -> list[Statistic]:
    found = [s for w in NARROW for s in _both(f"scan{w}", "scan", PIXEL * w)]
    found += [Statistic(f"scan{w}_{a.name}", "scan", width=PIXEL * w) for w in SCANNED_BY_ARM for a in ARMS]
    found.append(Statistic("crowd", "scan"))
    found += [s for w in BROAD for s in _both(f"white{w}", "broad", PIXEL * w)]
    for w in CHUNKS:
        found += [Statistic(f"block{w}", "block"), *_arms(f"block{w}", "block", 1)]
    found += [s for w in NOISE for s in _both(f"noise{w}", "noise", PIXEL * w)]
    return found


def _patterns() -> list[Statistic]:
    found = [*_arms("gain", "fault", 0), *_edges(), *_halves("offset"), *_arms("offset", "fault", 0)]
    found += [
        Statistic(f"blue{length:.0f}", "fault", 0, 3600 + length / 2, length) for length in BLUE_LENGTHS
    ]
    found += [
        *_arms("shift", "fault", 0),
        *_arms("skylines", "fault", 0),
        Statistic("skylines_rz", "fault", 0),
    ]
    found += [
        Statistic("skylines_z_low", "fault", 0, 8060.0, 1080.0),
        Statistic("skylines_z_high", "fault", 0, 9210.0, 1220.0),
    ]
    found += [Statistic("calibration", "fault")]
    found += [*_arms("crosstalk", "fault", 0), Statistic("crosstalk", "fault", 0)]
    found += [Statistic(f"balmer{speed:.0f}", "line", 0) for speed in BALMER_SPEEDS]
    found += [
        *_both("broadline", "line", np.nan),
        Statistic("broadlines", "line"),
        *_both("line", "line", 3.2),
    ]
    found += [
        Statistic("lines", "line"),
        Statistic("lineset", "line"),
        *_both("restless", "line", 3.2),
        *_both("trough", "line", np.nan),
    ]
    found += [Statistic("second0", "line"), Statistic("second1", "line")]
    found += [
        Statistic("explosion", "line"),
        Statistic("disc", "line"),
    ]  # light of a supernova, of a cataclysmic
    for kind in ("fringe", "fringepart", "fringepair"):
        found += _arms(kind, "fringe", 1)
    return found


# What the graph of pass 2 gives, in this order.
PASS2 = (
    *(Statistic("chi2", "chi2"), *_arms("chi2", "chi2", 1)),
    *(Statistic("scatter", "chi2"), *_arms("scatter", "chi2", 1)),
    *_scans(),
    *_patterns(),
)
# What comparing the fibres of a petal gives: offsets of half an arm that a run of neighbours shares.
COMPARED = tuple(_halves("amplifier"))
# All statistics: the network's first.
STATISTICS = (Statistic("recon", "recon"), Statistic("knn", "knn"), *PASS2, *COMPARED)
FAMILY = np.array([FAMILIES.index(s.family) for s in STATISTICS])  # of each statistic
SIGN = np.array([s.sign for s in STATISTICS])
COMBINED = ~np.isin(FAMILIES, BESIDE)  # whether each family takes part in p_value
TAKES_PART = COMBINED[FAMILY]  # likewise of each statistic
