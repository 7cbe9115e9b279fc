"""Galaxy spectra: stellar populations under dust, broadened, with lines of gas and active nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from latenight_train.restframe import LIGHT, REST, broaden, lines, observe_frame, pixel_of, texture
from latenight_train.stars import Atmosphere, absorbers, star_rest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_FIRST = 1100.0  # bluest wavelength of a stellar population [A]: z = 2.2 at 3600 A
AGES = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 7.0, 12.0])  # Gyr
METALS = np.array([-1.2, -0.5, 0.0, 0.3])  # [Fe/H]
# Turn-off temperature [K] at each age, from the main-sequence lifetime 10 Gyr x mass^-2.5.
_TURN_OFF = np.array(
    [36000.0, 25000.0, 18500.0, 13500.0, 10200.0, 8900.0, 7900.0, 6900.0, 6300.0, 5950.0, 5700.0]
)
# Share of the light at 5500 A that comes from giants; red giants appear after 1 Gyr, supergiants before.
_GIANTS = np.array([0.02, 0.12, 0.10, 0.10, 0.16, 0.25, 0.32, 0.42, 0.47, 0.50, 0.52])
# Light at 5500 A per mass formed, solar units (a power law through the values of published models).
_LIGHT_PER_MASS = 0.55 * (np.maximum(AGES, 0.01) / 10.0) ** -0.78


@dataclass(frozen=True)
class Galaxy:
    """The state of a galaxy.

    Attributes:
        z: redshift.
        weights: mass formed per age, (11,).
        metal: [Fe/H].
        alpha: [alpha/Fe] of the old stars.
        dust: A_V of the stars older than 10 Myr [mag]; younger stars and gas see dust / 0.44 (Calzetti 2000).
        sigma: stellar velocity dispersion [km/s].
        gas_sigma: velocity dispersion of the gas [km/s].
        nucleus: luminosity of the narrow-line nucleus, H-beta in units of that of the young stars plus 0.3 A.
        excitation: offset from the mean star-forming sequence [dex].
    """

    z: float
    weights: Array
    metal: float
    alpha: float
    dust: float
    sigma: float
    gas_sigma: float
    nucleus: float
    excitation: float


@cache
def populations() -> NDArray[np.float32]:
    """Simple stellar populations at rest, (11 ages, 4 metallicities, 27000) float32, 1 at 5500 A."""
    out = np.empty((len(AGES), len(METALS), len(REST)), np.float32)
    for i, (turn_off, giants) in enumerate(zip(_TURN_OFF, _GIANTS, strict=True)):
        for j, metal in enumerate(METALS):
            # Metal-poor populations are hotter at the same age.
            hottest = turn_off * 10.0 ** (-0.05 * metal)
            out[i, j] = _population(hottest, giants, metal, bool(AGES[i] < 0.2))
    return out


def _population(hottest: float, giants: float, metal: float, young: bool) -> Array:
    spread = np.array([0.0, 0.12, 0.28, 0.5, 0.8])  # ln(temperature) below the turn-off
    dwarfs = np.exp(-spread / 0.22)
    total = np.zeros(len(REST))
    for step, weight in zip(spread, dwarfs / dwarfs.sum(), strict=True):
        star = Atmosphere(max(hottest * float(np.exp(-step)), 3800.0), 4.2, metal)
        total += (1.0 - giants) * weight * star_rest(star, _FIRST)
    cool = 10.0 ** (-0.04 * metal)
    members = (
        ((3900.0, 0.5), (3500.0, 0.5))
        if young
        else ((4850.0, 0.42), (4400.0, 0.33), (3950.0, 0.18), (3450.0, 0.07))
    )
    for teff, weight in members:
        total += giants * weight * star_rest(Atmosphere(teff * cool, 1.8, metal), _FIRST)
    return np.asarray(total)


@cache
def _calzetti() -> Array:
    """Attenuation per A_V [mag] at rest, (27000,) (Calzetti et al. 2000, ApJ 533, 682, eq. 4)."""
    micron = np.clip(REST / 1e4, 0.12, 2.2)
    blue = 2.659 * (-2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 / micron) + 4.05
    return np.asarray(np.where(micron < 0.63, blue, red) / 4.05)


def _attenuation(magnitudes: float) -> Array:
    return np.asarray(10.0 ** (-0.4 * magnitudes * _calzetti()))


def stellar_continuum(galaxy: Galaxy) -> tuple[Array, Array]:
    """The starlight at rest, (27000,), and the unattenuated light of stars under 10 Myr, (27000,)."""
    table = populations()
    upper = int(np.clip(np.searchsorted(METALS, galaxy.metal), 1, len(METALS) - 1))
    share = np.clip((galaxy.metal - METALS[upper - 1]) / (METALS[upper] - METALS[upper - 1]), 0.0, 1.0)
    light = (galaxy.weights * _LIGHT_PER_MASS).astype(np.float32)

    def mix(rows: slice) -> Array:
        both = [light[rows] @ table[rows, upper - 1 + k] for k in (0, 1)]
        return np.asarray(both[0] * (1.0 - share) + both[1] * share, float)

    young, old = mix(slice(0, 2)), mix(slice(2, None))
    tables = absorbers()
    # Enhanced Mg and Na, and a metal forest that differs from galaxy to galaxy.
    element = galaxy.alpha * (
        0.5 * tables["mg_b"] + 0.35 * tables["na_d"] + 0.3 * tables["tio"] - 0.1 * tables["fe_strong"]
    )
    old = old * np.exp(-np.clip(element, -0.5, 0.5)) * _attenuation(galaxy.dust)
    return broaden(old + young * _attenuation(galaxy.dust / 0.44), galaxy.sigma), young


# Vacuum wavelengths [A]; the Balmer lines relative to H-beta for case B at 10 000 K (Osterbrock and Ferland
# 2006).
_HYDROGEN = (
    (6564.61, 2.86),
    (4862.68, 1.0),
    (4341.68, 0.468),
    (4102.89, 0.259),
    (3971.20, 0.159),
    (3890.15, 0.105),
)


def _narrow_lines(galaxy: Galaxy, rng: np.random.Generator, active: bool) -> list[tuple[float, float]]:
    """Wavelength and flux relative to H-beta of the narrow lines, before dust.

    Star formation follows the locus of Kewley et al. (2013, ApJ 774, L10) in the diagram of Baldwin,
    Phillips and Terlevich; the nucleus sits at the Seyfert or LINER end of it.
    """
    if active:
        n2, o3, o2, s2, o1 = (rng.normal(m, 0.12) for m in (0.0, rng.choice([0.95, 0.35]), 0.45, -0.2, -0.85))
    else:
        n2 = float(np.clip(-0.45 + 0.75 * galaxy.metal + rng.normal(0.0, 0.08), -1.9, -0.2))
        o3 = 0.61 / (n2 - 0.02) + 1.2 + galaxy.excitation
        s2 = -0.42 + 0.25 * (n2 + 0.5) + rng.normal(0.0, 0.06)
        o2 = 0.45 - 0.35 * (n2 + 0.5) + 0.35 * o3 + rng.normal(0.0, 0.08)
        o1 = -1.45 + rng.normal(0.0, 0.12)
    n2_flux, o3_flux, o2_flux, s2_flux, o1_flux = (10.0**x for x in (n2, o3, o2, s2, o1))
    doublet = rng.uniform(0.85, 1.45)  # [O II] 3729/3727 and [S II] 6718/6733 follow the electron density
    sulphur = 0.5 + 0.65 * (doublet - 0.85)
    return [
        *_HYDROGEN,
        (3727.09, o2_flux / (1.0 + doublet)), (3729.88, o2_flux * doublet / (1.0 + doublet)),
        (4960.30, o3_flux / 2.98), (5008.24, o3_flux), (6549.86, 2.86 * n2_flux / 2.96),
        (6585.27, 2.86 * n2_flux), (6718.29, 2.86 * s2_flux * (0.4 + 0.2 * sulphur)),
        (6732.67, 2.86 * s2_flux * (0.6 - 0.2 * sulphur)), (6302.05, 2.86 * o1_flux),
        (6365.54, 2.86 * o1_flux / 3.0), (3869.86, 0.08 * o3_flux**1.1), (3968.59, 0.024 * o3_flux**1.1),
        (4364.44, 0.012 * o3_flux), (5877.25, 0.12), (6679.99, 0.034), (7067.20, 0.03), (4472.73, 0.04),
        (4687.02, 0.2 if active else 0.003), (7137.77, 0.08), (9071.10, 0.12 + 0.1 * n2_flux),
        (9533.20, 0.3 + 0.25 * n2_flux), (7321.5, 0.02 * o2_flux), (7332.0, 0.017 * o2_flux),
        (3426.85, 0.15 * o3_flux if active else 0.0),
    ]  # fmt: skip


def emission_lines(galaxy: Galaxy, young: Array, continuum: Array, rng: np.random.Generator) -> Array:
    """The narrow emission lines of a galaxy on the DESI pixels, (7958,), in units of its continuum.

    The line-spread function is not applied, as to the light of its stars.
    """
    # Equivalent width of H-beta on the light of stars under 10 Myr; gives H-alpha of 10-80 A in spirals.
    hbeta = 35.0 * float(young[pixel_of(4870.0)]) * rng.lognormal(0.0, 0.25)
    nucleus = galaxy.nucleus * (hbeta + 0.3 * float(continuum[pixel_of(4870.0)]))
    wave, flux, width = [], [], []
    attenuation = galaxy.dust / 0.44
    for active, total, sigma in (
        (False, hbeta, galaxy.gas_sigma),
        (True, nucleus, 1.8 * galaxy.gas_sigma + 60.0),
    ):
        if total <= 0.0:
            continue
        for rest, ratio in _narrow_lines(galaxy, rng, active):
            dust = 10.0 ** (-0.4 * attenuation * float(_calzetti()[pixel_of(rest)]))
            wave.append(rest * (1.0 + galaxy.z))
            flux.append(total * ratio * dust * (1.0 + galaxy.z))
            width.append(sigma)
    return lines(np.array(wave), np.array(flux), np.array(width), seen=False)


def interstellar_absorption(rng: np.random.Generator) -> Array:
    """Factor of a galaxy's own gas on its light at rest, (27000,): outflowing Na D, Mg II and Fe II."""
    speed, depth = rng.uniform(0.0, 250.0), rng.exponential(0.35)
    factor = np.ones(len(REST))
    for wave, strength in (
        (2796.35, 1.0),
        (2803.53, 0.8),
        (2600.17, 0.7),
        (2586.65, 0.6),
        (2382.76, 0.7),
        (5891.58, 0.3),
    ):
        width = wave * rng.uniform(70.0, 160.0) / LIGHT
        near = slice(pixel_of(wave - 12.0), pixel_of(wave + 12.0))
        offset = REST[near] - wave * (1.0 - speed / LIGHT)
        factor[near] *= 1.0 - min(depth * strength, 0.9) * np.exp(-0.5 * (offset / width) ** 2)
    return factor


