"""Messages as they came, and as they might have come: without redshift, without sky, without a petal.

Spectra of each kind have p-values of their own, and so the calibration needs some of each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import Spectra
from latenight_train.data import without_redshift

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

# Of the petals of a fold, each of which is left out once of the tables of p-values: tables without a third of the
# petals are cautious (a nominal 10 % gives 8.5 %), those without a twelfth are like those of all (9.7 %);
# there are 10 folds, 5 in small surveys.
PARTS = 2
# Petals whose spectra are mixed into messages of unknown petals. Files of single petals, their numbers taken away, made
# tables by which 3 to 9 % of the ordinary spectra of mixed ones fell below 1 %: noise and residual of the sky differ.
MIXED = 8
OF_SEEN = 8  # of the rows that the network has seen, whose statistics are the models' only, one of so many


def versions(
    messages: Iterable[tuple[slice, Spectra]],
    fold: NDArray[np.bool_],
    reasons: np.ndarray,
    held_out: NDArray[np.bool_],
) -> Iterator[tuple[int, Spectra, np.ndarray, NDArray[np.bool_]]]:
    """Messages as they came, and what the network has not seen of them as if it came without sky or redshift.

    Args:
        messages: rows and spectra of files.
        fold: (N,) rows that take part.
        reasons: (N,) why a row is not eligible.
        held_out: (N,) rows that the network has not seen.

    Yields:
        a number, spectra, why a row takes no part ("" if it does), whether the network has not seen it.
    """
    waiting: dict[str, list[tuple[Spectra, NDArray[np.bool_]]]] = {}
    for i, (rows, spectra) in enumerate(messages):
        why, unseen = np.where(fold[rows], reasons[rows], "other fold"), held_out[rows]
        yield i, spectra, why, unseen
        if i // PARTS % 2 == 0:
            yield i, _hidden(spectra), np.where(unseen, why, "seen"), unseen
        eligible = np.flatnonzero(why == "")
        if len(few := eligible[unseen[eligible] | (eligible % OF_SEEN == 0)]):
            program = str(spectra.table["program"][0])
            petals = waiting.setdefault(program, [])
            petals.append((spectra.take(few), unseen[few]))
            if len(petals) == MIXED:
                yield from _strangers(waiting.pop(program), i)
    for petals in waiting.values():
        yield from _strangers(petals, i)


def _strangers(
    petals: Sequence[tuple[Spectra, NDArray[np.bool_]]], number: int
) -> Iterator[tuple[int, Spectra, np.ndarray, NDArray[np.bool_]]]:
    """Spectra of some petals dealt anew into as many messages whose petals nobody knows, as in healpix files.

    Every second comes without redshifts, too.

    Args:
        petals: eligible spectra, and which of them the network has not seen.
        number: of the first message.

    Yields:
        as versions.
    """
    parts = [(spectra.flux, spectra.ivar, spectra.table, unseen) for spectra, unseen in petals]
    flux, ivar, table, unseen = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    for name in ("petal", "tileid", "fiber"):
        table[name] = -1
    every = Spectra(flux, ivar, table, "strangers")
    order = np.random.default_rng(number).permutation(len(table))
    for k, rows in enumerate(np.array_split(order, len(petals))):
        mine, why = every.take(rows), np.full(len(rows), "")
        yield number + k, mine, why, unseen[rows]
        if k % 2 == 0:
            yield number + k, _hidden(mine), why, unseen[rows]


def _hidden(spectra: Spectra) -> Spectra:
    """The same spectra without their redshifts."""
    return replace(spectra, table=without_redshift(spectra.table))
