"""What fibres of a petal tell of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from latenight.channels import COMPARED, PASS2
from latenight.neighbours import light_beside, shared_offsets
from latenight.spectra import N_PIX, empty_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

N = 100
NAMES = [statistic.name for statistic in PASS2]
Z_LOW = [statistic.name for statistic in COMPARED].index("amplifier_z_low")


def table_of(fiber: NDArray[np.int_], petal: int = 3) -> np.ndarray:
    table = empty_table(len(fiber))
    table["tileid"], table["petal"], table["fiber"] = 1000, petal, 500 * petal + fiber
    return table


def beside(norm: list[float], fiber: list[int], petal: int = 3) -> list[float]:
    """The light that fibres of the given brightness get; each has its own brightness in all pixels."""
    mean = np.tile(np.array(norm, np.float32)[:, None], N_PIX)
    light = light_beside(mean, mean[:, 0], table_of(np.array(fiber), petal))
    assert (light == light[:, :1]).all()
    return [float(value) for value in light[:, 0]]


def test_the_brighter_of_both_neighbours_lends_its_light() -> None:
    """A fibre gets the light of the brighter of those beside it, and none where both are fainter than itself."""
    assert beside([1, 5, 2, 9, 0.5], [10, 11, 12, 13, 14]) == [5, 0, 9, 0, 9]


def test_only_fibres_side_by_side_are_neighbours() -> None:
    """Light does not cross a gap of one fibre, and where rows stand in the file does not matter."""
    assert beside([1, 5], [10, 12]) == [0, 0]
    assert beside([9, 1, 5], [20, 0, 1]) == [0, 5, 0]
    assert beside([1, 9], [0, 499]) == [0, 0]


def test_unknown_petals_and_fibres_have_no_neighbours() -> None:
    """Rows whose petal or fibre is not known get no light and no statistic."""
    assert beside([1, 5], [10, 11], petal=-1) == [0, 0]
    table = table_of(np.arange(N))
    table["fiber"] = -1
    assert np.isnan(shared_offsets(offsets(), table)).all()


def offsets(seed: int = 0) -> NDArray[np.float32]:
    """Statistics of ordinary spectra, of which only offsets matter."""
    return np.random.default_rng(seed).standard_normal((N, len(PASS2))).astype(np.float32)


def shared(values: NDArray[np.float32], fiber: NDArray[np.int_] | None = None) -> NDArray[np.float32]:
    """The statistic of the blue half of the z arm, (N,)."""
    return shared_offsets(values, table_of(np.arange(N) if fiber is None else fiber))[:, Z_LOW]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_run_of_offset_fibres_stands_out(sign: int) -> None:
    """Six neighbours, each offset by 2.5 sigma, stand out as none of the others does, with their sign."""
    values = offsets()
    values[40:46, NAMES.index("offset_z_low")] = 2.5 * sign
    found = sign * shared(values)
    others = np.delete(found, np.arange(36, 50))
    assert found[40:46].min() > 4.5 > 1.2 * np.abs(others).max()


def test_a_fibre_without_the_offset_takes_no_part() -> None:
    """In the middle of a run one that is offset the other way is not strange."""
    values = offsets()
    values[40:48, NAMES.index("offset_z_low")] = 3
    values[44, NAMES.index("offset_z_low")] = -1
    found = shared(values)
    assert found[44] == 0
    assert found[43] > 5


def test_what_the_whole_petal_shares_is_no_run() -> None:
    """An offset of all fibres changes nothing: the petal step and group alerts are for it."""
    values = offsets()
    assert shared(values + 3) == pytest.approx(shared(values), abs=1e-5)


def test_one_fibre_cannot_make_a_run() -> None:
    """A single offset of 50 sigma says no more about its neighbours than one of 4 sigma."""
    values = offsets()
    values[50, NAMES.index("offset_z_low")] = 50
    assert np.abs(np.delete(shared(values), 50)).max() < 5


def test_the_order_of_rows_does_not_matter() -> None:
    """Rows of a petal in another order get the same values."""
    order = np.random.default_rng(1).permutation(N)
    values = offsets()
    assert (shared(values[order], order) == shared(values)[order]).all()


def test_a_statistic_without_known_neighbours_is_missing() -> None:
    """Fibres far from each other, or whose neighbours have no such statistic, get NaN."""
    assert np.isnan(shared(offsets(), 5 * np.arange(N))).all()
    values = offsets()
    values[10:30, NAMES.index("offset_z_low")] = np.nan
    assert np.isnan(shared(values)[15:25]).all()


def test_an_arm_that_no_fibre_has_is_missing() -> None:
    """Where half an arm of the whole petal is dead, its statistic is missing and the others are as before."""
    values = offsets()
    before = shared_offsets(values, table_of(np.arange(N)))
    values[:, NAMES.index("offset_z_low")] = np.nan
    after = shared_offsets(values, table_of(np.arange(N)))
    assert np.isnan(after[:, Z_LOW]).all()
    assert np.array_equal(np.delete(after, Z_LOW, axis=1), np.delete(before, Z_LOW, axis=1))