def make_galaxy(galaxy: Galaxy, rng: np.random.Generator) -> Array:
    """The spectrum of a galaxy on the DESI pixels before the line-spread function, (7958,), median 1."""
    rest, young = stellar_continuum(galaxy)
    flux = observe_frame(rest * interstellar_absorption(rng) * texture(rng), galaxy.z)
    scale = 1.0 / max(float(np.median(flux)), 1e-30)
    return np.asarray((flux + emission_lines(galaxy, young, rest, rng)) * scale)


def _history(rng: np.random.Generator, tau: float, start: float, burst: float) -> Array:
    """Mass formed per age bin, (11,): delayed exponential (tau [Gyr]) begun start [Gyr] ago, and a burst."""
    edges = np.sqrt(AGES[1:] * AGES[:-1])
    width = np.diff(np.concatenate([[0.0], edges, [13.0]]))
    time = np.clip(start - AGES, 0.0, None)
    mass = time * np.exp(-time / tau) * width
    mass = mass / mass.sum() * rng.lognormal(0.0, 0.3, len(AGES))
    if burst > 0.0:
        mass[: rng.integers(1, 7)] += burst * rng.dirichlet(np.ones(1)) * width[0] / 0.005
    return np.asarray(mass / mass.sum())


def draw_galaxy(rng: np.random.Generator, z: float, tracer: str) -> Galaxy:
    """A random galaxy of a DESI tracer (BGS, LRG or ELG) at a redshift."""
    oldest = max(
        11.5 / (1.0 + z) ** 1.1, 2.0
    )  # Gyr since the first stars, roughly the age of the universe less 1.5
    quiescent = {"LRG": 0.93, "BGS": 0.42, "ELG": 0.01}[tracer] > rng.random()
    if quiescent:
        tau, burst = rng.uniform(0.2, 0.9), (rng.random() < 0.15) * rng.exponential(0.001)
        metal, sigma, dust = rng.normal(0.1, 0.15), rng.normal(225.0, 45.0), rng.exponential(0.12)
        alpha = rng.normal(0.25, 0.12)
    else:
        tau, burst = rng.lognormal(1.3, 0.5), (rng.random() < 0.3) * rng.exponential(0.015)
        metal, sigma, dust = rng.normal(-0.25, 0.25), rng.normal(130.0, 35.0), rng.gamma(2.0, 0.22)
        alpha = rng.normal(0.05, 0.1)
        if tracer == "ELG":
            tau, burst, metal, dust = tau * 2.0, burst + rng.exponential(0.01), metal - 0.25, dust * 0.8
    start = float(np.clip(oldest * rng.uniform(0.55, 1.0), 1.5, 12.9))
    nucleus = rng.lognormal(0.0, 0.9) if rng.random() < 0.18 else 0.0
    return Galaxy(
        z=z,
        weights=_history(rng, tau, start, burst),
        metal=float(np.clip(metal, -1.2, 0.3)),
        alpha=float(alpha),
        dust=float(dust),
        sigma=float(np.clip(sigma, 80.0, 350.0)),
        gas_sigma=float(np.clip(sigma * rng.lognormal(-0.35, 0.25), 30.0, 280.0)),
        nucleus=float(nucleus),
        excitation=float(rng.normal(0.05 if tracer != "ELG" else 0.2, 0.12)),
    )
