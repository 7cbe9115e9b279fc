"""Quasar spectra: power law, iron, broad lines that vary together, host, and absorption on the way to us."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from latenight_train.galaxies import draw_galaxy, stellar_continuum
from latenight_train.restframe import (
    LIGHT,
    N_REST,
    REST,
    STEP,
    broaden,
    observe_frame,
    pixel_of,
    smooth_random,
    texture,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Broad lines: vacuum wavelength [A], equivalent width [A], velocity dispersion [km/s], mean blueshift
# [km/s], slope of the Baldwin effect. Widths after the composite of Vanden Berk et al. (2001, AJ 122, 549,
# table 2).
_BROAD = (
    (1033.8, 9.0, 2300, 300, -0.1), (1215.67, 75.0, 2300, 100, -0.12), (1240.14, 13.0, 2300, 300, -0.05),
    (1262.6, 3.0, 1900, 200, 0.0), (1305.4, 2.5, 1500, 0, 0.0), (1335.3, 0.9, 1300, 0, 0.0),
    (1398.3, 8.5, 2400, 300, -0.09), (1486.5, 0.6, 1500, 0, 0.0), (1549.06, 28.0, 2300, 700, -0.18),
    (1640.4, 5.0, 3000, 700, -0.2), (1663.5, 1.5, 1800, 0, 0.0), (1857.0, 3.0, 1700, 200, 0.0),
    (1892.0, 3.5, 1700, 200, 0.0), (1908.73, 18.0, 2200, 250, -0.08), (2326.0, 2.5, 2000, 0, 0.0),
    (2799.1, 30.0, 1900, 0, -0.1), (3970.2, 1.5, 1700, 0, 0.0), (4102.9, 6.0, 1900, 0, 0.0),
    (4341.7, 13.0, 1900, 0, 0.0), (4862.7, 45.0, 2000, 0, 0.0), (5877.2, 5.0, 2000, 0, 0.0),
    (6564.6, 190.0, 1800, 0, 0.0), (7067.2, 3.0, 1800, 0, 0.0),
)  # fmt: skip
_NARROW = (
    (3426.8, 0.12), (3728.5, 0.22), (3869.9, 0.12), (4364.4, 0.05), (4960.3, 0.336), (5008.24, 1.0),
    (6549.9, 0.1), (6585.3, 0.3), (6718.3, 0.12), (6732.7, 0.12), (4862.7, 0.09), (6564.6, 0.28),
)  # fmt: skip
# Resonance lines that gas in front imprints: wavelengths and relative depths of one system each.
_SYSTEMS = (
    (
        (2796.35, 1.0),
        (2803.53, 0.8),
        (2600.17, 0.6),
        (2586.65, 0.45),
        (2382.76, 0.6),
        (2344.21, 0.45),
        (2852.96, 0.2),
    ),
    ((1548.20, 1.0), (1550.78, 0.7), (1393.76, 0.6), (1402.77, 0.4)),
)


@cache
def _iron() -> tuple[Array, Array]:
    """Ultraviolet and optical Fe II at rest, (27000,) each, peak near 1: humps of blended multiplets."""
    rng = np.random.default_rng(20260102)  # the multiplets are the same in every quasar
    fine = broaden(np.maximum(rng.standard_normal(N_REST) * 12.0, 0.0), 250.0)
    fine = 0.6 + 0.4 * fine / fine.mean()
    ultraviolet = (
        (2080, 60, 0.35), (2250, 90, 0.5), (2500, 90, 1.0), (2400, 60, 0.6), (2620, 60, 0.7), (2750, 50, 0.4),
        (2900, 90, 0.4), (3200, 140, 0.35), (1790, 40, 0.25),
    )  # fmt: skip
    optical = (
        (4480, 50, 0.5), (4570, 60, 1.0), (4660, 45, 0.6), (4930, 25, 0.3), (5018, 25, 0.3), (5190, 55, 0.8),
        (5300, 60, 1.0), (5400, 60, 0.4), (3800, 120, 0.15), (6180, 130, 0.2),
    )  # fmt: skip

    def humps(group: tuple[tuple[float, float, float], ...]) -> Array:
        shapes = [depth * np.exp(-0.5 * ((REST - centre) / width) ** 2) for centre, width, depth in group]
        return np.asarray(fine * np.sum(shapes, axis=0))

    return humps(ultraviolet), humps(optical)


def _balmer_continuum() -> Array:
    """Blended Balmer continuum and high Balmer lines below 3700 A, peak near 1."""
    return np.asarray(
        np.exp(-((np.clip(3646.0 - REST, 0.0, None) / 900.0) ** 1.2))
        / (1.0 + np.exp(np.clip((REST - 3700) / 40, -40, 40)))
    )


def _add_line(out: Array, centre: float, area: float, sigma: float, skew: float) -> None:
    """Add a line: a core and a base three times as wide, its blue half wider by the skew."""
    near = slice(pixel_of(centre * (1 - 0.12)), pixel_of(centre * (1 + 0.12)) + 1)
    speed = np.log(REST[near] / centre) * LIGHT
    width = sigma * np.where(speed < 0.0, 1.0 + skew, 1.0 - 0.6 * skew)
    profile = (
        0.65 * np.exp(-0.5 * (speed / (0.7 * width)) ** 2) / 0.7
        + 0.35 * np.exp(-0.5 * (speed / (1.9 * width)) ** 2) / 1.9
    )
    out[near] += area * profile * LIGHT / (2.5066 * sigma * centre)


def _emission(rng: np.random.Generator, luminosity: float) -> Array:
    """Broad and narrow lines relative to the continuum, (27000,); luminosity in dex to the mean."""
    out = np.zeros(N_REST)
    breadth, strength = rng.lognormal(0.0, 0.22), rng.lognormal(0.0, 0.22)
    wind = rng.gamma(2.0, 0.5)  # fast winds: large blueshift, weak and skew high-ionisation lines
    for wave, width, sigma, shift, baldwin in _BROAD:
        area = width * strength * 10.0 ** (baldwin * luminosity) * rng.lognormal(0.0, 0.18)
        high = shift >= 300
        area *= 1.3 / (0.6 + 0.7 * wind) if high else 1.0
        centre = wave * (1.0 - (shift * wind + rng.normal(0.0, 120.0)) / LIGHT)
        skew = float(np.clip(0.15 * wind * high + rng.normal(0.0, 0.08), -0.3, 0.6))
        _add_line(out, centre, area, sigma * 0.9 * breadth * rng.lognormal(0.0, 0.08), skew)
    o3 = rng.lognormal(2.2, 0.8) / breadth * 10.0 ** (-0.2 * luminosity)
    kms = rng.lognormal(5.4, 0.35)
    for wave, ratio in _NARROW:
        _add_line(out, wave, o3 * ratio * rng.lognormal(0.0, 0.2), kms, 0.15)
    return out


def draw_quasar(rng: np.random.Generator, z: float, magnitude: float) -> Array:
    """A random quasar on the DESI pixels before the line-spread function, (7958,), median 1."""
    luminosity = float(np.clip((20.8 - magnitude) * 0.4 + 0.8 * np.log10(max(z, 0.05) / 1.6), -2.5, 2.0))
    slope = rng.normal(-1.55, 0.25)
    bend = rng.normal(-0.6, 0.3) + 1.2  # flatter redward of 4600 A, where dust and host begin
    rest = (REST / 2500.0) ** slope
    rest *= np.where(REST > 4600.0, (REST / 4600.0) ** bend, 1.0)
    rest *= np.exp(0.04 * smooth_random(rng, np.log(REST), 0.12))
    rest *= texture(rng)
    uv_iron, optical_iron = _iron()
    width = rng.uniform(500.0, 1800.0)
    iron = rng.gamma(3.0, 0.07) * uv_iron + rng.gamma(1.6, 0.12) * optical_iron
    relative = (
        1.0 + _emission(rng, luminosity) + broaden(iron, width) + rng.gamma(3.0, 0.03) * _balmer_continuum()
    )
    rest = rest * relative
    # Dust like that of the Small Magellanic Cloud: A proportional to wavelength^-1.2 (Hopkins et al. 2004).
    rest *= 10.0 ** (-0.4 * rng.exponential(0.025) * 1.39 * (1e4 / np.maximum(REST, 900.0)) ** 1.2)
    if z < 1.1:
        host, _ = stellar_continuum(draw_galaxy(rng, z, "BGS"))
        share = rng.lognormal(-1.8 - 1.2 * luminosity, 0.6)
        rest += min(share, 1.5) * host * rest[pixel_of(5500.0)] / max(host[pixel_of(5500.0)], 1e-12)
    flux = observe_frame(rest * absorption(rng, z), z)
    return np.asarray(flux / max(float(np.median(flux)), 1e-30))


def absorption(rng: np.random.Generator, z: float, *, relative: bool = False) -> Array:
    """Transmission of everything in front of a quasar, on its rest frame, (27000,).

    Args:
        rng: source of randomness.
        z: redshift of the quasar.
        relative: divide the forest by its mean, for templates that have the mean forest in them.
    """
    out = np.ones(N_REST)
    if z > 1.97:  # Lyman alpha enters at 3600 A
        out = _forest(rng, z)
        if relative:
            out /= np.maximum(broaden(out, 4000.0), 0.05)
        if rng.random() < 0.12:
            out *= _damped(
                float(rng.uniform(max(1.96, z - 0.6), z)), 10.0 ** rng.triangular(19.8, 20.1, 21.4), z
            )
    for system, rate in zip(_SYSTEMS, (0.35, 0.45), strict=True):
        nearest = max(
            3600.0 / system[0][0] - 1.0, 0.05
        )  # lower redshifts leave the line bluer than the spectrograph
        for _ in range(rng.poisson(rate) if z > nearest else 0):
            z_gas = rng.uniform(nearest, z)
            depth, kms = rng.beta(1.2, 2.5), rng.uniform(40.0, 160.0)
            for wave, ratio in system:
                centre = wave * (1.0 + z_gas) / (1.0 + z)
                near = slice(pixel_of(centre * 0.995), pixel_of(centre * 1.005) + 1)
                speed = np.log(REST[near] / centre) * LIGHT
                out[near] *= 1.0 - min(depth * ratio**0.6, 0.97) * np.exp(-0.5 * (speed / kms) ** 2)
    return out


def _forest(rng: np.random.Generator, z: float) -> Array:
    """Lyman forest: a lognormal density field with the mean optical depth of Faucher-Giguere et al. (2008).

    tau_eff = 0.0018 (1+z)^3.92; Lyman beta and gamma follow with their oscillator strengths.
    """
    out = np.ones(N_REST)
    last = pixel_of(1215.67 * 0.997)  # the quasar's own light ionises the last 900 km/s
    gas = broaden(rng.standard_normal(N_REST), 45.0)
    large = broaden(rng.standard_normal(N_REST), 350.0)
    density = np.exp(1.3 * gas / gas.std() + 0.6 * large / large.std())
    for wave, strength in ((1215.67, 1.0), (1025.72, 0.16), (972.54, 0.056)):
        redshift = np.maximum(REST / wave * (1.0 + z), 1.0)  # 1 + z of the gas
        # Saturated gas hides optical depth: for this density field the mean that gives an effective tau is
        # tau exp(1.6 tau), measured on 12 fields at z = 2.2 to 4.
        effective = 0.0018 * redshift**3.92
        tau = effective * np.exp(1.6 * np.minimum(effective, 1.2)) * strength
        end = last - int(np.log(1215.67 / wave) / STEP)
        local = np.roll(density, -int(np.log(1215.67 / wave) / STEP))  # the same gas at another wavelength
        out[:end] *= np.exp(-np.minimum(tau * local / density.mean(), 30.0))[:end]
    if z > 2.9:
        out[: pixel_of(911.76)] *= np.exp(-rng.exponential(1.5))
    return out


def _damped(z_gas: float, column: float, z: float) -> Array:
    """Transmission of a damped Lyman-alpha absorber, column density [cm-2], on the quasar's rest frame."""
    wave = REST * (1.0 + z) / (1.0 + z_gas)
    # Wings of the Voigt profile: tau = column * 4.26e-20 / (delta lambda in A)^2, core saturated.
    tau = column * 4.26e-20 / np.maximum((wave - 1215.67) ** 2, 0.05)
    return np.asarray(np.exp(-np.minimum(tau * (wave > 1000.0), 50.0)))
