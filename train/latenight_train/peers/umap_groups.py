"""UMAP and friends-of-friends, as the quality analysis of DESI DR2 does it (arXiv:2606.21035).

There every tile is embedded by itself; spectra outside of the large groups of friends are outliers. Here every
petal of a message is, and instead of one linking length the score is the smallest one that joins a spectrum to a
large group: all linking lengths at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ineligible_reasons
from latenight_train.peers.training import observed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from latenight.spectra import Spectra
    from latenight_train.peers.training import Score, Training

N_NEIGHBOURS = 15  # UMAP's default
LARGE = 0.05  # of a petal's spectra: a group of friends of this size is not an outlier
MIN_ROWS = 50  # fewer spectra have no groups


def fit(training: Training) -> dict[str, Score]:
    """The linking length at which a spectrum joins a large group of its petal; nothing is learned beforehand."""

    def score(spectra: Spectra) -> NDArray[np.float64]:
        scores = np.full(len(spectra), -np.inf)
        table, eligible = spectra.table, ineligible_reasons(spectra) == ""
        petals = table["tileid"].astype(np.int64) * 10 + table["petal"]
        for petal in np.unique(petals[eligible]):
            rows = np.flatnonzero(eligible & (petals == petal))
            if len(rows) >= MIN_ROWS:
                # UMAP depends on the order of its rows: a message may come in any.
                rows = rows[np.argsort(table["targetid"][rows], kind="stable")]
                flux, _ = observed(spectra.flux[rows], spectra.ivar[rows])
                scores[rows] = linking_length(_embedded(flux.numpy(), training.seed))
        return scores

    return {"UMAP + friends-of-friends": score}


def _embedded(flux: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Two coordinates per spectrum, (N, 2)."""
    from umap import UMAP  # noqa: PLC0415  of the extra "compare"; compiles for seconds

    model = UMAP(n_neighbors=N_NEIGHBOURS, min_dist=0.0, metric="cosine", random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(flux), np.float64)


def linking_length(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest distance between friends at which each point belongs to a large group, (N,)."""
    from scipy.cluster.hierarchy import linkage  # noqa: PLC0415  of the extra "compare"

    members: dict[int, list[int]] = {k: [k] for k in range(len(points))}
    lengths = np.full(len(points), np.inf)
    # Single linkage is friends-of-friends for every linking length: groups merge as the length grows.
    for k, (a, b, length, _) in enumerate(linkage(points, "single").tolist()):
        group = members[len(points) + k] = members.pop(int(a)) + members.pop(int(b))
        if len(group) >= LARGE * len(points):
            lengths[group] = np.minimum(lengths[group], length)
    return lengths
