"""Proof that torch and ONNX compute the same, on the bundle's golden spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from latenight.errors import StartupError
from latenight.passes import MODES_BUCKETS, WANTED, read_modes, redshift_and_group
from latenight.session import Graph
from latenight.spectra import N_PIX, ineligible_reasons
from latenight.threads import default_threads
from latenight_train.export import MODEL_OUTPUTS, REFINEMENT_OUTPUTS, STATISTICS_OUTPUTS
from latenight_train.refine import Refinement
from latenight_train.statistics import Statistics
from latenight_train.vae import Z_RANGE

if TYPE_CHECKING:
    from pathlib import Path

    from latenight.spectra import Spectra
    from latenight_train.graph import Model

PARITY = 1e-5  # largest difference of torch and ONNX, relative to the largest value of an output


@torch.inference_mode()
def parity(model: Model, golden: Spectra, folder: Path) -> dict[str, float]:
    """Largest difference of torch and ONNX on the golden spectra, relative to each output's largest value.

    Raises:
        StartupError: it is more than PARITY; there is no bundle then.
    """
    rows = ineligible_reasons(golden) == ""
    z, group = redshift_and_group(golden.table[rows], np.array(Z_RANGE))
    spectra: dict[str, np.ndarray] = {"flux": golden.flux[rows], "ivar": golden.ivar[rows], "z": z}
    graph = (model, MODEL_OUTPUTS, folder / "model.onnx")
    network = _difference(*graph, {**spectra, "group": group}, WANTED)
    found = {"model": network, "refine": 0.0, "statistics": 0.0}
    for modes in read_modes(folder / "modes.npz"):
        served = modes.serves(group, z)
        if not len(served):
            continue
        mine = {name: values[served] for name, values in spectra.items()}
        refine = (Refinement(), REFINEMENT_OUTPUTS, folder / "refine.onnx")
        found["refine"] = max(found["refine"], _difference(*refine, mine, modes.weights))
        first = _served(folder / "refine.onnx", mine, modes.weights)
        sky = {"sky": np.full((len(mine["z"]), N_PIX), np.median(mine["flux"].std(axis=1)), np.float32)}
        names = ("mean", "variance", "sky", "norm", "coefficients")
        mine |= {name: {**first, **sky}[name] for name in names}
        statistics = (Statistics(), STATISTICS_OUTPUTS, folder / "statistics.onnx")
        found["statistics"] = max(found["statistics"], _difference(*statistics, mine, modes.weights))
    for name, worst in found.items():
        if not worst <= PARITY:
            raise StartupError(f"torch and ONNX differ by {worst:.2g} in {name}, {PARITY:.0e} is allowed")
    return found


def _difference(
    module: torch.nn.Module,
    outputs: tuple[str, ...],
    path: Path,
    rows: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
) -> float:
    """Largest difference of a module and its exported file over all outputs."""
    served = _served(path, rows, constants)
    trained = module(*(torch.from_numpy(values) for values in (*rows.values(), *constants.values())))
    # Coefficients of directions that the spectra hardly constrain differ by more and change nothing: what matters of
    # them is seen in the mean.
    named = zip(outputs, trained, strict=True)
    return max(difference(name, t.numpy(), served[name]) for name, t in named if name != "coefficients")


def _served(
    path: Path, rows: dict[str, np.ndarray], constants: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What an exported file gives."""
    graph = Graph(path, device="cpu", threads=default_threads(), buckets=MODES_BUCKETS)
    return graph(rows, constants=graph.held(constants))


def difference(name: str, trained: np.ndarray, served: np.ndarray) -> float:
    """Largest difference of an output, relative to its largest value.

    Of the wavelengths at which windows are strongest, one in a hundred may be another: where two windows are equally
    strong, rounding chooses, and what matters is how strong they are.
    """
    share = 0.99 if name == "wavelengths" else 1.0
    return float(np.nanquantile(np.abs(trained - served), share) / np.nanmax(np.abs(served)))
