"""Spectra from redrock's own template files: real principal components under nonlinear variety of our own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from latenight.errors import StartupError
from latenight_train.quasars import absorption
from latenight_train.restframe import LIGHT, REST, broaden, observe_frame, pixel_of, smooth_random
from latenight_train.simulate_write import read_images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Ratios of the coefficients to the first one of fits to 76 quasars of BOSS: centre and spread, per basis.
_QUASAR_COEFFICIENTS = {
    "HIZ": (np.array([26.0, 15.0, 3.1]), np.array([26.0, 22.0, 6.8])),
    "LOZ": (np.array([30.0, -17.0, 23.0]), np.array([60.0, 20.0, 40.0])),
}
_STARS = {"B": 0.005, "A": 0.045, "F": 0.3, "G": 0.25, "K": 0.21, "M": 0.16, "WD": 0.03}


@dataclass(frozen=True)
class Basis:
    """One template file on the rest-frame grid.

    Attributes:
        vectors: (K, 27000), 0 beyond its ends.
        first, last: wavelengths of its ends [A].
        archetypes: (M, K) coefficients of real objects; empty for quasars.
    """

    vectors: Array
    first: float
    last: float
    archetypes: Array


@cache
def load_library(folder: Path) -> dict[str, Basis]:
    """The bases of the files rrtemplate-*.fits in a folder, by type: GALAXY, QSO-HIZ, QSO-LOZ, STAR-A ...

    A file without coefficients of real objects is left out (quasars excepted): it does not say what occurs.

    Raises:
        StartupError: the folder holds no such file that can be used.
    """
    library: dict[str, Basis] = {}
    for path in sorted(folder.glob("rrtemplate-*.fits")):
        header, images = read_images(path)
        name = "-".join(str(header[key]).strip() for key in ("RRTYPE", "RRSUBTYP")).strip("-")
        archetypes = images.get("ARCHETYPE_COEFF", np.empty((0, 0)))
        if "BASIS_VECTORS" in images and (archetypes.size or name in ("QSO-HIZ", "QSO-LOZ")):
            library[name] = _basis(header, images["BASIS_VECTORS"], archetypes)
    if not library:
        raise StartupError(f"no rrtemplate-*.fits with coefficients in {folder}: check RR_TEMPLATE_DIR")
    return library


def _basis(header: dict[str, float], vectors: Array, archetypes: Array) -> Basis:
    wave = header["CRVAL1"] + header["CDELT1"] * np.arange(vectors.shape[1])
    if header.get("LOGLAM", 0):
        wave = 10.0**wave
    on_grid = np.array([np.interp(REST, wave, vector, left=0.0, right=0.0) for vector in vectors])
    return Basis(on_grid, float(wave[0]), float(wave[-1]), archetypes)


def _vary(rng: np.random.Generator, rest: Array, basis: Basis) -> Array:
    """Take a spectrum out of the span of its basis by line strengths, widths, dust and shape, (27000,)."""
    part = slice(pixel_of(max(basis.first, REST[0])), pixel_of(basis.last))
    floor = 0.03 * float(np.median(np.abs(rest[part])))
    filled = np.where(rest > floor, rest, floor)
    smooth = np.maximum(broaden(filled, 3500.0), floor)
    # A power of the continuum-normalised spectrum makes all lines deeper or shallower, saturated ones less.
    lines = np.clip(filled / smooth, 0.02, 50.0) ** rng.lognormal(0.0, 0.2)
    lines = broaden(lines, rng.uniform(10.0, 150.0))
    dust = np.exp(-rng.normal(0.0, 0.12) * (5500.0 / REST - 1.0))
    shape = np.exp(0.03 * smooth_random(rng, np.log(REST), 0.15))
    out = smooth * lines * dust * shape
    out[: part.start] = out[part.start]
    out[part.stop :] = out[part.stop - 1]
    return np.asarray(out)


def _mixture(rng: np.random.Generator, basis: Basis) -> Array:
    """A mixture of two real objects of a basis at rest, (27000,): between and a little beyond them."""
    first, second = basis.archetypes[rng.integers(len(basis.archetypes), size=2)] @ basis.vectors
    first, second = (one / max(float(np.median(one[one != 0])), 1e-30) for one in (first, second))
    share = rng.uniform(-0.05, 0.5) if rng.random() < 0.5 else 0.0
    return np.asarray(first * (1.0 - share) + second * share)


def _quasar(rng: np.random.Generator, z: float, library: dict[str, Basis]) -> Array:
    name = "HIZ" if z > 1.6 and "QSO-HIZ" in library else "LOZ"
    basis, (centre, spread) = library[f"QSO-{name}"], _QUASAR_COEFFICIENTS[name]
    weights = np.concatenate([[1.0], centre + 0.5 * spread * rng.standard_normal(3)])
    return _vary(rng, weights @ basis.vectors[:4], basis) * absorption(rng, z, relative=True)


def draw_template(
    rng: np.random.Generator, spectype: str, z: float, library: dict[str, Basis]
) -> tuple[Array, float, str] | None:
    """A random spectrum of a class from the templates, before the line-spread function.

    Returns:
        Spectrum (7958,) of median 1, redshift, subtype; None if the library has no template of the class.
    """
    subtype = ""
    if spectype == "STAR":
        known = [name for name in _STARS if f"STAR-{name}" in library]
        if not known:
            return None
        shares = np.array([_STARS[name] for name in known])
        subtype = str(rng.choice(known, p=shares / shares.sum()))
        basis = library[f"STAR-{subtype}"]
        rest, z = _vary(rng, _mixture(rng, basis), basis), float(rng.normal(-9.0, 70.0) / LIGHT)
    elif spectype == "QSO":
        if "QSO-LOZ" not in library:
            return None
        rest = _quasar(rng, z, library)
    else:
        if "GALAXY" not in library:
            return None
        rest = _vary(rng, _mixture(rng, library["GALAXY"]), library["GALAXY"])
    flux = observe_frame(rest, z)
    return flux / max(float(np.median(flux)), 1e-30), z, subtype
