"""What counts as a difference of torch and ONNX."""

from __future__ import annotations

import numpy as np

from latenight_train.parity import PARITY, difference

WAVELENGTHS = np.tile(np.linspace(3600, 9800, 124), (3, 1))


def test_a_place_that_rounding_chooses_is_no_difference() -> None:
    """One window in a hundred may be found a pixel beside, or in another arm; two in a hundred may not."""
    found = WAVELENGTHS.copy()
    found[1, 7] += 0.8
    found[2, 9] = 3600
    assert difference("wavelengths", found, WAVELENGTHS) == 0
    found[:, 11:14] += 0.8
    assert difference("wavelengths", found, WAVELENGTHS) > PARITY


def test_any_other_value_that_differs_counts() -> None:
    """A single statistic that differs by a thousandth of the largest is a difference."""
    found = WAVELENGTHS.copy()
    found[0, 3] += 9.8
    assert difference("statistics", found, WAVELENGTHS) > 0.9e-3
