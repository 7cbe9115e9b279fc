"""Anomalies of the sky: rare or mixed objects, wrong redshifts; each function builds one change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import N_PIX, WAVE
from latenight_train.artefacts import Change, Spectrum, scaled
from latenight_train.redrock import GALAXY_WINDOW, confuse, feature_strength
from latenight_train.restframe import LIGHT, line_spread, lines, observe_frame
from latenight_train.stars import Atmosphere, star_rest
from latenight_train.targets import draw_redshift, draw_spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_BALMER = np.array([6564.61, 4862.68, 4341.68, 4102.89])


def broad_agn(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Broad Balmer lines in a galaxy, FWHM 2000 to 8000 km/s, of a dusty or clean nucleus."""
    fwhm, decrement = float(np.exp(rng.uniform(np.log(2000.0), np.log(8000.0)))), rng.uniform(2.7, 5.0)
    shift = 1.0 + rng.normal(0.0, 300.0) / LIGHT
    strength = np.array([decrement, 1.0, 0.4, 0.2])
    light = lines(_BALMER * (1.0 + spectrum.z) * shift, strength, fwhm / 2.355)
    return Change(scaled(light, spectrum, snr), {"fwhm": fwhm, "decrement": decrement})


def broad_absorption(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Troughs of a wind at C IV, Si IV, N V and sometimes Mg II; at most 95 % deep."""
    velocity, width = (
        float(rng.uniform(1500.0, 20000.0)),
        float(np.exp(rng.uniform(np.log(800.0), np.log(5000.0)))),
    )
    power, low_ionisation = float(rng.choice([2.0, 3.0, 4.0])), rng.random() < 0.12
    transmission = np.ones(N_PIX)
    for wave, ratio in (
        (1549.06, 1.0),
        (1396.8, 0.6),
        (1240.14, 0.8),
        (2799.1, 0.7 * low_ionisation),
        (1215.67, 0.4),
    ):
        speed = LIGHT * (1.0 - WAVE / (wave * (1.0 + spectrum.z)))
        transmission *= 1.0 - 0.95 * ratio * np.exp(
            -np.minimum(np.abs((speed - velocity) / width) ** power, 50.0)
        )
    delta = np.maximum(spectrum.model, 0.0) * (transmission - 1.0)
    return Change(scaled(delta, spectrum, snr, limit=1.0), {"velocity": velocity, "width": width})


def second_redshift(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """The light of a galaxy at another redshift in the same fibre."""
    tracer = str(rng.choice(["BGS", "LRG", "ELG"]))
    z = draw_redshift(rng, tracer)
    light = line_spread(draw_spectrum(rng, "GALAXY", tracer, z, 20.0)[0])
    return Change(scaled(light, spectrum, snr), {"z": z})


def foreign_line(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A line or doublet of a background object: [O II], a single line, or asymmetric Lyman alpha."""
    kind, centre = int(rng.integers(3)), float(rng.choice(WAVE[np.flatnonzero(spectrum.ivar)]))
    kms = float(rng.uniform(40.0, 180.0))
    if kind == 0:
        light = lines([centre, centre * 3729.88 / 3727.09], [1.0, rng.uniform(0.9, 1.45)], kms)
    elif kind == 1:
        light = lines([centre], [1.0], kms)
    else:
        tail = centre * (1.0 + np.arange(1, 5) * 90.0 / LIGHT)
        light = lines([centre, *tail], [1.0, 0.7, 0.45, 0.25, 0.12], 50.0)
    return Change(scaled(light, spectrum, snr), {"wave": centre, "type": kind})


def hidden_companion(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A white dwarf beside a red star, or an M dwarf beside any other."""
    slope = np.median(spectrum.model[-1500:]) / max(float(np.median(spectrum.model[1500:2700])), 1e-6)
    is_red = bool(slope > 1.2)
    teff = float(np.exp(rng.normal(np.log(16000.0), 0.35))) if is_red else float(rng.uniform(2800.0, 3700.0))
    rest = star_rest(Atmosphere(teff, 8.0, -2.0) if is_red else Atmosphere(teff, 4.9))
    light = line_spread(observe_frame(rest, spectrum.z + rng.normal(0.0, 100.0) / LIGHT))
    return Change(scaled(light, spectrum, snr), {"teff": teff})


def extreme_lines(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Emission lines of a metal-poor starburst, as in green peas: [O III] far stronger than all others."""
    o3, o2, hbeta = rng.uniform(5.0, 8.0), rng.uniform(0.3, 1.2), 1.0
    table = np.array([
        [3728.5, o2], [3869.86, 0.09 * o3], [3968.6, 0.03 * o3 + 0.16], [4102.89, 0.26], [4341.68, 0.47],
        [4364.44, 0.02 * o3], [4862.68, hbeta], [4960.3, o3 / 2.98], [5008.24, o3], [5877.25, 0.12],
        [6564.61, 2.8], [6585.27, 0.1], [6718.3, 0.12], [6732.7, 0.09], [9071.1, 0.1], [9533.2, 0.25],
    ])  # fmt: skip
    kms = float(rng.uniform(40.0, 150.0))
    light = lines(table[:, 0] * (1.0 + spectrum.z), table[:, 1], kms)
    return Change(scaled(light, spectrum, snr), {"o3_hbeta": o3, "sigma": kms})


def cataclysmic(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """An accretion disc on a star: blue continuum and broad, often double-peaked, Balmer and helium lines."""
    half, kms = float(rng.uniform(0.0, 600.0)), float(rng.uniform(250.0, 700.0))
    wave = np.array([*_BALMER, 3971.2, 5877.25, 4687.02, 4472.7, 6680.0, 7067.2])
    strength = np.array([1.4, 1.0, 0.75, 0.6, 0.45, 0.35, rng.uniform(0.05, 0.8), 0.2, 0.2, 0.15])
    wave = wave * (1.0 + spectrum.z)
    light = sum(lines(wave * (1.0 + sign * half / LIGHT), strength, kms) for sign in (-1.0, 1.0))
    peak = float(np.max(light))
    continuum = rng.uniform(0.1, 0.8) * peak * (WAVE / 5000.0) ** -2.2
    return Change(scaled(light + continuum, spectrum, snr), {"separation": 2.0 * half, "sigma": kms})


def supernova(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A type Ia supernova on the galaxy: a hot continuum cut by broad lines at 8000 to 13000 km/s."""
    day, speed = float(rng.uniform(-8.0, 25.0)), float(rng.uniform(8000.0, 13000.0))
    teff = 11500.0 - 180.0 * (day + 8.0)
    rest = WAVE / (1.0 + spectrum.z)
    light = rest**-5.0 / np.expm1(1.4388e8 / (rest * teff)) * 1e20
    light /= np.median(light)
    late = np.clip((day + 8.0) / 30.0, 0.0, 1.0)
    for wave, depth, emits in (
        (3950.0, 0.7, 0.3), (4130.0, 0.25, 0.1), (4481.0, 0.4, 0.15), (5020.0, 0.45, 0.2),
        (5454.0, 0.25, 0.1), (5640.0, 0.3, 0.1), (5890.0, 0.3 * late, 0.1), (6355.0, 0.55, 0.15),
        (8579.0, 0.3 + 0.4 * late, 0.35),
    ):  # fmt: skip
        width = wave * (3200.0 + 1500.0 * late) / LIGHT
        light *= 1.0 - depth * np.exp(-0.5 * ((rest - wave * (1.0 - speed / LIGHT)) / width) ** 2)
        light *= 1.0 + emits * (0.4 + late) * np.exp(-0.5 * ((rest - wave) / (1.3 * width)) ** 2)
    light *= np.clip((rest - 2400.0) / 1400.0, 0.05, 1.0)  # blended iron-peak lines
    return Change(scaled(light, spectrum, snr), {"day": day, "velocity": speed})


def wrong_redshift(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A redshift at which the features do not fall into place; the wanted S/N has no effect."""
    del snr
    z = spectrum.z
    while abs(z - spectrum.z) < 0.01 * (1.0 + spectrum.z):
        z = confuse(rng, spectrum.z, spectrum.spectype)
    reached = np.sqrt(feature_strength(spectrum.model, spectrum.ivar, GALAXY_WINDOW))
    return Change(np.zeros(N_PIX), {"true_z": spectrum.z}, z=z, snr=float(reached))
