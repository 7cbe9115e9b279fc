"""torch modules -> ONNX files, with proof that both compute the same."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import onnx
import torch

from latenight.spectra import N_JOINT, N_PIX
from latenight_train.modes import N_COLUMNS, N_MODES
from latenight_train.slices import with_slices

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

# torch.cond etc. are not used; 20 is the first opset whose operators all have CUDA kernels here.
OPSET = 20
MODEL_OUTPUTS = ("latent", "mean", "variance", "log_prob", "deviance", "snr")
STATISTICS_OUTPUTS = ("statistics", "wavelengths")
REFINEMENT_OUTPUTS = ("mean", "variance", "coefficients", "norm")
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


def export_refinement(refinement: nn.Module, path: Path) -> None:
    """Write the exact refinement: flux, ivar, z and the modes of a group -> REFINEMENT_OUTPUTS."""
    n = 3
    inputs = {"flux": torch.ones(n, N_PIX), "ivar": torch.ones(n, N_PIX), "z": torch.full((n,), 0.3)}
    _export(refinement, {**inputs, **_group()}, REFINEMENT_OUTPUTS, path, GROUP_AXES)


def export_statistics(statistics: nn.Module, path: Path) -> None:
    """Write pass 2: spectra after the petal step, pass 1's results, modes of a group -> STATISTICS_OUTPUTS."""
    n = 3
    inputs = {"flux": torch.ones(n, N_PIX), "ivar": torch.ones(n, N_PIX), "z": torch.full((n,), 0.3)}
    inputs |= {
        "mean": torch.ones(n, N_JOINT),
        "variance": torch.ones(n, N_JOINT),
        "sky": torch.ones(n, N_PIX),
    }
    inputs |= {"norm": torch.ones(n), "coefficients": torch.ones(n, N_MODES)}
    _export(statistics, {**inputs, **_group()}, STATISTICS_OUTPUTS, path, GROUP_AXES)


GROUP_AXES: dict[str, str | None] = {"columns": "bins", "grid": None, "precision": None}


def _group() -> dict[str, torch.Tensor]:
    """Example of the inputs that all rows of a group share."""
    grid = torch.tensor([8.0, 1e4, 498.0], dtype=torch.float64)
    return {"columns": torch.ones(500, N_COLUMNS), "grid": grid, "precision": torch.eye(N_MODES)}


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
    dynamic = {name: {0: axis} for name, axis in names.items() if axis}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter is the older one and says so
        # It takes 3 s for the statistics, where the newer one (dynamo=True) takes 35 s and writes twice the nodes.
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**dynamic, **{name: {0: "n"} for name in outputs}},
        )
    onnx.save(with_slices(onnx.load(str(path))), str(path))
    onnx.checker.check_model(str(path), full_check=True)
