"""The survey as the models see it: without the smooth residual of the sky of each petal."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latenight.errors import StartupError
from latenight.skyresidual import without_sky_residual

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight_train.data import Survey


def cleared(survey: Survey, sky_variance: NDArray[np.float32], path: Path) -> Survey:
    """The same survey with other fluxes.

    Args:
        survey: all spectra.
        sky_variance: (7958,) of sky fibres, in any unit.
        path: file for the fluxes.

    Raises:
        StartupError: the disk has no room for them.
    """
    flux = np.lib.format.open_memmap(path, "w+", np.float32, survey.flux.shape)
    try:  # a memory map of a file with holes dies of SIGBUS, without a word, when the disk is full
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise StartupError(f"{path}: {path.stat().st_size >> 20} MiB do not fit: {error.strerror}") from error
    for rows, spectra in survey.messages():
        flux[rows] = without_sky_residual(spectra, survey.reasons[rows], sky_variance)[0].flux
    return replace(survey, flux=flux)
