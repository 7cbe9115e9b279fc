"""Ranges that were gathered become slices, and the graph still computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latenight.session import Graph
from latenight_train.export import OPSET
from latenight_train.slices import with_slices

if TYPE_CHECKING:
    from pathlib import Path


def takes(index: np.ndarray) -> onnx.ModelProto:
    """A graph that takes columns of a matrix (n, 20)."""
    node = helper.make_node("Gather", ["values", "index"], ["columns"], axis=1)
    values, columns = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("values", 20), ("columns", len(index)))
    )
    graph = helper.make_graph(
        [node], "takes", [values], [columns], [numpy_helper.from_array(index.astype(np.int64), "index")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


@pytest.mark.parametrize(
    ("index", "operator"),
    [
        (np.arange(3, 11), "Slice"),
        (np.arange(0, 20, 3), "Slice"),
        (np.array([7]), "Slice"),
        (np.array([1, 2, 4]), "Gather"),
        (np.array([5, 4, 3]), "Gather"),
        (np.array([2, 2]), "Gather"),
    ],
)
def test_ranges_become_slices_with_the_same_values(tmp_path: Path, index: np.ndarray, operator: str) -> None:
    """A rising range of any step is sliced, other places are gathered, and the columns are those asked for."""
    path, values = tmp_path / "takes.onnx", np.arange(60, dtype=np.float32).reshape(3, 20)
    model = with_slices(takes(index))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    assert [node.op_type for node in model.graph.node] == [operator]
    found = Graph(path, device="cpu", threads=1)({"values": values})["columns"]
    np.testing.assert_array_equal(found, values[:, index])
