"""What fibres tell of each other: light of a bright one beside, and offsets that a run of neighbours shares.

Spectra of consecutive fibres stand side by side on the detector. Light of a bright one leaks into the next, and a wrong
bias level of an amplifier reaches all that it reads. Of amplifier offsets whose S/N is 20 in each of 4 to 12 fibres .53
are found at 1 % false alerts one by one, .87 with their neighbours; of crosstalk .42, and .47 with the bright fibre's
light as a pattern.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.channels import COMPARED, PASS2
from latenight.fibres import FIBERS, petals_of
from latenight.skyfibres import known_median

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

RUNS = (4, 8)  # fibres of a run
MIN_RUN = 3  # fibres of a run that are known
LIMIT = 4.0  # sigma: what a single fibre can say about its neighbours
NAMES = [statistic.name for statistic in PASS2]
OFFSETS = [NAMES.index(statistic.name.replace("amplifier", "offset")) for statistic in COMPARED]


def light_beside(mean: Floats, norm: Floats, table: np.ndarray) -> Floats:
    """The reconstruction of the brighter of both neighbours of each fibre, (n, 7958).

    It is 0 where none of them is brighter than the fibre itself, or fibres are not known.

    Args:
        mean: (n, 7958) reconstructions.
        norm: (n,) brightness of the spectra.
        table: (n,) the spectra's table.
    """
    light = np.zeros_like(mean)
    for rows, fiber in _slits(table):
        brightness, row = np.full(FIBERS + 2, -np.inf, np.float32), np.zeros(FIBERS + 2, np.intp)
        brightness[fiber + 1], row[fiber + 1] = norm[rows], rows
        side = np.where(brightness[fiber] > brightness[fiber + 2], 0, 2)
        brighter = brightness[fiber + side] > norm[rows]
        light[rows[brighter]] = np.maximum(mean[row[(fiber + side)[brighter]]], 0)
    return light


def shared_offsets(values: Floats, table: np.ndarray) -> Floats:
    """How much a run of fibres around each is offset in the same half of an arm, (n, 6), in the order of COMPARED.

    The significance of the mean of the run, relative to the petal's median, in which a fibre takes part as far as its
    own offset has that sign. NaN where fewer than MIN_RUN neighbours are known.

    Args:
        values: (n, C) statistics of pass 2.
        table: (n,) the spectra's table.
    """
    found = np.full((len(values), len(COMPARED)), np.nan, np.float32)
    for rows, fiber in _slits(table):
        offset = values[rows][:, OFFSETS]
        known = np.isfinite(offset)
        offset = np.where(known, offset - known_median(np.where(known, offset, np.nan)), 0)
        slit, seen = np.zeros((2, FIBERS, len(COMPARED)))
        slit[fiber], seen[fiber] = np.clip(offset, -LIMIT, LIMIT), known
        best = max_by_size([_best_run(slit, seen, length) for length in RUNS])[fiber]
        found[rows] = best * np.clip(np.sign(best) * offset, 0, 1)
    return found


def max_by_size(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of several arrays in each place the value that is farthest from 0."""
    stacked = np.stack(values)
    at = np.abs(np.nan_to_num(stacked)).argmax(axis=0)
    return np.asarray(np.take_along_axis(stacked, at[None], axis=0)[0])


def _best_run(slit: NDArray[np.float64], seen: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The most significant run of so many fibres that holds each fibre, (500, 6); NaN where too few are known."""
    padded = np.pad(np.stack([slit, seen]), ((0, 0), (length - 1, length - 1), (0, 0)))
    total, count = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1).sum(axis=-1)
    t = np.where(count >= MIN_RUN, total / np.sqrt(np.maximum(count, 1)), np.nan)
    return max_by_size([t[start : start + FIBERS] for start in range(length)])


def _slits(table: np.ndarray) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """Rows and place on the slit, 0 to 499, of the fibres of each petal that is known."""
    for petal, rows in petals_of(table):
        known = rows[table["fiber"][rows] >= 0]
        if petal >= 0 and len(known):
            yield known, table["fiber"][known].astype(np.int64) % FIBERS
