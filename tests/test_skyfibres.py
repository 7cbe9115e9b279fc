"""The noise that the sky makes in each fibre."""

from __future__ import annotations

import numpy as np
import pytest

from latenight.skyfibres import THINNED, known_median, sky_of, sky_sigma, typical_sky
from latenight.spectra import N_PIX

RNG = np.random.default_rng(0)
SKY = (1 + 3 * (RNG.random(N_PIX) < 0.1)).astype(np.float32)  # variance: a tenth of the pixels on lines


def fibres(n: int, light: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ivar and light of n fibres with a factor each on the sky and photon noise of their own light, and the factors."""
    factor = RNG.uniform(0.5, 2, n)
    model = np.full((n, N_PIX), light, np.float32)
    ivar = 1 / (factor[:, None] * SKY + 0.3 * model)
    ivar[RNG.random((n, N_PIX)) < 0.02] = 0
    return ivar.astype(np.float32), model[:, THINNED], factor


@pytest.mark.parametrize("light", [0.0, 10.0])
def test_the_sky_is_told_from_a_fibres_own_photon_noise(light: float) -> None:
    """With sky fibres in the petal the sky's sigma of faint and bright fibres is right to 5 %."""
    ivar, own, factor = fibres(12, light)
    sky_ivar, _, _ = fibres(40, 0.0)
    found = sky_sigma(ivar, own, sky_of(sky_ivar, np.ones(N_PIX, np.float32)))
    np.testing.assert_allclose(found, np.sqrt(factor[:, None] * SKY), rtol=0.1)
    assert np.median(found / np.sqrt(factor[:, None] * SKY)) == pytest.approx(1, abs=0.05)


def test_without_sky_fibres_a_fibre_depends_on_nothing_but_itself() -> None:
    """The typical sky takes the place of the petal's, whatever other fibres come along."""
    ivar, own, factor = fibres(6, 2.0)
    found = sky_sigma(ivar, own, typical_sky(SKY))
    np.testing.assert_allclose(found, np.sqrt(factor[:, None] * SKY), rtol=0.1)
    np.testing.assert_allclose(sky_sigma(ivar[:1], own[:1], typical_sky(SKY)), found[:1], rtol=1e-6)
    np.testing.assert_array_equal(sky_sigma(ivar, own, sky_of(ivar[:2], SKY)), found)


def test_dead_fibres_and_dead_pixels_have_finite_noise() -> None:
    """A fibre without data and a pixel that no sky fibre knows come out finite."""
    ivar, own, _ = fibres(6, 1.0)
    sky_ivar, _, _ = fibres(8, 0.0)
    ivar[0], sky_ivar[:, 100:200], sky_ivar[0] = 0, 0, 0
    assert np.isfinite(sky_sigma(ivar, own, sky_of(sky_ivar, SKY))).all()
    assert np.isfinite(sky_sigma(ivar, own, typical_sky(SKY))).all()


def test_the_median_of_known_values_leaves_out_nan() -> None:
    """It equals the median of what is known, column by column, and is NaN where nothing is."""
    values = RNG.standard_normal((9, 30))
    values[RNG.random(values.shape) < 0.3] = np.nan
    values[:, 3] = np.nan
    expected = [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in values.T]
    np.testing.assert_allclose(known_median(values), expected)
