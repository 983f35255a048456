"""Sham defences in front of, or behind, a real classifier: what the checks must catch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper


def _constant(graph: onnx.GraphProto, name: str, value: float) -> str:
    tensor = numpy_helper.from_array(np.array(value, np.float32), name)
    graph.initializer.append(tensor)
    return name


def _before(model: onnx.ModelProto, nodes: list[onnx.NodeProto], result: str) -> None:
    """Puts nodes behind the graph's input; everything else reads `result` instead."""
    source = model.graph.input[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == source:
                node.input[index] = result
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)


def shattered_gradients(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pixels are rounded to 32 levels: the derivative is 0 almost everywhere."""
    planted = copy.deepcopy(model)
    graph = planted.graph
    levels, source = _constant(graph, "levels", 32.0), graph.input[0].name
    nodes = [
        helper.make_node("Mul", [source, levels], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Div", ["rounded", levels], ["quantised"]),
    ]
    _before(planted, nodes, "quantised")
    return planted


def cut_gradients(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pixels are compared with thresholds: no gradient passes a comparison."""
    planted = copy.deepcopy(model)
    graph, source = planted.graph, planted.graph.input[0].name
    thresholds = [0.125, 0.375, 0.625, 0.875]
    nodes, total = [], _constant(graph, "step_0", 0.0)
    step = _constant(graph, "step", 1 / len(thresholds))
    for i, threshold in enumerate(thresholds):
        level = _constant(graph, f"level_{i}", threshold)
        nodes += [
            helper.make_node("Greater", [source, level], [f"above_{i}"]),
            helper.make_node("Cast", [f"above_{i}"], [f"one_{i}"], to=1),
            helper.make_node("Mul", [f"one_{i}", step], [f"part_{i}"]),
            helper.make_node("Add", [total, f"part_{i}"], [f"sum_{i}"]),
        ]
        total = f"sum_{i}"
    _before(planted, nodes, total)
    return planted


def scaled_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Logits times 10^4: the cross-entropy saturates, and its gradient with it."""
    planted = copy.deepcopy(model)
    output = planted.graph.output[0].name
    for node in planted.graph.node:
        for index, name in enumerate(node.output):
            if name == output:
                node.output[index] = "unscaled"
    factor = _constant(planted.graph, "factor", 1e4)
    planted.graph.node.append(helper.make_node("Mul", ["unscaled", factor], [output]))
    return planted


def random_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gaussian noise on the pixels, another one in every run."""
    planted = copy.deepcopy(model)
    source = planted.graph.input[0].name
    nodes = [
        helper.make_node("RandomNormalLike", [source], ["noise"], scale=0.05),
        helper.make_node("Add", [source, "noise"], ["noisy"]),
    ]
    _before(planted, nodes, "noisy")
    return planted


def against_one_step(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pixels within 0.01 levels of an 8-bit level snap to it: at clean images, and only there,
    the derivative is 0, so that one step from them finds nothing; a random start does.
    """
    planted = copy.deepcopy(model)
    graph, source = planted.graph, planted.graph.input[0].name
    levels, near = _constant(graph, "levels", 255.0), _constant(graph, "near", 0.01)
    nodes = [
        helper.make_node("Mul", [source, levels], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Sub", ["scaled", "rounded"], ["offset"]),
        helper.make_node("Abs", ["offset"], ["distance"]),
        helper.make_node("Less", ["distance", near], ["on_level"]),
        helper.make_node("Div", ["rounded", levels], ["level"]),
        helper.make_node("Where", ["on_level", "level", source], ["snapped"]),
    ]
    _before(planted, nodes, "snapped")
    return planted


Planted = Callable[[onnx.ModelProto], onnx.ModelProto]
