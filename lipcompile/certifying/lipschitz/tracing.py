"""What ONNX Runtime says of a graph: shapes and types of tensors, and values of constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io
from lipcompile.attributes import integer
from lipcompile.errors import ModelError
from lipcompile.graph_walks import inner_nodes, nodes_by_output
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, open_session
from lipcompile.scores import logits_name, score_output

SMOOTHING = (
    "use 'lipcompile certify --method smoothing', which treats the model as a black box"
)
# Their results depend on the shape of a tensor, and not on its values.
_SHAPES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A graph with one image in it.

    Attributes:
        nodes: What the logits are computed by, in order.
        pixels: The model's input.
        logits: The scores, or what a final Softmax reads.
        shapes: Of every tensor that depends on the input, and that `logits` depends on.
        dtypes: NumPy names of their element types.
        constants: Values of the tensors that do not depend on the input's values.
    """

    nodes: tuple[ir.Node, ...]
    pixels: ir.Value
    logits: ir.Value
    shapes: Mapping[ir.Value, tuple[int, ...]]
    dtypes: Mapping[ir.Value, str]
    constants: Mapping[ir.Value, np.ndarray]


def trace(model: LoadedModel, image: np.ndarray, scores: str | None = None) -> Trace:
    """Runs a classifier once on one image, and looks at its tensors.

    Args:
        model: The classifier, with one input.
        image: That input, batch axis included, of length 1.
        scores: The output with the scores; None finds it.

    Raises:
        ModelError: It is no classifier, or ONNX Runtime does not load it.
        RunFailure: It does not run on one image.
    """
    used = {node.op_type for node in model.graph_ir.graph.all_nodes()}
    used |= {n.op_type for f in model.graph_ir.functions.values() for n in f.all_nodes()}
    graph_ir, _ = model_io.expand_functions(model, used)
    graph = graph_ir.graph
    output = logits_name(graph_ir, score_output(model, scores).name)
    pixels = next(v for v in graph.inputs if v.name == model.inputs[0].name)
    producers = nodes_by_output(graph)
    if output not in producers:
        raise ModelError(f"'{model.name}' computes nothing from its input: nothing to certify")
    logits = next(v for v in producers[output].outputs if v.name == output)
    nodes = _behind(graph, logits)
    _check_types(model.name, nodes)
    moving = _depending(nodes, pixels)
    proto = model.proto if not model.proto.functions else ir.to_proto(graph_ir)
    run = _run(model, proto, image, _wanted(nodes, moving))
    found = {value: run[value.name or ""] for value in moving if value.name in run}
    return Trace(
        nodes,
        pixels,
        logits,
        {pixels: image.shape} | {value: array.shape for value, array in found.items()},
        {pixels: str(image.dtype)}
        | {value: str(array.dtype) for value, array in found.items()},
        _constants(nodes, moving, run),
    )


def _check_types(name: str, nodes: Iterable[ir.Node]) -> None:
    """Raises ModelError for bfloat16, which ONNX Runtime cannot hand to NumPy."""
    narrow = ir.DataType.BFLOAT16
    for node in nodes:
        made = integer(node, "to", 0) == narrow
        if made or any(value.dtype == narrow for value in (*_read(node), *node.outputs)):
            raise ModelError(
                f"'{name}' has no Lipschitz bound: node '{node.name}' ({node.op_type}) "
                "computes in bfloat16, whose rounding is as large as what certificates are "
                f"about: {SMOOTHING}"
            )


def _behind(graph: ir.Graph, logits: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that `logits` is computed by, in the graph's order."""
    needed: set[ir.Node] = set()
    queue = [logits.producer()]
    while queue:
        node = queue.pop()
        if node is None or node in needed or node.graph is not graph:
            continue
        needed.add(node)
        queue += [value.producer() for value in _read(node)]
    return tuple(node for node in graph if node in needed)


def _read(node: ir.Node) -> list[ir.Value]:
    inner = (value for one in inner_nodes(node) for value in one.inputs)
    return [value for value in (*node.inputs, *inner) if value is not None]


def _depending(nodes: Iterable[ir.Node], pixels: ir.Value) -> dict[ir.Value, None]:
    """The values that depend on those of `pixels`, in order."""
    moving = {pixels: None}
    for node in nodes:
        if node.op_type not in _SHAPES and any(value in moving for value in _read(node)):
            moving |= dict.fromkeys(value for value in node.outputs if value.name)
    return moving


def _wanted(nodes: Iterable[ir.Node], moving: Mapping[ir.Value, None]) -> set[str]:
    """Names of all tensors that depend on the input, and of computed constants they meet."""
    read = {
        value
        for node in nodes
        if any(output in moving for output in node.outputs)
        for value in node.inputs
        if value is not None and value.producer() is not None
    }
    outputs = {value for node in nodes for value in node.outputs if value in moving}
    return {value.name for value in read | outputs if value.name}


def _run(
    model: LoadedModel, proto: Any, image: np.ndarray, names: Iterable[str]
) -> dict[str, np.ndarray]:
    content = model_io.with_outputs(proto, sorted(names))
    # No optimisation: it would be undone by the many outputs anyway.
    session = open_session(content, RuntimeOptions(optimize=False), model.base_dir)
    results = session.run(sorted(names), {model.inputs[0].name: image})
    return {name: value for name, value in results.items() if isinstance(value, np.ndarray)}


def _constants(
    nodes: Iterable[ir.Node], moving: Mapping[ir.Value, None], run: Mapping[str, np.ndarray]
) -> dict[ir.Value, np.ndarray]:
    constants = {}
    for node in nodes:
        if not any(output in moving for output in node.outputs):
            continue
        for value in node.inputs:
            if value is None or value in moving or value in constants:
                continue
            if value.name is not None and value.name in run:
                constants[value] = run[value.name]
            elif value.const_value is not None:
                constants[value] = value.const_value.numpy()
    return constants
