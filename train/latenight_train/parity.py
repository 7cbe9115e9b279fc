"""Proof that torch and ONNX compute the same, on the bundle's golden spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight.errors import StartupError
from latenight.modes import REGIONS, groups_of, read_modes
from latenight.passes import MODES_BUCKETS, usable_redshift
from latenight.session import Graph
from latenight.spectra import N_PIX, SPECTYPES, UNKNOWN, ineligible_reasons
from latenight.threads import default_threads
from latenight_train.export import MODEL_OUTPUTS, REFINEMENT_OUTPUTS, STATISTICS_OUTPUTS
from latenight_train.refine import Refinement
from latenight_train.statistics import Statistics
from latenight_train.vae import Z_RANGE

if TYPE_CHECKING:
    from pathlib import Path

    from latenight.spectra import Spectra
    from latenight_train.graph import Model

# Largest difference of torch and ONNX, relative to the largest value of an output. Rounding reaches 1e-5 where a bright
# spectrum leaves a statistic ill-conditioned; a fault of the export is far above.
PARITY = 3e-5

Outputs = tuple[np.ndarray, ...]


@torch.inference_mode()
def parity(model: Model, golden: Spectra, folder: Path) -> dict[str, float]:
    """Largest difference of torch and ONNX on the golden spectra, relative to each output's largest value.

    Raises:
        StartupError: it is more than PARITY; there is no bundle then.
    """
    z, group = usable_redshift(golden.table, np.array(Z_RANGE))
    rows = np.flatnonzero((ineligible_reasons(golden) == "") & (group != SPECTYPES.index(UNKNOWN)))
    z, group = z[rows], group[rows]
    spectra: dict[str, np.ndarray] = {"flux": golden.flux[rows], "ivar": golden.ivar[rows], "z": z}
    pairs = {"model": [_both(model, folder / "model.onnx", {**spectra, "group": group}, {})]}
    pairs |= {"refine": [], "statistics": []}
    refine, statistics = Refinement(), Statistics()
    groups = read_modes(folder / "modes.npz")
    of_row = groups_of(groups, group, z)
    for k in np.unique(of_row[of_row >= 0]).tolist():
        modes, served = groups[k], np.flatnonzero(of_row == k)
        mine = {name: values[served] for name, values in spectra.items()}
        pairs["refine"].append(_both(refine, folder / "refine.onnx", mine, modes.given("precision")))
        first = dict(zip(REFINEMENT_OUTPUTS, pairs["refine"][-1][1], strict=True))
        first["sky"] = np.full((len(served), N_PIX), np.median(mine["flux"].std(axis=1)), np.float32)
        first["beside"] = np.roll(first["mean"], 1, axis=0)
        used = ("mean", "variance", "sky", "beside", "norm", "coefficients")
        mine |= {name: first[name] for name in used}
        pairs["statistics"].append(_both(statistics, folder / "statistics.onnx", mine, modes.given(*REGIONS)))
    names = {"model": MODEL_OUTPUTS, "refine": REFINEMENT_OUTPUTS, "statistics": STATISTICS_OUTPUTS}
    found = {graph: _worst(names[graph], some) for graph, some in pairs.items() if some}
    for graph, worst in found.items():
        if not worst <= PARITY:
            raise StartupError(f"torch and ONNX differ by {worst:.2g} in {graph}, {PARITY:.0e} is allowed")
    return found


def _both(
    module: torch.nn.Module, path: Path, rows: dict[str, np.ndarray], constants: dict[str, np.ndarray]
) -> tuple[Outputs, Outputs]:
    """The outputs of a module and of its exported file."""
    trained = module(*(torch.from_numpy(values) for values in (*rows.values(), *constants.values())))
    graph = Graph(path, device="cpu", threads=default_threads(), buckets=MODES_BUCKETS)
    served = graph(rows, constants=graph.held(constants))
    return tuple(values.numpy() for values in trained), tuple(served.values())


def _worst(names: tuple[str, ...], pairs: list[tuple[Outputs, Outputs]]) -> float:
    """Largest difference over all outputs of a graph; pairs from torch and ONNX, one per group of spectra.

    Coefficients of directions that the spectra hardly constrain differ by more and change nothing: what matters of them
    is seen in the mean.
    """
    trained, served = (map(np.concatenate, zip(*each, strict=True)) for each in zip(*pairs, strict=True))
    named = zip(names, trained, served, strict=True)
    return max(difference(name, t, s) for name, t, s in named if name != "coefficients")


def difference(name: str, trained: np.ndarray, served: np.ndarray) -> float:
    """Largest difference of an output, relative to its largest value.

    Of the wavelengths at which windows are strongest, one in a hundred may be another: where two windows are equally
    strong, rounding chooses, and what matters is how strong they are.
    """
    share = 0.99 if name == "wavelengths" else 1.0
    return float(np.nanquantile(np.abs(trained - served), share) / np.nanmax(np.abs(served)))
