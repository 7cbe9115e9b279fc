"""Whose spectrum is each row: header, FIBERMAP, EXP_FIBERMAP and redrock columns -> the identity table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from latenight.spectra import MISSING, SPECTYPES, TABLE, UNKNOWN, empty_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Columns = Mapping[str, np.ndarray]
    Wanted = Mapping[str, tuple[str, ...]]

# Main survey first: it is 0 on tiles of survey validation, which fill SVn_DESI_TARGET (n = 1, 2, 3) instead.
TARGET_MASKS = ("DESI_TARGET", "SV3_DESI_TARGET", "SV2_DESI_TARGET", "SV1_DESI_TARGET")
# Our column: its names in the table, best first (spectra-* files have FIBERSTATUS only).
FIBERMAP: Wanted = {
    "targetid": ("TARGETID",),
    "tileid": ("TILEID",),
    "night": ("NIGHT",),
    "petal": ("PETAL_LOC",),
    "fiber": ("FIBER",),
    "ra": ("TARGET_RA",),
    "dec": ("TARGET_DEC",),
    "objtype": ("OBJTYPE",),
    "coadd_fiberstatus": ("COADD_FIBERSTATUS", "FIBERSTATUS"),
    **{mask: (mask,) for mask in TARGET_MASKS},
}
# A healpix coadd mixes tiles, so these live only in its EXP_FIBERMAP, several exposures to a target.
PER_EXPOSURE = ("tileid", "night", "petal", "fiber")
EXP_FIBERMAP: Wanted = {name: FIBERMAP[name] for name in ("targetid", *PER_EXPOSURE)}
REDSHIFTS: Wanted = {
    "targetid": ("TARGETID",),
    "z": ("Z",),
    "zwarn": ("ZWARN",),
    "spectype": ("SPECTYPE",),
    "deltachi2": ("DELTACHI2",),
}
HEADER = {"tileid": "TILEID", "night": "NIGHT", "petal": "PETAL", "survey": "SURVEY", "program": "PROGRAM"}
TILE_NAME = re.compile(r"(?:coadd|spectra)-(?P<petal>\d)-(?P<tileid>\d{1,9})-(?:thru)?(?P<night>\d{8})?")
HEALPIX_NAME = re.compile(r"(?:coadd|spectra)-(?P<survey>[a-z][a-z0-9]*)-(?P<program>[a-z][a-z0-9]*)-\d+\.")


def file_facts(name: str, header: Mapping[str, object]) -> dict[str, Any]:
    """What a file says of all its rows, missing values where it says nothing.

    Args:
        name: its name; coadd-4-80613-thru20210324.fits or coadd-main-dark-9144.fits tell something.
        header: its primary header, which is believed more.

    Returns:
        tileid, night, petal, survey and program.
    """
    facts: dict[str, Any] = {key: MISSING[key] for key in HEADER}
    if match := TILE_NAME.match(name):
        facts |= {key: int(digits) for key, digits in match.groupdict().items() if digits}
    elif match := HEALPIX_NAME.match(name):
        facts |= match.groupdict()
    for key, keyword in HEADER.items():
        value = header.get(keyword)
        if TABLE[key].kind == "U" and isinstance(value, str) and value.strip():
            facts[key] = value.strip()
        elif TABLE[key].kind == "i" and type(value) is int and 0 <= value <= np.iinfo(TABLE[key]).max:
            facts[key] = value
    return facts


def convert(values: np.ndarray, name: str) -> np.ndarray:
    """The values of a FITS column as our column of that name, strings without trailing blanks.

    Raises:
        ValueError: that would change them (a TARGETID that is a float, say), or a row holds several.
    """
    dtype = TABLE[name] if name in (TABLE.names or ()) else np.dtype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in {"i": "iu", "f": "fiu", "U": "SU"}[dtype.kind]:
        raise ValueError(f"for {name} holds {values.dtype}{list(values.shape[1:])}, expected {dtype}")
    if dtype.kind == "U":
        return np.char.strip(values.astype(str)).astype(dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers = values.astype(dtype)
        return np.where(np.isfinite(numbers), numbers, dtype.type(np.nan))
    limits = np.iinfo(dtype)
    if values.min() < limits.min or values.max() > limits.max:
        raise ValueError(f"for {name} holds a number beyond {dtype}")
    return values.astype(dtype)


def from_fibermap(n: int, facts: Mapping[str, Any], fibermap: Columns) -> np.ndarray:
    """The identity table of n rows from FIBERMAP (whichever columns there are) and, above it, file_facts."""
    table = empty_table(n)
    for name in set(fibermap) - set(TARGET_MASKS):
        table[name] = fibermap[name]
    for mask in TARGET_MASKS:
        if mask in fibermap:
            table["desi_target"] = np.where(table["desi_target"], table["desi_target"], fibermap[mask])
    surveys = [mask[:3].lower() for mask in TARGET_MASKS[1:] if mask in fibermap]
    if len(surveys) == 1:
        table["survey"] = surveys[0]
    for name, value in facts.items():
        if value != MISSING[name]:
            table[name] = value
    return table


def needs_exposures(table: np.ndarray) -> bool:
    """Whether EXP_FIBERMAP could tell something that is still missing."""
    return any((table[name] == MISSING[name]).any() for name in PER_EXPOSURE)


def add_exposures(table: np.ndarray, exposures: Columns) -> np.ndarray:
    """The table with what was missing taken from EXP_FIBERMAP, where all exposures of a target agree."""
    if not len(exposures.get("targetid", ())):
        return table
    table = table.copy()
    order = np.argsort(exposures["targetid"], kind="stable")
    targetids, starts = np.unique(exposures["targetid"][order], return_index=True)
    index, is_known = _match(targetids, table["targetid"])
    for name in set(exposures) & set(PER_EXPOSURE):
        values = exposures[name][order]
        low, high = (pick.reduceat(values, starts)[index] for pick in (np.minimum, np.maximum))
        fill = is_known & (low == high) & (table[name] == MISSING[name])
        table[name][fill] = low[fill]
    return table


def join_redshifts(table: np.ndarray, redshifts: Columns) -> np.ndarray:
    """The table with the redrock row of each TARGETID; order and further rows of redshifts do not matter.

    Raises:
        ValueError: redshifts lacks TARGETID or Z, or has two rows for one target.
    """
    if not {"targetid", "z"} <= set(redshifts) or not len(redshifts["targetid"]):
        raise ValueError("has no rows, or lacks TARGETID or Z")
    table = table.copy()
    order = np.argsort(redshifts["targetid"])
    targetids = redshifts["targetid"][order]
    if (targetids[1:] == targetids[:-1]).any():
        raise ValueError("has two rows of one TARGETID")
    index, is_known = _match(targetids, table["targetid"])
    for name in set(redshifts) - {"targetid"}:
        table[name][is_known] = redshifts[name][order][index[is_known]]
    table["spectype"][~np.isin(table["spectype"], SPECTYPES)] = UNKNOWN
    return table


def _match(ids: np.ndarray, wanted: np.ndarray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each wanted TARGETID stands in ids (ascending, not empty), and whether it does; 0 never does."""
    index = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return index, (ids[index] == wanted) & (wanted != MISSING["targetid"])
