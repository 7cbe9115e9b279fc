"""The fibres of a petal: who is on which and its status; FIBERMAP, EXP_FIBERMAP and header as in DESI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight_train.targets import DESI_TARGET, Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latenight_train.observe import Tile

# Bits of COADD_FIBERSTATUS.
STUCK, BROKEN, RESTRICTED, BADPOSITION, POORPOSITION, VARIABLETHRU = (
    1 << 1,
    1 << 2,
    1 << 3,
    1 << 9,
    1 << 10,
    1 << 14,
)
DEAD_BITS = BROKEN | BADPOSITION
BAD_AMPLIFIER_BITS = (1 << 22, 1 << 23, 1 << 24)  # b, r, z
BADFIBER_MASK = 1 << 9  # pixel mask

_FIBERMAP = np.dtype(
    [
        ("TARGETID", "i8"), ("PETAL_LOC", "i2"), ("DEVICE_LOC", "i4"), ("LOCATION", "i8"), ("FIBER", "i4"),
        ("COADD_FIBERSTATUS", "i4"), ("TARGET_RA", "f8"), ("TARGET_DEC", "f8"), ("OBJTYPE", "S3"),
        ("FIBERASSIGN_X", "f4"), ("FIBERASSIGN_Y", "f4"), ("MORPHTYPE", "S4"), ("EBV", "f4"),
        ("FLUX_G", "f4"), ("FLUX_R", "f4"), ("FLUX_Z", "f4"), ("FIBERFLUX_R", "f4"), ("PHOTSYS", "S1"),
        ("DESI_TARGET", "i8"), ("BGS_TARGET", "i8"), ("MWS_TARGET", "i8"), ("SCND_TARGET", "i8"),
        ("TILEID", "i4"), ("COADD_NUMEXP", "i2"), ("COADD_EXPTIME", "f4"), ("COADD_NUMNIGHT", "i2"),
        ("COADD_NUMTILE", "i2"), ("MEAN_DELTA_X", "f4"), ("MEAN_DELTA_Y", "f4"),
        ("MEAN_PSF_TO_FIBER_SPECFLUX", "f4"),
    ]
)  # fmt: skip
_EXP_FIBERMAP = np.dtype(
    [
        ("TARGETID", "i8"), ("NIGHT", "i4"), ("EXPID", "i4"), ("MJD", "f8"), ("TILEID", "i4"),
        ("EXPTIME", "f8"), ("PETAL_LOC", "i2"), ("DEVICE_LOC", "i4"), ("LOCATION", "i8"), ("FIBER", "i4"),
        ("FIBERSTATUS", "i4"), ("DELTA_X", "f8"), ("DELTA_Y", "f8"), ("PSF_TO_FIBER_SPECFLUX", "f8"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Fibres:
    """Tracer ("SKY" for sky fibres) and COADD_FIBERSTATUS of each fibre."""

    tracer: list[str]
    status: np.ndarray


def draw_fibres(
    rng: np.random.Generator, n: int, mix: Mapping[str, float], sky_share: float, dead_share: float
) -> Fibres:
    """Assign the fibres of a petal; at least one is a sky fibre."""
    tracer = rng.choice(list(mix), n, p=list(mix.values()))
    sky = rng.random(n) < sky_share
    sky[rng.integers(n)] = True
    tracer = np.where(sky, "SKY", tracer)
    status = np.zeros(n, np.int32)
    for bit, share in (
        (BADPOSITION, 0.7 * dead_share), (BROKEN, 0.3 * dead_share), (RESTRICTED, 0.02),
        (POORPOSITION, 0.005), (VARIABLETHRU, 0.003), (BAD_AMPLIFIER_BITS[2], 0.002),
    ):  # fmt: skip
        status[rng.random(n) < share] |= bit
    status[sky & (rng.random(n) < 0.15)] |= STUCK  # positioners that do not move are used as sky fibres
    return Fibres(tracer.tolist(), status)


def header(night: int, tileid: int, petal: int, program: str) -> dict[str, object]:
    """Keywords of the primary HDU."""
    return {
        "SPGRP": "cumulative", "SPGRPVAL": night, "NIGHT": night, "TILEID": tileid,
        "SPECTRO": petal, "PETAL": petal, "SURVEY": "main", "PROGRAM": program,
        "FIBERMIN": 500 * petal, "SPECPROD": "simulated",
    }  # fmt: skip


def make_tables(
    rng: np.random.Generator,
    fibres: Fibres,
    sources: Sequence[Source | None],
    night: int,
    tileid: int,
    petal: int,
    tile: Tile,
) -> dict[str, np.ndarray]:
    """FIBERMAP (one row per target) and EXP_FIBERMAP (one row per target and exposure)."""
    n = len(sources)
    table = np.zeros(n, _FIBERMAP)
    sky, stuck = np.array(fibres.tracer) == "SKY", (fibres.status & STUCK) != 0
    # Target identifiers hold release, brick and object; those of sky positions are larger, stuck positioners
    # negative.
    base = np.where(sky, 616_000_000_000_000_000, 39_600_000_000_000_000) + tileid * 10**8 + petal * 10**5
    table["TARGETID"] = np.where(stuck, -1, 1) * (base + 7 * np.arange(n) + rng.integers(0, 7, n))
    table["PETAL_LOC"], table["TILEID"], table["PHOTSYS"] = petal, tileid, b"N"
    table["DEVICE_LOC"] = np.arange(n) + 11
    table["LOCATION"] = 1000 * petal + table["DEVICE_LOC"]
    table["FIBER"] = 500 * petal + np.arange(n)
    table["COADD_FIBERSTATUS"] = fibres.status
    # A petal is a tenth of a disc of 1.6 degrees.
    angle, radius = np.pi / 5 * (petal + rng.random(n)), 1.6 * np.sqrt(rng.random(n))
    centre_ra, centre_dec = 37.0 * tileid % 360.0, (tileid * 13) % 80 - 20.0
    table["TARGET_DEC"] = centre_dec + radius * np.sin(angle)
    table["TARGET_RA"] = (
        centre_ra + radius * np.cos(angle) / np.cos(np.radians(table["TARGET_DEC"]))
    ) % 360.0
    table["FIBERASSIGN_X"], table["FIBERASSIGN_Y"] = (
        255.0 * radius * np.cos(angle),
        255.0 * radius * np.sin(angle),
    )
    table["OBJTYPE"] = np.where(sky, b"SKY", b"TGT")
    table["DESI_TARGET"] = [DESI_TARGET[tracer] for tracer in fibres.tracer]
    table["BGS_TARGET"] = 2 * (np.array(fibres.tracer) == "BGS")
    table["EBV"] = rng.gamma(2.0, 0.02, n)
    table["COADD_NUMEXP"], table["COADD_NUMNIGHT"], table["COADD_NUMTILE"] = tile.n_exposures, 1, 1
    table["COADD_EXPTIME"] = tile.efftime * 1.3  # typical time for this depth
    table["MEAN_DELTA_X"], table["MEAN_DELTA_Y"] = rng.normal(0.0, 0.005, (2, n))  # mm
    table["MEAN_PSF_TO_FIBER_SPECFLUX"] = 0.78
    for i, source in enumerate(sources):
        if source is not None:
            table["MORPHTYPE"][i] = b"REX" if source.tracer in ("BGS", "LRG", "ELG") else b"PSF"
            table["FIBERFLUX_R"][i] = 10.0 ** (-0.4 * (source.magnitude - 22.5))
    exposures = np.zeros((tile.n_exposures, n), _EXP_FIBERMAP)
    for name in ("TARGETID", "TILEID", "PETAL_LOC", "DEVICE_LOC", "LOCATION", "FIBER"):
        exposures[name] = table[name]
    exposures["FIBERSTATUS"], exposures["PSF_TO_FIBER_SPECFLUX"], exposures["NIGHT"] = (
        fibres.status,
        0.78,
        night,
    )
    exposures["EXPTIME"] = table["COADD_EXPTIME"] / tile.n_exposures
    exposures["EXPID"] = tileid * 10 + np.arange(tile.n_exposures)[:, None]
    return {"FIBERMAP": table, "EXP_FIBERMAP": exposures.ravel()}
