"""Which targets a petal observes: tracers, redshifts and magnitudes of DR1, and their noise-free spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import WAVE
from latenight_train.galaxies import draw_galaxy, make_galaxy
from latenight_train.quasars import draw_quasar
from latenight_train.restframe import ab_flux, line_spread
from latenight_train.stars import draw_star
from latenight_train.templates import Basis, draw_template

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Shares of the tracers on a tile. Over equal numbers of dark and bright tiles they give the classes of DR1:
# 70 % galaxies, 9 % quasars, 21 % stars.
MIX = {
    "dark": {"ELG": 0.47, "LRG": 0.32, "QSO": 0.19, "STD": 0.02},
    "bright": {"BGS": 0.61, "MWS": 0.37, "STD": 0.02},
}
# Redshift at the quantiles 0, 5, 25, 50, 75, 95, 100 % (DR1; the ends are ours).
_QUANTILES = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
REDSHIFT = {
    "BGS": np.array([0.01, 0.07, 0.15, 0.24, 0.32, 0.46, 0.65]),
    "LRG": np.array([0.25, 0.34, 0.54, 0.71, 0.85, 1.05, 1.25]),
    "ELG": np.array([0.02, 0.20, 0.88, 1.05, 1.29, 1.51, 1.63]),
    "QSO": np.array([0.30, 0.78, 1.29, 1.73, 2.22, 2.97, 4.20]),
}
# Band edges [A] and effective wavelength of the magnitude that selects a tracer.
_BANDS = {"g": (4000.0, 5500.0, 4730.0), "r": (5700.0, 7100.0, 6400.0), "z": (8500.0, 9800.0, 9150.0)}
# Band, faint limit, scale of the exponential that counts fall by towards bright magnitudes [mag], bright
# limit.
_MAGNITUDES = {
    "BGS": ("r", 20.175, 0.75, 15.5),
    "LRG": ("z", 21.6, 0.6, 18.0),
    "ELG": ("g", 24.1, 0.4, 20.0),
    "QSO": ("r", 23.0, 1.0, 16.5),
    "MWS": ("r", 19.0, 1.0, 16.0),
    "STD": ("r", 18.5, 0.8, 15.5),
}
DESI_TARGET = {
    "LRG": 1 << 0,
    "ELG": 1 << 1,
    "QSO": 1 << 2,
    "SKY": 1 << 32,
    "STD": 1 << 33,
    "BGS": 1 << 60,
    "MWS": 1 << 61,
}


@dataclass(frozen=True)
class Source:
    """One object, free of noise.

    Attributes:
        tracer: BGS, LRG, ELG, QSO, MWS or STD.
        flux: (7958,) [1e-17 erg s-1 cm-2 A-1], line-spread function applied.
        z: true redshift.
        spectype: GALAXY, QSO or STAR.
        subtype: of a star, else "".
        magnitude: AB, in the band that selects the tracer.
    """

    tracer: str
    flux: Array
    z: float
    spectype: str
    subtype: str
    magnitude: float


def draw_source(rng: np.random.Generator, tracer: str, library: dict[str, Basis] | None = None) -> Source:
    """A random object of a tracer, from formulas or from a library of templates."""
    band, faint, scale, bright = _MAGNITUDES[tracer]
    magnitude = float(max(faint - rng.exponential(scale), bright))
    spectype, z = _draw_class(rng, tracer)
    flux, z, subtype = draw_spectrum(rng, spectype, tracer, z, magnitude, library)
    blue, red, effective = _BANDS[band]
    level = float(np.mean(flux[(blue < WAVE) & (red > WAVE)]))
    # Spectra are calibrated for a point source, which puts 78 % of its light into the fibre; what counts of
    # an extended galaxy is its fibre magnitude. LRG and ELG are selected by it already; of BGS about 0.8 mag
    # is outside.
    aperture = {"BGS": rng.normal(0.8, 0.2) - 0.27, "LRG": -0.27, "ELG": -0.27}.get(tracer, 0.0)
    scale_flux = ab_flux(magnitude + aperture, effective) / max(level, 1e-6)
    return Source(tracer, line_spread(flux * scale_flux), z, spectype, subtype, magnitude)


def draw_redshift(rng: np.random.Generator, tracer: str) -> float:
    """A redshift of the tracer's n(z)."""
    return float(np.interp(rng.random(), _QUANTILES, REDSHIFT[tracer]))


def _draw_class(rng: np.random.Generator, tracer: str) -> tuple[str, float]:
    if tracer in ("MWS", "STD"):
        return "STAR", 0.0
    kind = "QSO" if tracer == "QSO" else "GALAXY"
    other = rng.random()
    if tracer == "QSO" and other < 0.20:  # quasar targets that are not: stars and compact galaxies
        kind, tracer = ("STAR", "QSO") if other < 0.12 else ("GALAXY", "ELG")
    elif tracer == "BGS" and other < 0.012:
        return "QSO", float(rng.uniform(0.08, 0.7))
    if (
        tracer == "ELG" and other > 0.75
    ):  # a quarter of the ELG lie where [O II] is redder than the spectrograph
        return kind, float(rng.uniform(1.635, 2.2))
    return kind, 0.0 if kind == "STAR" else draw_redshift(rng, tracer)


def draw_spectrum(
    rng: np.random.Generator,
    spectype: str,
    tracer: str,
    z: float,
    magnitude: float,
    library: dict[str, Basis] | None = None,
) -> tuple[Array, float, str]:
    """A spectrum on the DESI pixels before the line-spread function, median 1, its redshift and subtype."""
    drawn = draw_template(rng, spectype, z, library) if library else None
    if drawn is not None:
        return drawn
    if spectype == "STAR":
        return draw_star(rng, standard=tracer == "STD")
    if spectype == "QSO":
        return draw_quasar(rng, z, magnitude), z, ""
    return make_galaxy(draw_galaxy(rng, z, tracer if tracer in ("BGS", "LRG") else "ELG"), rng), z, ""
