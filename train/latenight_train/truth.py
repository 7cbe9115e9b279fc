"""What the simulator's truth.csv says: which spectra are not ordinary."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from latenight.desi import find_coadds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEPTH = 5  # folders above a coadd that may hold truth.csv: tiles/cumulative/TILEID/NIGHT in OUT


def known_trouble(paths: Sequence[Path]) -> frozenset[int]:
    """TARGETIDs with an injected anomaly, a wrong redshift or a cosmic that was missed.

    Args:
        paths: coadds and folders; those without truth.csv above them (real data) have no known trouble.
    """
    files = {file for coadd in find_coadds(paths) if (file := _truth_above(coadd.resolve()))}
    return frozenset(targetid for file in sorted(files) for targetid in _troubled(file))


def _truth_above(coadd: Path) -> Path | None:
    candidates = (folder / "truth.csv" for folder in list(coadd.parents)[:DEPTH])
    return next((file for file in candidates if file.is_file()), None)


def _troubled(file: Path) -> list[int]:
    with file.open(newline="") as rows:
        return [
            int(row["TARGETID"])
            for row in csv.DictReader(rows)
            if row["KIND"] or row["WRONG_Z"] == "1" or row["MISSED_COSMIC"] == "1"
        ]
