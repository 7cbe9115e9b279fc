"""Which device a session uses, and whether that is the one it should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from latenight.session import Graph, fell_back, providers

if TYPE_CHECKING:
    from pathlib import Path

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("built_for", "device", "provider", "expected"),
    [
        ([CUDA, CPU], "auto", CPU, True),
        ([CUDA, CPU], "auto", CUDA, False),
        ([CUDA, CPU], "cpu", CPU, False),
        ([CPU], "auto", CPU, False),
    ],
)
def test_a_gpu_build_that_scores_on_the_cpu_unasked_has_fallen_back(
    monkeypatch: pytest.MonkeyPatch, built_for: list[str], device: str, provider: str, *, expected: bool
) -> None:
    """Only a GPU build that was free to choose and runs on the CPU counts as fallen back."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_for)
    assert fell_back(device, provider) is expected


def test_a_gpu_rounds_products_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, which onnxruntime has on by default, is asked for or forbidden in so many words, and only of a GPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert providers("auto", tf32=False) == [(CUDA, {"use_tf32": "0"}), CPU]
    assert providers("cuda", tf32=True) == [(CUDA, {"use_tf32": "1"}), CPU]
    assert providers("cpu", tf32=True) == [CPU]


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A graph with rows "x" (n, 2) and a constant "c" (2,): y = x + x + c."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    c = helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    nodes = [helper.make_node("Add", ["x", "x"], ["t"]), helper.make_node("Add", ["t", "c"], ["y"])]
    graph = helper.make_graph(nodes, "doubling", [x, c], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
        tmp_path / "graph.onnx",
    )
    return tmp_path / "graph.onnx"


@pytest.mark.parametrize("n", [1, 3, 4, 9, 19])
def test_rows_go_through_in_buckets_with_constants_held_on_the_device(doubling: Path, n: int) -> None:
    """Every wanted row comes back in its place, whatever buckets it went through, with the constant in each."""
    graph = Graph(doubling, device="cpu", threads=1, buckets={"cpu": (4, 8)})
    constants = graph.held({"c": np.array([1, 2], np.float32)})
    x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    for _ in range(2):
        np.testing.assert_array_equal(graph({"x": x}, constants=constants)["y"], 2 * x + [1, 2])
    which = np.random.default_rng(0).permutation(n)[: n // 2 + 1]
    some = graph({"x": x}, constants=constants, which=which)["y"]
    np.testing.assert_array_equal(some, 2 * x[which] + [1, 2])
