"""The pass that lifts a fixed batch out of Reshapes, so that a model may run on a larger one.

Cases, for a Reshape behind the input whose constant shape begins with the batch b:
    1. [b, ...] without -1: becomes [-1, ...].
    2. [b, ..., -1, ...]: becomes [0, ..., -1, ...], which keeps the length of axis 0.

Whether axis 0 is the batch there, and whether the rest of the model lets images alone, no
graph tells: who uses the result compares it with the model run on single images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io
from lipcompile.attributes import integer
from lipcompile.graph_walks import nodes_behind
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK, standard_op
from lipcompile.weights import constant_array


def lift_batch(model: LoadedModel) -> Any | None:
    """A proto of the model with its fixed batch lifted; None where no Reshape holds it.

    Args:
        model: With one input; it is not changed.
    """
    batch = model.inputs[0].fixed_batch
    if batch is None:
        return None
    edited: list[ir.Node] = []

    def rewrite(graph_ir: ir.Model) -> None:
        graph = graph_ir.graph
        image = next(v for v in graph.inputs if v.name == model.inputs[0].name)
        behind = nodes_behind(graph, image)
        for node in [node for node in graph if node in behind]:
            shape = _lifted(node, batch)
            if shape is not None:
                _replace_shape(graph, node, shape, f"{MARK}.lifted/{len(edited)}")
                edited.append(node)

    proto = model_io.edit(model.proto, model.name, rewrite, {})
    return proto if edited else None


def _lifted(node: ir.Node, batch: int) -> np.ndarray | None:
    """The new shape of a Reshape, where there is one to give."""
    if standard_op(node) != "Reshape" or len(node.inputs) < 2:
        return None
    shape = constant_array(node.inputs[1])
    if shape is None or shape.ndim != 1 or not len(shape) or shape[0] != batch:
        return None
    if integer(node, "allowzero", 0):
        return None
    lifted = shape.astype(np.int64)
    lifted[0] = 0 if -1 in shape[1:] else -1
    return lifted


def _replace_shape(graph: ir.Graph, node: ir.Node, shape: np.ndarray, name: str) -> None:
    """By a constant of its own: others may read the old one."""
    value = ir.Value(name=name)
    attributes = {"value": ir.AttrTensor("value", ir.tensor(shape))}
    constant = ir.node("Constant", [], attributes, outputs=[value], name=name)
    graph.insert_before(node, constant)
    node.replace_input_with(1, value)
