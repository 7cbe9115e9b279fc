"""torch modules -> ONNX files, with proof that both compute the same."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import onnx
import torch

from latenight.spectra import N_JOINT, N_PIX
from latenight_train.modes import N_MODES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

# torch.cond etc. are not used; 20 is the first opset whose operators all have CUDA kernels here.
OPSET = 20
MODEL_OUTPUTS = ("latent", "mean", "variance", "log_prob", "deviance", "snr")
STATISTICS_OUTPUTS = (
    *("chi2", "arm_chi2", "scan_sigma", "scan_wavelength"),
    *("recon", "recon_sigma"),
)
REFINEMENT_OUTPUTS = ("mean", "variance", "coefficients")
NEIGHBOURS_OUTPUTS = ("distances", "indices")


def export_model(model: nn.Module, path: Path) -> None:
    """Write pass 1: flux, ivar (N, 7958), z (N,), group (N,) int64 -> MODEL_OUTPUTS."""
    n = 3  # any size: the batch dimension is dynamic, and sizes 0 and 1 would be specialised
    inputs = {
        "flux": torch.ones(n, N_PIX),
        "ivar": torch.ones(n, N_PIX),
        "z": torch.full((n,), 0.3),
        "group": torch.zeros(n, dtype=torch.int64),
    }
    _export(model, inputs, MODEL_OUTPUTS, path)


def export_statistics(statistics: nn.Module, path: Path) -> None:
    """Write pass 2: flux, ivar (N, 7958), mean, variance (N, 7781) -> STATISTICS_OUTPUTS."""
    n = 3
    inputs = {"flux": torch.ones(n, N_PIX), "ivar": torch.ones(n, N_PIX)}
    inputs |= {"mean": torch.ones(n, N_JOINT), "variance": torch.ones(n, N_JOINT)}
    _export(statistics, inputs, STATISTICS_OUTPUTS, path)


def export_refinement(refinement: nn.Module, path: Path) -> None:
    """Write the exact refinement: flux, ivar, z and the modes of a group -> REFINEMENT_OUTPUTS."""
    n = 3
    inputs = {"flux": torch.ones(n, N_PIX), "ivar": torch.ones(n, N_PIX), "z": torch.full((n,), 0.3)}
    inputs |= {"columns": torch.ones(500, N_MODES + 2), "grid": torch.tensor([8.0, 1e4, 498.0]).double()}
    inputs |= {"precision": torch.eye(N_MODES)}
    fixed = {"grid": None, "precision": None}
    _export(refinement, inputs, REFINEMENT_OUTPUTS, path, {"columns": "bins", **fixed})


def export_neighbours(neighbours: nn.Module, latent: int, path: Path) -> None:
    """Write the kNN graph: latent (N, d), bank (M, d), minus_norm2 (M,) -> distances, indices (N, 16)."""
    inputs = {"latent": torch.ones(3, latent), "bank": torch.ones(50, latent), "minus_norm2": torch.ones(50)}
    _export(neighbours, inputs, NEIGHBOURS_OUTPUTS, path, {"bank": "m", "minus_norm2": "m"})


def _export(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: tuple[str, ...],
    path: Path,
    axes: dict[str, str | None] | None = None,
) -> None:
    """Export one module with a dynamic first axis ("n" unless axes names another, or None) and check the file."""
    names = {name: (axes or {}).get(name, "n") for name in inputs}
    dims = {name: {0: torch.export.Dim(axis)} if axis else {} for name, axis in names.items()}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dims,
            verbose=False,
            # onnxruntime optimises when it loads, and the exporter takes half of its time for it; but only the
            # optimiser gives an output that is an input (recon) a node of its own.
            optimize=path.name == "statistics.onnx",
        )
    if program is None:  # only fallback=True returns None
        raise RuntimeError(f"the exporter gave no program for {path.name}")
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
