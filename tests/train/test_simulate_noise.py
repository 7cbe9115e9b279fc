"""Simulated noise is like that of real spectra: depth, sky lines, residuals shared by a petal, bad pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.spectra import ARMS, N_PIX
from latenight_train.observe import Tile, draw_petal, draw_tile, observe, sky_variance

if TYPE_CHECKING:
    from pathlib import Path

DARK = Tile("dark", 1000.0, 2, 1.0)


def sky_chi(seed: int, n: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flux, ivar, mask = observe(np.zeros((n, N_PIX)), draw_petal(rng, DARK, n), rng)
    return np.where(mask == 0, flux * np.sqrt(ivar), 0.0)


def on_lines() -> np.ndarray:
    continuum, lines = sky_variance()
    return lines > 0.67 * continuum


def test_depth_is_that_of_dark_time(desi_data: Path) -> None:
    """Median ivar of 1000 s of dark sky is the measured one within 8 % in B and R, 25 % in Z."""
    real = np.load(desi_data / "derived/noise_1000s_dark.npz")
    continuum, lines = sky_variance()
    # The weakest lines of the Z arm are not in the table: it is a little too deep there.
    for arm, tolerance in zip(ARMS, (0.08, 0.08, 0.25), strict=True):
        ours = np.median(1.0 / (continuum + lines)[arm.pixels])
        theirs = np.median(real[f"{arm.name.upper()}_ivar_1000s_dark"])
        assert ours == pytest.approx(theirs, rel=tolerance)


def test_chi_of_sky_fibres() -> None:
    """Chi of sky fibres has the measured rms within 0.12 on clean pixels and more on the Z lines."""
    chi = np.array([sky_chi(seed) for seed in range(6)])
    line = on_lines()
    for arm, clean in zip(ARMS, (1.09, 1.05, 1.23), strict=True):
        quiet = ~line[arm.pixels]
        assert np.std(chi[:, :, arm.pixels][:, :, quiet]) == pytest.approx(clean, abs=0.12)
    red = ARMS[2].pixels
    assert 1.3 < np.std(chi[:, :, red][:, :, line[red]]) < 1.75


def test_fibres_of_a_petal_share_residuals() -> None:
    """On sky lines of the Z arm fibres correlate within a petal (r 0.15 to 0.5) and not between petals."""
    red = np.zeros(N_PIX, bool)
    red[ARMS[2].pixels] = True
    use = red & on_lines()
    petals = [np.clip(sky_chi(seed)[:, use], -8, 8) for seed in range(6)]
    within = [np.corrcoef(petal)[np.triu_indices(len(petal), 1)].mean() for petal in petals]
    between = [np.corrcoef(a[0], b[0])[0, 1] for a, b in pairwise(petals)]
    assert 0.15 < np.mean(within) < 0.5
    assert abs(np.mean(between)) < 0.12


def test_noise_falls_with_exposure_time() -> None:
    """Ivar of sky fibres is proportional to the effective time."""
    results = []
    for efftime in (200.0, 800.0):
        rng = np.random.default_rng(1)
        petal = draw_petal(rng, Tile("dark", efftime, 2, 1.0), 4)
        results.append(np.median(observe(np.zeros((4, N_PIX)), petal, rng)[1]))
    assert results[1] / results[0] == pytest.approx(4.0, rel=0.05)


def test_bright_sources_have_photon_noise() -> None:
    """A source of S/N 55 has about 0.3 of the ivar of the sky in R, as measured."""
    rng = np.random.default_rng(1)
    petal = draw_petal(rng, Tile("dark", 9000.0, 2, 1.0), 2)
    source = np.zeros((2, N_PIX))
    source[1] = 10.0
    ivar = observe(source, petal, rng)[1]
    red = ARMS[1].pixels
    assert 0.2 < np.median(ivar[1, red]) / np.median(ivar[0, red]) < 0.45


def test_masked_pixels_are_few() -> None:
    """A single exposure has 0.1 to 1 % of its pixels masked; several leave the cosmics out instead."""
    fractions = []
    for exposures in (1, 3):
        rng = np.random.default_rng(3)
        petal = draw_petal(rng, Tile("dark", 1000.0, exposures, 1.0), 20)
        mask = observe(np.zeros((20, N_PIX)), petal, rng)[2]
        fractions.append(np.mean(mask != 0))
    assert 0.001 < fractions[0] < 0.01
    assert fractions[1] < fractions[0]


@pytest.mark.parametrize(("program", "low", "high"), [("dark", 850, 1150), ("bright", 150, 230)])
def test_tiles_reach_their_goal(program: str, low: float, high: float) -> None:
    """The median effective time is near the goal of the program, and some tiles fall short."""
    rng = np.random.default_rng(0)
    times = np.array([draw_tile(rng, program).efftime for _ in range(300)])
    assert low < np.median(times) < high
    assert np.quantile(times, 0.02) < 0.8 * np.median(times)
