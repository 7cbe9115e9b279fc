"""What an imperfect reduction may do to one spectrum, as the second solve fits it: gains, shift, errors of the sky.

Each shape acts on one ingredient of a spectrum (its model, its sky...) by blocks of 16 pixels, and is as large as the
standard deviation of its prior, whose coefficients have unit variance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.channels import TAKES_OVER
from latenight_train.blocks import ARM_OF_BLOCK, BLOCK_WAVE, N_BLOCKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Widths of the priors: gain of an arm, smooth gain and tilt, shift in ln(wavelength), sky in units of its sigma.
ARM_GAIN, SMOOTH_GAIN, SHIFT, SKY = 0.008, 0.01, 1.5e-4, 0.05
# The sky lines of a fibre differ from those of the others by band: public sky fibres have an rms of 1.47 sigma on lines
# of the Z arm, 1.23 beside them, of which a quarter is common. Without these modes the strongest windows of 256 pixels
# exceed 5.2 sigma in 1 % of the spectra with S/N < 3, three of four of them at 9200-9500 A; with them 4.5, and lines of
# the Z arm as a whole 2.6 instead of 4.6.
SKY_BANDS = 0.1
BANDS = (6900.0, 7300.0, 7650.0, 7950.0, 8250.0, 8550.0, 8850.0, 9150.0, 9450.0, 9750.0)  # centres [A]
BAND_SIGMA = 150.0  # A


def gains() -> Array:
    """Shapes of gains, (499, 10): of each arm, three waves, tilt; they act on the model."""
    arms = [np.where(k == ARM_OF_BLOCK, ARM_GAIN, 0.0) for k in range(3)]
    tilt = SMOOTH_GAIN * (BLOCK_WAVE - 6500.0) / 3000.0
    return np.stack([*arms, *(SMOOTH_GAIN * wave for wave in _waves()), tilt], axis=1)


def skies() -> Array:
    """Shapes of a smooth error of the sky, (499, 7); they act on sigma of the sky."""
    return SKY * np.stack([np.ones(N_BLOCKS), *_waves()], axis=1)


def shifts() -> Array:
    """The shape of a shift in wavelength, (499, 1); it acts on the slope of the model."""
    return np.full((N_BLOCKS, 1), SHIFT)


def sky_bands() -> Array:
    """Shapes of errors of the sky's lines, (499, 10): bands of them in one arm; they act on the lines."""
    shapes = [
        np.exp(-0.5 * np.square((BLOCK_WAVE - centre) / BAND_SIGMA))
        * ((1 if centre < TAKES_OVER[2] else 2) == ARM_OF_BLOCK)
        for centre in BANDS
    ]
    return SKY_BANDS * np.stack(shapes, axis=1)


def _waves() -> list[Array]:
    """Three cosines and three sines over the whole spectrum, (499,) each."""
    x = (BLOCK_WAVE - 3600.0) / 6224.0
    return [f(np.pi * k * x) for f in (np.cos, np.sin) for k in (1, 2, 3)]
