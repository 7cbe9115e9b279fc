"""Emission lines on the DESI pixels, before and behind the line-spread function."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.spectra import WAVE
from latenight_train.galaxies import draw_galaxy, make_galaxy
from latenight_train.restframe import LIGHT, line_spread, lines


@pytest.mark.parametrize("kms", [30.0, 60.0, 300.0])
def test_lines_go_through_the_line_spread_function_once(kms: float) -> None:
    """Lines drawn as seen are, to 5 % of their peak, lines drawn unseen and then spread."""
    wave, flux = [3900.0, 6801.3, 8500.4], [3.0, 1.0, 2.0]
    seen = lines(wave, flux, kms)
    spread = line_spread(lines(wave, flux, kms, seen=False))
    assert np.abs(spread - seen).max() < 0.05 * seen.max()


def test_lines_keep_their_flux() -> None:
    """The sum over pixels of a line in one arm, seen or not, is its flux to 1 %."""
    for seen in (True, False):
        assert 0.8 * lines([5000.0], [7.0], 50.0, seen=seen).sum() == pytest.approx(7.0, rel=0.01)


def test_galaxies_come_as_before_the_line_spread_function() -> None:
    """The H-alpha line of a galaxy with 30 km/s of gas is narrower than the line-spread function makes it."""
    rng = np.random.default_rng(5)
    galaxy = draw_galaxy(rng, 0.1, "ELG")
    galaxy = galaxy.__class__(**{**vars(galaxy), "gas_sigma": 30.0, "nucleus": 0.0})
    flux = make_galaxy(galaxy, rng)
    centre = 6564.61 * (1 + galaxy.z)
    near = np.abs(WAVE - centre) < 6.0
    light = flux[near] - np.median(flux[np.abs(WAVE - centre) < 40.0])
    sigma = np.sqrt(np.sum(light * (WAVE[near] - centre) ** 2) / np.sum(light))
    assert sigma < 0.9 > centre * 30.0 / LIGHT  # 1.0 A with the function of the R arm, .68 A
