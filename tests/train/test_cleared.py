"""The survey that the models learn from."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.errors import StartupError
from latenight.skyresidual import without_sky_residual
from latenight.spectra import N_PIX
from latenight_train.cleared import cleared
from tests.bundles import survey_of
from tests.fakes import make_spectra

if TYPE_CHECKING:
    from pathlib import Path


def test_models_learn_from_what_they_will_see(tmp_path: Path) -> None:
    """Each file's spectra are those that scoring hands to the models; the survey itself stays as it was taken."""
    messages = [make_spectra(40, seed=k, petal=k) for k in range(2)]
    for message in messages:
        message.table["objtype"][20:] = "SKY"
        message.flux[:, :500] += 0.5
    survey = survey_of(messages)
    before = survey.flux.copy()
    found = cleared(survey, np.ones(N_PIX, np.float32), tmp_path / "cleared.npy")
    for (rows, spectra), (_, seen) in zip(survey.messages(), found.messages(), strict=True):
        expected, _ = without_sky_residual(spectra, survey.reasons[rows], np.ones(N_PIX, np.float32))
        np.testing.assert_array_equal(seen.flux, expected.flux)
        assert np.median(seen.flux[:, 100:400] - spectra.flux[:, 100:400]) < -0.3
    np.testing.assert_array_equal(survey.flux, before)


def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for all fluxes is asked for beforehand, and the error says how much."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StartupError, match=r"cleared\.npy: \d+ MiB do not fit: No space left"):
        cleared(survey_of([make_spectra(40, seed=1)]), np.ones(N_PIX, np.float32), tmp_path / "cleared.npy")
