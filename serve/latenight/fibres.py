"""The fibres of a petal: which rows they are, which of them are ordinary, sums over their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, N_PIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FIBERS = 500  # of a petal
CLIP = 4.0  # sigma: what a single pixel can say about its petal
DIFFERENT = 5.0  # robust sigmas from the petal's other fibres
HALF_STARTS = [arm.start + half for arm in ARMS for half in (0, arm.n // 2)]  # first pixels of half arms
ROWS = 16  # at a time: their arrays of 0.5 MB stay in the cache of a core


def petals_of(table: np.ndarray) -> list[tuple[int, NDArray[np.intp]]]:
    """PETAL (below 0 if it is not known) and rows of each petal of a message, by (tileid, petal).

    A fibre that comes again (spectra-* files) is of the next exposure, which is as another petal: sky and gain differ.
    """
    petals = np.stack([table["tileid"], table["petal"], _exposure(table)], axis=1)
    found, which = np.unique(petals, axis=0, return_inverse=True)
    return [(int(petal), np.flatnonzero(which.ravel() == k)) for k, (_, petal, _) in enumerate(found)]


def petal_in_message(table: np.ndarray) -> NDArray[np.int64]:
    """The number of the petal of each row among those of petals_of, (N,), -1 where it is not known."""
    numbers = np.full(len(table), -1, np.int64)
    for k, (petal, rows) in enumerate(petals_of(table)):
        if petal >= 0:
            numbers[rows] = k
    return numbers


def _exposure(table: np.ndarray) -> NDArray[np.intp]:
    """How often the fibre of each row came before, (N,); 0 where petal or fibre is not known."""
    fibres = np.stack([table["tileid"], table["petal"], table["fiber"]], axis=1)
    _, which = np.unique(fibres, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    same = which.ravel()[order]
    before = np.empty(len(table), np.intp)
    before[order] = np.arange(len(table)) - np.searchsorted(same, same)
    return np.where((table["petal"] >= 0) & (table["fiber"] >= 0), before, 0)


def chunks(n: int) -> Iterator[slice]:
    """Slices of ROWS out of n rows."""
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def half_sums(values: Floats) -> Floats:
    """Sums over the halves of the arms, (n, 6)."""
    return np.add.reduceat(values, HALF_STARTS, axis=1)


def ordinary_fibres(sigmas: Floats, n_good: Floats) -> NDArray[np.bool_]:
    """Which of n fibres differ from the others neither in the mean nor in the scatter of half an arm, (n,).

    Args:
        sigmas: (n, 7958) residuals in sigma, 0 in bad pixels.
        n_good: (n, 6) number of good pixels in each half.
    """
    n = np.maximum(n_good, 1)
    offset, scatter = np.empty((2, *n.shape), np.float32)
    for rows in chunks(len(n)):
        clipped = np.clip(sigmas[rows], -2 * CLIP, 2 * CLIP)
        offset[rows] = half_sums(clipped)
        clipped *= clipped
        scatter[rows] = half_sums(clipped)
    found = np.concatenate([offset / np.sqrt(n), scatter / n], axis=1)
    away = np.abs(found - np.median(found, axis=0))
    different = (away > DIFFERENT * 1.4826 * np.maximum(np.median(away, axis=0), 1e-6)).any(axis=1)
    # Where more than half differ there is no norm to differ from.
    return ~different if 2 * np.count_nonzero(different) <= len(different) else np.ones(len(sigmas), bool)


def pattern_sums(rest: Floats, pattern: Floats, fibres: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Sums over some fibres of pattern times clipped residual and of pattern squared, (7958,) each."""
    products, squares = np.zeros((2, N_PIX), np.float32)
    for rows in chunks(len(rest)):
        of_fibres = fibres[rows].astype(np.float32)[:, None] * pattern[rows]
        clipped = np.clip(rest[rows], -CLIP, CLIP)
        products += np.einsum("np,np->p", clipped, of_fibres)
        squares += np.einsum("np,np->p", of_fibres, of_fibres)
    return products, squares


def take_off(rest: Floats, amplitude: Floats, pattern: Floats) -> None:
    """Subtract amplitude (7958,) times pattern (n, 7958) from rest (n, 7958), in place."""
    for rows in chunks(len(rest)):
        rest[rows] -= amplitude * pattern[rows]


def around(values: NDArray[np.floating], pixels: int) -> NDArray[np.float64]:
    """Sums over so many pixels around each pixel that do not leave its arm, (7958,)."""
    kernel = np.ones(pixels)
    return np.concatenate([np.convolve(values[arm.pixels], kernel, "same") for arm in ARMS])
