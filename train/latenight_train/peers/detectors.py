"""Detectors of PyOD on latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from latenight.spectra import Spectra
    from latenight_train.peers.training import Score

N_TREES = 300


def fit_detectors(
    bank: NDArray[np.float64], encode: Callable[[Spectra], NDArray[np.float64]], seed: int
) -> dict[str, Score]:
    """An isolation forest and the local outlier factor.

    Args:
        bank: (n, d) latents of the training spectra.
        encode: spectra -> their latents.
        seed: of the forest.
    """
    from pyod.models.iforest import IForest  # noqa: PLC0415  of the extra "compare"
    from pyod.models.lof import LOF  # noqa: PLC0415

    forest = IForest(n_estimators=N_TREES, random_state=seed).fit(bank)
    factor = LOF(n_neighbors=min(20, len(bank) - 1)).fit(bank)

    def forest_score(spectra: Spectra) -> NDArray[np.float64]:
        return np.asarray(forest.decision_function(encode(spectra)), np.float64)

    def factor_score(spectra: Spectra) -> NDArray[np.float64]:
        return np.asarray(factor.decision_function(encode(spectra)), np.float64)

    return {"isolation forest on the VAE's latents": forest_score, "LOF on the VAE's latents": factor_score}
