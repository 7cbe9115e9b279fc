"""The latent bank: training spectra as the network sees them, for the search of nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from latenight.errors import StartupError
from latenight.passes import by_redshift, usable_redshift
from latenight.session import Graph
from latenight.threads import default_threads
from latenight_train.data import evenly
from latenight_train.vae import Z_RANGE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from latenight_train.data import Survey

MAX_BANK = 200_000  # rows; the exact search costs 31 MFLOP per spectrum at this size
ACTIVE = 0.1  # half width below which a latent axis carries nothing (its posterior is the prior)


def write_bank(survey: Survey, rows: NDArray[np.intp], folder: Path) -> NDArray[np.float32]:
    """Write bank.npy and bank_ids.npy; returns the factor (d,) that scales latents like the bank.

    Axes are scaled by half of their 16-84 % range; axes that carry nothing get weight 0, since scaling their
    noise up would drown the others.
    """
    if len(rows) < 50:
        raise StartupError(f"only {len(rows)} training spectra: the latent bank needs 50; name more coadds")
    chosen = evenly(rows, MAX_BANK)
    graph = Graph(folder / "model.onnx", device="cpu", threads=default_threads())
    latents = _latents(graph, survey, chosen)
    low, high = np.quantile(latents, [0.16, 0.84], axis=0)
    half = (high - low) / 2
    scale = np.where(half > ACTIVE, 1 / np.maximum(half, ACTIVE), 0).astype(np.float32)
    np.save(folder / "bank.npy", latents * scale)
    np.save(folder / "bank_ids.npy", survey.table["targetid"][chosen])
    return scale


def _latents(graph: Graph, survey: Survey, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    parts = []
    for start in tqdm(range(0, len(rows), 1024), desc="latent bank", disable=None):
        block = rows[start : start + 1024]
        z, group = usable_redshift(survey.table[block], np.array(Z_RANGE))
        inputs: dict[str, np.ndarray] = {"flux": survey.flux[block], "ivar": survey.ivar[block]}
        inputs |= {"z": z, "group": group}
        parts.append(by_redshift(graph, inputs)["latent"])
    return np.concatenate(parts)
