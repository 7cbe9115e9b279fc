"""Which spectra of a message become alerts: eligibility, budget of false alerts, faults of the petal, a flood guard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latenight.groups import Group, find_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latenight.scores import Scores
    from latenight.spectra import Spectra

DEFAULT_BUDGET = 100.0  # expected false alerts per 100 000 eligible spectra
PER = 100_000.0
# A message is one petal of 500 fibres. The guard lets through ten times the expected number of false alerts,
# and at least 25: 5 % of a petal, three times a prevalence of 1.5 % true anomalies. More than that in one
# petal is a flood even where no group explains it (a file that does not tell fibres and petals), and 500 alerts
# would bury those of the other nine petals.
PETAL_ROWS = 500
GUARD_FACTOR = 10.0
GUARD_MIN = 25


@dataclass(frozen=True)
class Decision:
    """What becomes of one message.

    Attributes:
        rows: (k,) rows that become alerts, ascending in p_value.
        groups: faults of the petal that become one alert each; their members are not among the rows.
        n_eligible: rows that took part in the ranking.
        n_grouped: rows under the threshold that are members of a group.
        n_suppressed: rows under the threshold that the flood guard held back.
    """

    rows: NDArray[np.intp]
    groups: tuple[Group, ...]
    n_eligible: int
    n_grouped: int
    n_suppressed: int


def alert_threshold(budget: float) -> float:
    """The p_value under which a spectrum alerts.

    Args:
        budget: expected number of false alerts per 100 000 eligible spectra.
    """
    return budget / PER


def max_per_message(budget: float) -> int:
    """The most alerts that one message may publish at this budget."""
    return max(GUARD_MIN, math.ceil(GUARD_FACTOR * PETAL_ROWS * alert_threshold(budget)))


def decide(spectra: Spectra, scores: Scores, budget: float) -> Decision:
    """Choose the alerts of one message.

    A row alerts if it is eligible, its p_value lies under the threshold, and no group tells of it already; a missing
    p_value never alerts. Equal p_values are ordered by TARGETID, then by row, so that the order of the rows changes
    nothing.

    Args:
        spectra: the message's spectra.
        scores: their scores.
        budget: expected number of false alerts per 100 000 eligible spectra.
    """
    table = scores.table
    groups = tuple(find_groups(spectra.table, table, alert_threshold(budget)))
    fires = np.flatnonzero(table["eligible"] & (table["p_value"] < alert_threshold(budget)))
    grouped = np.isin(fires, [row for group in groups for row in group.rows])
    n_grouped, fires = int(np.count_nonzero(grouped)), fires[~grouped]
    order = np.lexsort((fires, spectra.table["targetid"][fires], table["p_value"][fires]))
    rows = fires[order][: max_per_message(budget)]
    n_eligible = int(np.count_nonzero(table["eligible"]))
    return Decision(rows, groups, n_eligible, n_grouped, len(fires) - len(rows))
