"""torch modules -> ONNX files, with proof that both compute the same."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import onnx
import torch

from latenight.spectra import N_PIX
from latenight_train.modes import N_MODES
from latenight_train.slices import with_slices

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

# torch.cond etc. are not used; 20 is the first opset whose operators all have CUDA kernels here.
OPSET = 20
MODEL_OUTPUTS = ("latent", "log_prob", "deviance", "snr")
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
    _export(
        refinement,
        {**inputs, **_group(), "precision": torch.eye(N_MODES)},
        REFINEMENT_OUTPUTS,
        path,
        GROUP_AXES,
    )


def export_statistics(statistics: nn.Module, path: Path) -> None:
    """Write pass 2: spectra after the petal step, pass 1's results, modes of a group -> STATISTICS_OUTPUTS."""
    n = 3
    inputs = {"flux": torch.ones(n, N_PIX), "ivar": torch.ones(n, N_PIX), "z": torch.full((n,), 0.3)}
    inputs |= {
        "mean": torch.ones(n, N_PIX),
        "variance": torch.ones(n, N_PIX),
        "sky": torch.ones(n, N_PIX),
        "beside": torch.ones(n, N_PIX),
    }
    inputs |= {"norm": torch.ones(n), "coefficients": torch.ones(n, N_MODES)}
    regions = {
        "centres": torch.ones(N_MODES + 1, 3),
        "expected": torch.ones(3, N_MODES),
        "precisions": torch.eye(N_MODES).repeat(3, 1, 1).flatten(1),
    }
    _export(statistics, {**inputs, **_group(), **regions}, STATISTICS_OUTPUTS, path, GROUP_AXES)


GROUP_AXES: dict[str, dict[int, str]] = {
    "modes": {0: "points"},
    "profiles": {1: "points"},
    "grid": {},
    "precision": {},
    "centres": {1: "regions"},
    "expected": {0: "regions"},
    "precisions": {0: "regions"},
}


def _group() -> dict[str, torch.Tensor]:
    """Example of the inputs that all rows of a group share, in both passes."""
    return {
        "modes": torch.ones(500, N_MODES),
        "profiles": torch.ones(3, 500),
        "grid": torch.tensor([8.0, 1e4, 499.0], dtype=torch.float64),
    }


def export_neighbours(neighbours: nn.Module, latent: int, path: Path) -> None:
    """Write the kNN graph: latent (N, d), bank (M, d), minus_norm2 (M,) -> distances, indices (N, 16)."""
    inputs = {"latent": torch.ones(3, latent), "bank": torch.ones(50, latent), "minus_norm2": torch.ones(50)}
    _export(neighbours, inputs, NEIGHBOURS_OUTPUTS, path, {"bank": {0: "m"}, "minus_norm2": {0: "m"}})


def _export(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: tuple[str, ...],
    path: Path,
    axes: dict[str, dict[int, str]] | None = None,
) -> None:
    """Export one module and check the file; the first axis is "n" where axes names no dynamic ones."""
    rows = {0: "n"}
    dynamic = {name: (axes or {}).get(name, rows) for name in (*inputs, *outputs)}
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
            dynamic_axes=dynamic,
        )
    onnx.save(with_slices(onnx.load(str(path))), str(path))
    onnx.checker.check_model(str(path), full_check=True)
