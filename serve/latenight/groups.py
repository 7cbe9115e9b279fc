"""Which spectra of a message show one fault of their petal: fibres that fire together beyond chance.

A fault of spectrograph or reduction strikes many fibres at once: all of a petal, those that one amplifier reads,
neighbours, and most often at the same wavelengths. So the strange spectra of each petal are counted in cells, a run of
fibres times a range of wavelengths or a statistic, and each count is compared with what an ordinary petal gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from latenight.fibres import FIBERS, petals_of
from latenight.spectra import ARM_EDGES, ARMS, WAVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.intp]
    Array = NDArray[np.float64]

# Groups that an ordinary petal gives by chance: one in 10 000 petals, 40 nights.
FALSE_GROUPS = 1e-4
# Fewer strange fibres are told one by one: nobody is flooded by them.
MIN_MEMBERS = 5
# A fault that all fibres share may make each of them only a little strange: they count from this p_value on.
WEAK = 0.01
# What an ordinary petal may hold: true anomalies (1.5 % of spectra), and p_values that are too small by a factor of
# 5, as petals of new nights have it (README, What is computed).
PREVALENCE = 0.015
INFLATION = 5.0

MIN_LOG_P = -690.0  # 1e-300: smaller numbers end at zero

BLOCK = 25  # fibres: runs begin and end with the blocks of a slit head; an amplifier reads ten blocks
WINDOWS = (25.0, 100.0, 400.0)  # widths of the wavelength ranges within an arm [A], overlapping by half
# No statistic is the strangest one of more than this share of an ordinary petal's strange spectra.
STATISTIC_SHARE = 0.1
# Cells of the same arm find parts of one fault if no more fibres than this lie between them.
NEAR_FIBERS = BLOCK
RUNS = np.array([(a, b) for a in range(0, FIBERS, BLOCK) for b in range(a + BLOCK, FIBERS + 1, BLOCK)])


@dataclass(frozen=True)
class Group:
    """Spectra of one petal that fire together.

    Attributes:
        rows: (k,) rows of the members, from the strangest on.
        tileid, petal: whose petal it is.
        fibers: first and last FIBER of the members; (-1, -1) if the file does not tell.
        n_eligible: eligible spectra between these fibres.
        wavelengths: range of the members' strangest windows [A]; None if some concern the whole spectrum.
        arm: the arm that holds that range, "" if there is more than one.
        statistic: what fires in at least half of the members, "" if nothing does.
        sign: of the members' windows if at least nine in ten agree, else 0.
        p_value: bound on the probability that an ordinary petal gives such a group anywhere.
    """

    rows: Rows
    tileid: int
    petal: int
    fibers: tuple[int, int]
    n_eligible: int
    wavelengths: tuple[float, float] | None
    arm: str
    statistic: str
    sign: int
    p_value: float

    def __str__(self) -> str:
        """The group in one line."""
        parts = [f"{len(self.rows)} of {self.n_eligible} spectra of petal {self.petal} are strange together"]
        if self.fibers[0] >= 0:
            parts.append(f"fibres {self.fibers[0]}-{self.fibers[1]}")
        if self.arm:
            parts.append(f"arm {self.arm}")
        if self.wavelengths:
            parts.append(f"{self.wavelengths[0]:.0f}-{self.wavelengths[1]:.0f} A")
        if self.statistic:
            parts.append(f"mostly {self.statistic}")
        return ", ".join(parts)


def find_groups(table: np.ndarray, scores: np.ndarray, threshold: float) -> list[Group]:
    """The groups of one message, from the most significant on; a row is in one group at most.

    Rows are grouped by petal and exposure (fibres.petals_of): one object that is strange in each of its exposures is no
    fault of the petal. Where the petal is not known (healpix coadds) there is no group.

    Args:
        table: (N,) the spectra's table.
        scores: (N,) their scores.
        threshold: p_value below which a spectrum alerts.
    """
    usable = scores["eligible"] & np.isfinite(scores["p_value"]) & (table["petal"] >= 0)
    groups = []
    for _, petal in petals_of(table):
        rows = petal[usable[petal]]
        found = _merged(_find(rows, table, scores, threshold), table, scores)
        groups += [_describe(members, rows, p, table, scores) for members, p in found]
    return sorted(groups, key=lambda group: (group.p_value, group.petal, group.tileid, group.fibers))


def _find(petal: Rows, table: np.ndarray, scores: np.ndarray, threshold: float) -> list[tuple[Rows, float]]:
    """Members and p of the cells of one petal that hold too many strange spectra, the most significant first.

    The spectra of a cell are taken out before the next is sought.
    """
    levels = (min(threshold, WEAK), WEAK)
    rows = petal[scores["p_value"][petal] < WEAK]
    places, shares = _places(scores[rows])
    runs, n = _runs(table["fiber"][rows]), _runs(table["fiber"][petal]).sum(axis=0)
    log_cells = np.log(len(levels) * len(shares) * len(n))
    left = np.ones(len(rows), bool)
    found: list[tuple[Rows, float]] = []
    while True:
        busy = np.flatnonzero(np.count_nonzero(places[left], axis=0) >= MIN_MEMBERS)
        if len(busy) == 0:
            return found
        log_p = []
        for level in levels:
            fires = left & (scores["p_value"][rows] < level)
            counts = places[fires][:, busy].T.astype(float) @ runs[fires].astype(float)
            rate = min(1.0, PREVALENCE + INFLATION * level)
            log_p.append(np.where(counts >= MIN_MEMBERS, log_tail(counts, n, rate * shares[busy, None]), 0.0))
        smallest = np.minimum(*log_p)
        place, run = np.unravel_index(smallest.argmin(), smallest.shape)
        log_p_value = float(smallest[place, run] + log_cells)
        if log_p_value > np.log(FALSE_GROUPS):
            return found
        members = left & places[:, busy[place]] & runs[:, run]
        found.append((rows[members], float(np.exp(max(log_p_value, MIN_LOG_P)))))
        left &= ~members


def _places(scores: np.ndarray) -> tuple[NDArray[np.bool_], Array]:
    """Where a fault may be: which spectra fire there, (n, C), and the share of chance firings it gets, (C,).

    A place is the whole spectrum, an arm, the half of one, a range of wavelengths, or one statistic.
    """
    edges = [ARMS[0].wave_min, *ARM_EDGES, float(ARMS[-1].wave[-1])]
    # First and last wavelength, greatest width of a window that is at home there.
    ranges: list[tuple[float, float, float]] = []
    for low, high in pairwise(edges):
        middle, length = (low + high) / 2, high - low
        ranges += [(low, high, np.inf), (low, middle, 0.75 * length), (middle, high, 0.75 * length)]
    for width in WINDOWS:
        starts = np.arange(edges[0], edges[-1], width / 2).tolist()
        ranges += [(start, start + width, width) for start in starts]
    first, last, widest = np.array(ranges).T
    wave, extent = (scores[name].astype(float)[:, None] for name in ("wavelength", "width"))
    statistic = scores["statistic"]
    names = np.unique(statistic)
    anywhere = np.ones((len(scores), 1), bool)
    inside = (wave >= first) & (wave <= last) & (extent <= widest)
    places = np.concatenate([anywhere, inside, statistic[:, None] == names], axis=1)
    share = (last - first) / (edges[-1] - edges[0])
    return places, np.concatenate([[1.0], share, np.full(len(names), STATISTIC_SHARE)])


def _runs(fiber: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which fibres lie in each run, (n, R); the first run is the petal, unknown fibres (-1) included."""
    of_petal = np.where(fiber >= 0, fiber % FIBERS, -1)[:, None]
    inside = (of_petal >= RUNS[:, 0]) & (of_petal < RUNS[:, 1])
    return np.concatenate([np.ones((len(fiber), 1), bool), inside], axis=1)


