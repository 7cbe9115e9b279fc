"""Where a person looks at a spectrum next: web pages and the command that plots it."""

from __future__ import annotations

import math
import re
import shlex

# In SPECPROD/tiles/.. and SPECPROD/healpix/.. and SPECPROD/spectra/.. the folder above names the reduction.
SPECPROD = re.compile(r"(?:^|/)([a-z][a-z0-9_-]*)/(?:tiles|healpix|spectra)/")
NIGHTLY = "daily"  # the reduction that a night's new coadds belong to


def specprod(source: str) -> str:
    """The name of the reduction that a file belongs to, from its path; "daily" if the path does not tell."""
    match = SPECPROD.search(source)
    return match.group(1) if match else NIGHTLY


def inspector_link(source: str, targetid: int, tileid: int, fiber: int) -> str | None:
    """The page of the DESI inspector (collaboration login) of a fibre of a tile, or else of a target."""
    base = f"https://inspector.desi.lbl.gov/{specprod(source)}/spectra"
    if tileid >= 0 and fiber >= 0:
        return f"{base}/tiles/{tileid}/{fiber}"
    return f"{base}/{targetid}" if targetid > 0 else None


def legacy_viewer_link(ra: float, dec: float) -> str | None:
    """The Legacy Surveys image at a position [deg]; None without one."""
    if not (math.isfinite(ra) and math.isfinite(dec)):
        return None
    position = f"ra={ra:.6f}&dec={dec:.6f}"
    return f"https://www.legacysurvey.org/viewer/?{position}&zoom=13&layer=ls-dr9&mark={ra:.6f},{dec:.6f}"


def plot_command(source: str, targetid: int) -> str | None:
    """The prospect command that opens the spectrum; None if it did not come from a file."""
    if not source.endswith((".fits", ".fits.gz")):
        return None
    return f"plot_spectra -i {shlex.quote(source)} -t {targetid} --rebin 4"
