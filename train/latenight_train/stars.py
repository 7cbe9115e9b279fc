"""Stellar spectra from temperature, gravity and composition; also the bricks of the stellar populations.

A spectrum is a Planck function with the Balmer and Paschen jumps, times exp(-tau) of a few dozen absorbers
(hydrogen with Stark wings, Ca, Mg, Na, CH, CN, the iron forest, TiO, VO, CaH ...) whose strengths follow
temperature, gravity and abundance. Line positions are real; the thousands of weak iron lines are stood in
for by a fixed random forest. This is not a stellar atmosphere: it has the right features at the right
places, of the right size and with the right trends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from latenight_train.restframe import N_REST, REST, observe_frame, pixel_of, texture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Atmosphere:
    """What a stellar spectrum depends on.

    Attributes:
        teff: effective temperature [K].
        logg: surface gravity [log10 cm s-2]; 8 is a white dwarf.
        feh: iron abundance [dex to the Sun].
        alpha: abundance of Mg, Ca, Na and Ti above iron [dex].
        carbon: abundance of C and N above iron [dex].
    """

    teff: float
    logg: float = 4.3
    feh: float = 0.0
    alpha: float = 0.0
    carbon: float = 0.0


# Vacuum wavelengths [A], relative strengths.
_STRONG = {
    "ca_hk": ((3934.8, 1.0), (3969.6, 0.8)),
    "ca_4227": ((4228.0, 1.0),),
    "ca_triplet": ((8500.4, 0.5), (8544.4, 1.0), (8664.5, 0.85)),
    "mg_b": ((5168.7, 0.7), (5174.1, 1.0), (5185.0, 1.2), (3833.4, 0.9), (3839.4, 1.1)),
    "na_d": ((5891.6, 1.2), (5897.6, 1.0), (8185.5, 0.25), (8197.1, 0.35)),
    "k_i": ((7667.0, 1.2), (7701.1, 1.0)),
    "he_i": (
        (3820.7, 0.4), (4027.3, 0.7), (4144.9, 0.3), (4389.2, 0.4), (4472.7, 1.0), (4923.3, 0.5),
        (5017.1, 0.4), (5877.2, 1.0), (6680.0, 0.6), (7067.1, 0.5),
    ),
    "he_ii": ((4201.0, 0.4), (4542.8, 0.6), (4687.0, 1.0), (5413.0, 0.6)),
    "fe_strong": (
        (3735.9, 1.0), (3746.6, 0.8), (3749.5, 0.7), (3759.3, 0.7), (3816.9, 0.7), (3821.5, 0.9),
        (3827.0, 0.7), (3860.9, 0.9), (3879.1, 0.7), (4046.9, 0.9), (4064.7, 0.7), (4072.9, 0.6),
        (4144.6, 0.4), (4251.3, 0.4), (4272.9, 0.6), (4309.1, 0.6), (4326.9, 0.6), (4384.8, 0.8),
        (4405.9, 0.6), (4416.4, 0.4), (4529.9, 0.3), (4669.4, 0.2), (4892.9, 0.3), (4921.9, 0.4),
        (4958.9, 0.5), (5013.4, 0.3), (5080.6, 0.2), (5228.6, 0.5), (5271.0, 0.7), (5329.5, 0.6),
        (5372.9, 0.4), (5398.6, 0.4), (5407.2, 0.4), (5431.2, 0.4), (5448.4, 0.4), (5588.3, 0.3),
        (5617.2, 0.3), (5711.0, 0.2), (5784.0, 0.2), (6138.3, 0.3), (6192.3, 0.2), (6231.4, 0.3),
        (6302.2, 0.2), (6396.0, 0.2), (6432.6, 0.2), (6496.5, 0.4), (6679.8, 0.1), (8390.1, 0.2),
        (8470.7, 0.2), (8516.4, 0.1), (8676.9, 0.2), (8691.0, 0.3), (8809.2, 0.4), (8826.6, 0.3),
    ),
    "fe_ii": (
        (4174.6, 0.4), (4180.0, 0.4), (4234.3, 0.7), (4352.9, 0.5), (4482.4, 1.2), (4509.5, 0.4),
        (4550.8, 0.6), (4585.1, 0.6), (4630.6, 0.4), (4925.3, 0.7), (5019.8, 0.9), (5170.5, 1.2),
        (5277.5, 0.3), (5318.1, 0.3), (7774.1, 0.8), (8448.7, 0.4), (2586.6, 1.5), (2600.2, 1.5),
        (2374.5, 1.2), (2382.8, 1.5), (2344.2, 1.5),
    ),
    "uv": (
        (2796.4, 1.0), (2803.5, 0.9), (2852.9, 0.7), (1548.2, 0.3), (1550.8, 0.3), (1260.4, 0.4),
        (1334.5, 0.4),
    ),
}  # fmt: skip
# Width of the Lorentzian core [A], width of the damping wings [A], share of the wings.
_SHAPE = {
    "ca_hk": (2.2, 12.0, 0.30), "ca_4227": (1.6, 8.0, 0.15), "ca_triplet": (1.4, 6.0, 0.15),
    "mg_b": (1.6, 9.0, 0.15), "na_d": (1.2, 8.0, 0.10), "k_i": (1.2, 12.0, 0.10), "he_i": (1.8, 6.0, 0.1),
    "he_ii": (2.5, 8.0, 0.1), "fe_strong": (1.0, 3.0, 0.05), "fe_ii": (1.0, 3.0, 0.05),
    "uv": (2.5, 10.0, 0.2),
}  # fmt: skip
# Heads of molecular bands: vacuum wavelength [A], extent [A] (towards the red if positive), strength.
_BANDS = {
    "tio": (
        (4585, 60, 0.3), (4762, 110, 0.8), (4956, 120, 0.9), (5169, 120, 1.0), (5450, 120, 0.9),
        (5598, 40, 0.3), (5760, 60, 0.4), (5849, 120, 0.8), (6160, 130, 1.0), (6653, 50, 0.8),
        (6683, 110, 0.8), (7055, 60, 1.3), (7090, 50, 0.8), (7127, 130, 0.9), (7591, 60, 0.7),
        (7668, 110, 0.7), (8206, 60, 0.3), (8434, 100, 0.9), (8861, 80, 0.8), (9209, 80, 0.5),
    ),
    "vo": (
        (7336, 80, 0.8), (7395, 120, 0.8), (7853, 90, 1.0), (7900, 90, 1.0), (8521, 60, 0.5), (8605, 80, 0.5),
    ),
    "cah": ((6346, 30, 0.7), (6383, 25, 1.0), (6903, 45, 1.2), (6948, 30, 0.8), (6752, 120, 0.6)),
    "mgh": ((5212, -90, 1.0), (4846, -50, 0.3), (5621, -60, 0.3)),
    "ch": ((4315, -28, 1.0), (3890, -20, 0.3)),
    "cn": ((3884, -45, 1.0), (4217, -40, 0.4), (3590, -40, 0.6)),
    "cn_red": ((7900, 150, 0.3), (8100, 150, 0.3), (9150, 200, 0.5)),
}  # fmt: skip
_FORESTS = ("forest_iron", "forest_ionised", "forest_molecular")
_BALMER = ("balmer_core", "balmer_wings", "balmer_stark")


def _forest(rng: np.random.Generator, blue: float, scale: float) -> Array:
    """Many weak lines at random places, denser in the blue; mean optical depth 1 at `blue` A."""
    position = rng.integers(0, N_REST, 9000)
    depth = rng.exponential(1.0, len(position)) ** 1.5 * np.exp(-(REST[position] - blue) / scale)
    spikes = np.bincount(position, depth, N_REST)
    kernel = np.exp(-0.5 * (np.arange(-8, 9) / 1.6) ** 2)
    return np.asarray(np.convolve(spikes, kernel, mode="same") * 0.35)


def _band(heads: tuple[tuple[float, float, float], ...], ripple: Array) -> Array:
    depth = np.zeros(N_REST)
    for head, extent, strength in heads:
        distance = (REST - head) / extent
        edge = 1.0 / (1.0 + np.exp(-np.clip((REST - head) * np.sign(extent) / 1.5, -40, 40)))
        depth += strength * edge * np.exp(-np.clip(distance, 0.0, 40.0)) * (distance > -1.0)
    return depth * ripple


def _balmer(width: float, growth: float) -> Array:
    """Hydrogen lines of the Balmer and Paschen series with wings of the given width [A]."""
    depth = np.zeros(N_REST)
    for lower, scale in ((2, 1.0), (3, 0.35)):
        for upper in range(lower + 1, 32):
            centre = 911.763 / (1.0 / lower**2 - 1.0 / upper**2)
            strength = scale * min(1.0, (6.0 / upper) ** 1.4)
            gamma = width * (1.0 + growth * (upper - lower - 1)) * (1.0 if lower == 2 else 1.5)
            near = slice(pixel_of(centre - 40 * gamma), pixel_of(centre + 40 * gamma))
            depth[near] += strength / (1.0 + ((REST[near] - centre) / gamma) ** 2) ** 1.25
    # The lines merge into the continuum of the jump before their limit at 3647 A, broad ones earlier.
    merged = 1.0 + np.exp(np.clip((3690.0 + 3.0 * width - REST) / (5.0 + width), -40.0, 40.0))
    return np.asarray(depth / merged)


@cache
def absorbers() -> dict[str, Array]:
    """Optical depth of each absorber at unit strength on the rest-frame grid, {name: (27000,)}."""
    rng = np.random.default_rng(20260101)  # the forest is the same in every star of every survey
    ripple = 0.75 + 0.5 * np.minimum(_forest(rng, 7000.0, 1e5), 2.0) / 2.0
    out: dict[str, Array] = {}
    for name, entries in _STRONG.items():
        core, wing, share = _SHAPE[name]
        out[name] = np.zeros(N_REST)
        for centre, strength in entries:
            square = (REST - centre) ** 2
            out[name] += strength * (np.exp(-0.5 * square / core**2) + share / (1.0 + square / wing**2))
    for name, heads in _BANDS.items():
        out[name] = _band(heads, ripple)
    # Blends of metal lines crowd below 4000 A and end there at a step: the break of old galaxies.
    out["break_4000"] = 1.0 / (1.0 + np.exp(np.clip((REST - 3990.0) / 12.0, -40.0, 40.0)))
    for name, blue, scale in zip(_FORESTS, (4000.0, 3000.0, 5500.0), (750.0, 700.0, 2500.0), strict=True):
        out[name] = _forest(rng, blue, scale)
    for name, width, growth in zip(_BALMER, (2.2, 7.0, 24.0), (0.02, 0.05, 0.0), strict=True):
        out[name] = _balmer(width, growth)
    return out


def strengths(star: Atmosphere) -> dict[str, float]:
    """Strength of each absorber in an atmosphere; the trends follow the classical spectral sequence."""
    hot, metal = np.log(star.teff / 5000.0), 10.0 ** (0.5 * star.feh)
    alpha, carbon = 10.0 ** (0.5 * star.alpha), 10.0 ** (0.7 * star.carbon)
    dwarf = np.clip((star.logg - 1.0) / 3.5, 0.2, 1.3)
    degenerate = star.logg > 6.5

    def bump(teff: float, width: float) -> float:
        return float(np.exp(-0.5 * (np.log(star.teff / teff) / width) ** 2))

    def cool(teff: float, power: float) -> float:
        return float((teff / star.teff) ** power)

    hydrogen = 1.6 * bump(9300.0, 0.25 if star.teff < 9300.0 else 0.55) + 0.10 * bump(5800.0, 0.12)
    if degenerate:
        hydrogen = 1.3 * bump(13000.0, 0.55)
        metal *= 0.02
    ionised = bump(7800.0, 0.3)
    tio = float(np.clip((4050.0 - star.teff) / 700.0, 0.0, 4.0) ** 1.3)
    return {
        "balmer_core": hydrogen * 0.9,
        "balmer_wings": hydrogen * 0.35 * dwarf,
        "balmer_stark": hydrogen * (1.0 if degenerate else 0.12 * dwarf**2),
        "ca_hk": 3.0 * metal * alpha * min(cool(5600.0, 5.0), 1.6),
        "ca_4227": 0.5 * metal * alpha * min(cool(4800.0, 6.0), 4.0) * dwarf,
        "ca_triplet": 0.75 * metal * alpha * min(cool(5600.0, 1.5), 1.4) * np.exp(-max(hot - 0.3, 0.0) * 5),
        "mg_b": 0.42 * metal * alpha * min(cool(5000.0, 4.0), 2.0) * dwarf,
        "na_d": 0.45 * metal * alpha * min(cool(4700.0, 5.0), 6.0) * dwarf,
        "k_i": 0.12 * metal * min(cool(4000.0, 5.0), 6.0) * dwarf,
        "he_i": 0.45 * bump(20000.0, 0.28),
        "he_ii": 0.5 * bump(42000.0, 0.3),
        "fe_strong": 0.75 * metal * min(cool(5400.0, 4.0), 1.8),
        "fe_ii": 0.35 * metal * ionised,
        "uv": 1.6 * metal * min(cool(7500.0, 2.0), 2.0),
        "tio": tio * (metal * alpha) ** 0.5,
        "vo": float(np.clip((3150.0 - star.teff) / 400.0, 0.0, 3.0)),
        "cah": float(np.clip((3950.0 - star.teff) / 900.0, 0.0, 1.5)) * dwarf / metal**0.3,
        "mgh": 0.35 * metal * alpha * bump(4100.0, 0.12) * dwarf,
        "ch": 0.95 * metal * carbon * bump(5000.0, 0.13),
        "cn": 0.5 * metal**1.5 * carbon * bump(4600.0, 0.15) / dwarf**0.5,
        "cn_red": 0.12 * metal**1.5 * carbon * bump(4000.0, 0.15) / dwarf,
        "break_4000": 0.28 * metal * min(cool(5000.0, 3.0), 1.4),
        "forest_iron": 0.17 * metal * min(cool(5400.0, 3.0), 1.7),
        "forest_ionised": 0.16 * metal * bump(7500.0, 0.35),
        "forest_molecular": 0.06 * metal * min(cool(4300.0, 4.0), 3.0),
    }


def _continuum(star: Atmosphere, wave: Array) -> Array:
    """Planck function with hydrogen jumps, 1 at 5500 A."""

    def planck(at: Array | float) -> Array:
        return np.asarray(at, float) ** -5.0 / np.expm1(1.4388e8 / (np.asarray(at, float) * star.teff))

    log_t = np.log(star.teff / 9500.0)
    jump = 1.05 * np.exp(-0.5 * (log_t / 0.30) ** 2) * (0.5 if star.logg > 6.5 else 1.0) + 0.10
    # Below the jump the continuum recovers slowly: bound-free opacity falls as wavelength cubed.
    depth = (
        jump / (1.0 + np.exp(np.clip((wave - 3690.0) / 9.0, -40, 40))) * np.clip(wave / 3650.0, 0.1, 1.0) ** 3
    )
    depth += (
        0.12
        * jump
        / (1.0 + np.exp(np.clip((wave - 8240.0) / 15.0, -40, 40)))
        * np.clip(wave / 8200.0, 0.1, 1) ** 3
    )
    far_uv = np.clip((2200.0 - wave) / 1000.0, 0.0, 2.0) * np.clip(9000.0 / star.teff, 0.0, 2.0)
    return np.asarray(planck(wave) / planck(5500.0) * np.exp(-depth - 2.0 * far_uv))


def star_rest(star: Atmosphere, first: float = 3300.0, last: float = 10400.0) -> Array:
    """The spectrum of a star at rest, (27000,); zero outside first..last [A]; continuum 1 at 5500 A."""
    part = slice(pixel_of(first), pixel_of(last) + 1)
    tables, tau = absorbers(), np.zeros(part.stop - part.start)
    for name, strength in strengths(star).items():
        if strength > 1e-3:
            tau += strength * tables[name][part]
    out = np.zeros(N_REST)
    # Cores of strong lines do not reach zero: the outermost layers still emit about an eighth of the
    # continuum.
    out[part] = _continuum(star, REST[part]) * (0.12 + 0.88 * np.exp(-tau))
    return out


def _draw_atmosphere(rng: np.random.Generator) -> tuple[Atmosphere, str]:
    """A star of the Milky Way survey: F, G and K dwarfs, giants, M dwarfs, few hot stars, white dwarfs."""
    kind = rng.choice(["FGK", "M", "A", "B", "WD"], p=[0.76, 0.16, 0.045, 0.005, 0.03])
    feh = float(np.clip(rng.normal(-0.35, 0.35) - (rng.random() < 0.15) * rng.exponential(1.0), -3.0, 0.5))
    alpha = float(np.clip(-0.3 * feh, 0.0, 0.4) + rng.normal(0.0, 0.07))
    carbon = float(rng.normal(0.0, 0.12))
    if kind == "WD":
        return Atmosphere(
            float(np.exp(rng.normal(np.log(14000.0), 0.4))), float(rng.normal(8.0, 0.2)), -2.0
        ), "WD"
    if kind == "M":
        return Atmosphere(
            float(rng.uniform(2750.0, 3950.0)), float(rng.normal(4.9, 0.1)), feh, alpha, carbon
        ), "M"
    if kind in ("A", "B"):
        teff = float(rng.uniform(7600.0, 9800.0) if kind == "A" else rng.uniform(1.0e4, 2.8e4))
        return Atmosphere(teff, float(rng.normal(4.0, 0.3)), feh, alpha, carbon), str(kind)
    teff = float(rng.triangular(3900.0, 5700.0, 7400.0))
    giant = rng.random() < 0.12 and teff < 5400.0
    logg = float(rng.uniform(1.2, 3.3) if giant else rng.normal(4.4, 0.15))
    subtype = "F" if teff > 6000.0 else "G" if teff > 5200.0 else "K"
    return Atmosphere(teff, logg, feh, alpha, carbon), subtype


def draw_star(rng: np.random.Generator, standard: bool = False) -> tuple[Array, float, str]:
    """A random star on the DESI pixels before the line-spread function, its redshift and its subtype.

    Args:
        rng: source of randomness.
        standard: a flux standard, that is a metal-poor F dwarf.

    Returns:
        Spectrum (7958,) of median 1, redshift (radial velocity / c), subtype.
    """
    if standard:
        star, subtype = (
            Atmosphere(float(rng.uniform(5900, 6900)), 4.2, float(rng.uniform(-1.8, -0.3)), 0.3),
            "F",
        )
    else:
        star, subtype = _draw_atmosphere(rng)
    velocity = rng.normal(-9.0, 40.0) if rng.random() < 0.75 else rng.normal(-20.0, 130.0)
    rest = star_rest(star)
    # Dust reddening, optical depth falling as 1/wavelength; and chromospheric H-alpha emission in some M
    # dwarfs.
    dust = rng.exponential(0.06) * (1.0 - 5500.0 / REST)
    rest *= np.exp(np.clip(dust, -3.0, 3.0))
    if subtype == "M" and rng.random() < 0.25:
        strength = rng.lognormal(0.5, 0.5) * rest[pixel_of(6560.0)]
        rest += strength * np.exp(-0.5 * ((REST - 6564.6) / 1.2) ** 2)
        rest += 0.3 * strength * np.exp(-0.5 * ((REST - 4862.7) / 1.0) ** 2)
    z = float(velocity / 299792.458)
    flux = observe_frame(rest * texture(rng), z)
    return flux / np.median(flux), z, subtype