def log_tail(k: Array, n: NDArray[np.intp], q: Array) -> Array:
    """Upper bound on ln P(at least k of n), each with probability q.

    Chernoff's bound, -n KL(k/n || q) (Hoeffding 1963, J. Am. Stat. Assoc. 58, 13, theorem 1); 0 where k/n <= q.
    """
    share = k / np.maximum(n, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        yes = np.where(share > 0, share * np.log(share / q), 0.0)
        no = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - q)), 0.0)
        return np.where(share > q, -n * (yes + no), 0.0)


def _merged(
    found: list[tuple[Rows, float]], table: np.ndarray, scores: np.ndarray
) -> list[tuple[Rows, float]]:
    """Join the cells that are parts of one fault: near each other in fibre, in the same arm."""
    groups: list[tuple[Rows, float]] = []
    for rows, p in found:
        near = [_near(rows, members, table, scores) for members, _ in groups]
        joined = [group for group, is_near in zip(groups, near, strict=True) if is_near]
        groups = [group for group, is_near in zip(groups, near, strict=True) if not is_near]
        members = np.concatenate([rows, *(other for other, _ in joined)])
        groups.append((members, min(p, *(other for _, other in joined), 1.0)))
    return groups


def _near(a: Rows, b: Rows, table: np.ndarray, scores: np.ndarray) -> bool:
    first, last = ([f(table["fiber"][rows]) for rows in (a, b)] for f in (np.min, np.max))
    return bool(max(first) - min(last) <= NEAR_FIBERS and _arms(scores[a]) & _arms(scores[b]))


def _arms(scores: np.ndarray) -> set[str]:
    """The arms in which these spectra fire; all if one of them fires at no wavelength."""
    if not (scores["wavelength"] > 0).all():
        return {arm.name for arm in ARMS}
    return {ARMS[k].name for k in np.searchsorted(ARM_EDGES, scores["wavelength"])}


def _wavelengths(scores: np.ndarray) -> tuple[float, float] | None:
    """The range that the windows of these spectra cover [A]; None if one of them has none."""
    wave, half = scores["wavelength"].astype(float), scores["width"].astype(float) / 2
    if not (wave > 0).all():
        return None
    return float(max((wave - half).min(), WAVE[0])), float(min((wave + half).max(), WAVE[-1]))


def _describe(members: Rows, petal: Rows, p: float, table: np.ndarray, scores: np.ndarray) -> Group:
    """The group of these members among the eligible rows of their petal."""
    order = np.lexsort((members, table["targetid"][members], scores["p_value"][members]))
    rows = members[order]
    fiber = table["fiber"]
    first, last = int(fiber[rows].min()), int(fiber[rows].max())
    arms = _arms(scores[rows])
    names, counts = np.unique(scores["statistic"][rows], return_counts=True)
    sign = float(scores["sign"][rows].mean())
    return Group(
        rows=rows,
        tileid=int(table["tileid"][rows[0]]),
        petal=int(table["petal"][rows[0]]),
        fibers=(first, last),
        n_eligible=int(np.count_nonzero((fiber[petal] >= first) & (fiber[petal] <= last))),
        wavelengths=_wavelengths(scores[rows]),
        arm=arms.pop() if len(arms) == 1 else "",
        statistic=str(names[counts.argmax()]) if 2 * counts.max() >= len(rows) else "",
        sign=int(np.sign(sign)) if abs(sign) >= 0.8 else 0,
        p_value=p,
    )
