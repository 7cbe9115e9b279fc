"""Pictures of alerts."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest

from latenight.plots import plot_alert, residual
from latenight.spectra import N_JOINT, WAVE, WAVE_JOINT, empty_table
from tests.fakes import DEAD_ROW, UNKNOWN_ROW, FakeScorer, add_spikes, make_spectra


@pytest.mark.parametrize("row", [3, DEAD_ROW, UNKNOWN_ROW])
def test_any_spectrum_can_be_drawn(row: int) -> None:
    """A spectrum without data, without redshift or without reconstruction gives a picture, and no warning."""
    spectra = add_spikes(make_spectra(9, seed=1), [3])
    scores = FakeScorer().score(spectra, explain_below=1e-6)
    picture = matplotlib.image.imread(BytesIO(plot_alert(spectra, scores, row, note="injected: spike")))
    assert picture.shape[:2] == (750, 1300)
    assert picture[..., :3].min() < 0.5


def test_a_spectrum_without_identity_can_be_drawn() -> None:
    """A file without FIBERMAP gives a picture whose title holds the missing values."""
    spectra = add_spikes(make_spectra(4, seed=1), [3])
    bare = replace(spectra, table=empty_table(4))
    scores = FakeScorer().score(bare, explain_below=1e-6)
    assert plot_alert(bare, scores, 3).startswith(b"\x89PNG")


def test_the_residual_counts_noise_and_model_uncertainty() -> None:
    """A flux one unit above the model, with noise and model variance 1/2 each, lies one sigma above it."""
    spectra = make_spectra(1, seed=1)
    recon = (1e-3 * WAVE_JOINT).astype(np.float32)
    flux = np.full_like(spectra.flux, 1.0) + np.interp(WAVE, WAVE_JOINT, recon).astype(np.float32)
    ivar = np.where(spectra.ivar > 0, np.float32(2.0), np.float32(0.0))
    sigma = residual(replace(spectra, flux=flux, ivar=ivar), 0, recon, np.full(N_JOINT, 0.5**0.5, np.float32))
    np.testing.assert_allclose(sigma[ivar[0] > 0], 1.0, rtol=1e-5)
    assert np.isnan(sigma[ivar[0] == 0]).all()
