"""Which role a linear layer plays: stem, head, attention projection, FC1 or FC2.

Every analysis is one walk over the graph, linear in its size, and needs no order of the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir

from lipcompile.linear_layers import Constants, LinearLayer
from lipcompile.ops import (
    AFFINE_WITH_CONSTANT,
    ALL_INPUTS_ARE_DATA,
    ATTENTION_OPS,
    LINEAR_OPS,
    NONLINEAR,
    PRODUCTS,
    SHAPE_ONLY,
    UNSUPPORTED_LINEAR,
    standard_op,
)

Layers = Mapping[ir.Node, LinearLayer]


def data_inputs(node: ir.Node, constants: Constants) -> list[ir.Value]:
    """Inputs that carry activations: not constants, not shapes, not operands such as axes."""
    inputs = node.inputs
    if standard_op(node) in SHAPE_ONLY - ALL_INPUTS_ARE_DATA:
        inputs = inputs[:1]
    return [v for v in inputs if v is not None and v not in constants.static]


def is_passive(node: ir.Node, constants: Constants) -> bool:
    """Shape-only, or elementwise with constants: bias, scale, split, normalisation."""
    if standard_op(node) in SHAPE_ONLY:
        return True
    return standard_op(node) in AFFINE_WITH_CONSTANT and len(data_inputs(node, constants)) == 1


def _backward(
    start: Iterable[ir.Value],
    through: Callable[[ir.Node], bool],
    follow: Callable[[ir.Node], Iterable[ir.Value]],
) -> tuple[set[ir.Node], set[ir.Value]]:
    """Walks to producers while `through` holds.

    Returns:
        The nodes at which the walk stopped, and the graph inputs that it reached.
    """
    seen, stops, sources = set(start), set[ir.Node](), set[ir.Value]()
    queue = list(seen)
    while queue:
        value = queue.pop()
        node = value.producer()
        if node is None:
            sources.add(value)
        elif not through(node):
            stops.add(node)
        else:
            fresh = [v for v in follow(node) if v not in seen]
            seen.update(fresh)
            queue += fresh
    return stops, sources


def stem_layers(graph: ir.Graph, layers: Layers, constants: Constants) -> set[ir.Node]:
    """Layers fed by graph inputs through shape-only or constant-elementwise operators."""
    touched = {v for v in graph.inputs if v not in constants.fixed}
    missing: dict[ir.Node, int] = {}
    queue = list(touched)
    stems: set[ir.Node] = set()
    while queue:
        value = queue.pop()
        for node, index in value.uses():
            if node in layers:
                if layers[node].data_index == index:
                    stems.add(node)
            elif is_passive(node, constants):
                data = data_inputs(node, constants)
                missing[node] = missing.get(node, len(data)) - (value in data)
                fresh = [v for v in node.outputs if missing[node] <= 0 and v not in touched]
                touched.update(fresh)
                queue += fresh
    return stems


def head_layers(graph: ir.Graph, layers: Layers, constants: Constants) -> set[ir.Node]:
    """The last linear layers before a graph output.

    A layer is one if a graph output depends on it through no other linear layer, and either
    (1) no linear layer depends on it, or
    (2) the output is its result up to Concat and operators on one activation.
    Without this, every layer that writes to a residual stream would be the head of a model
    that ends without a classifier.
    """

    def is_free(node: ir.Node) -> bool:
        return not _is_linear(node, constants)

    def every(node: ir.Node) -> list[ir.Value]:
        return [*_operands(node), *_results_of_bodies(node)]

    def is_direct(node: ir.Node) -> bool:
        one = len(data_inputs(node, constants)) == 1
        return is_free(node) and (one or standard_op(node) == "Concat")

    def data(node: ir.Node) -> list[ir.Value]:
        return data_inputs(node, constants)

    before_output, _ = _backward(graph.outputs, is_free, every)
    fed = [v for n in graph.all_nodes() if not is_free(n) for v in _operands(n)]
    before_layer, _ = _backward(fed, is_free, every)
    direct, _ = _backward(graph.outputs, is_direct, data)
    return {n for n in before_output if n in layers and (n not in before_layer or n in direct)}


def _is_linear(node: ir.Node, constants: Constants) -> bool:
    """A linear operator with a weight, whether it can be rewritten or not."""
    linear = node.op_type in LINEAR_OPS or node.op_type in UNSUPPORTED_LINEAR
    return linear and any(v in constants.fixed for v in node.inputs[:2])


def _operands(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _results_of_bodies(node: ir.Node) -> list[ir.Value]:
    """What the bodies of an If, Loop or Scan compute, from values of this graph as well."""
    attributes = node.attributes.values()
    bodies = [a.as_graph() for a in attributes if a.type == ir.AttributeType.GRAPH]
    return [value for body in bodies for value in body.outputs]


def attention_layers(graph: ir.Graph, layers: Layers, constants: Constants) -> set[ir.Node]:
    """Layers next to a product of two activations: query, key, value, output projections."""
    cores = [n for n in graph if n not in layers and _is_attention_core(n, constants)]

    def passive(node: ir.Node) -> bool:
        return node not in layers and is_passive(node, constants)

    def data(node: ir.Node) -> list[ir.Value]:
        return data_inputs(node, constants)

    stops, _ = _backward([v for n in cores for v in data(n)], passive, data)
    return (stops & set(layers)) | _reached_from(cores, layers, constants)


def _is_attention_core(node: ir.Node, constants: Constants) -> bool:
    if node.op_type in ATTENTION_OPS:
        return True
    operands = [v for v in node.inputs[:2] if v is not None and v not in constants.static]
    return node.op_type in PRODUCTS and len(operands) == 2


def _reached_from(
    cores: Iterable[ir.Node], layers: Layers, constants: Constants
) -> set[ir.Node]:
    queue = [v for node in cores for v in node.outputs]
    seen = set(queue)
    found: set[ir.Node] = set()
    while queue:
        for node, index in queue.pop().uses():
            if node in layers:
                if layers[node].data_index == index:
                    found.add(node)
            elif is_passive(node, constants):
                fresh = [v for v in node.outputs if v not in seen]
                seen.update(fresh)
                queue += fresh
    return found


def mlp_layers(layers: Layers, constants: Constants) -> set[ir.Node]:
    """FC1 / FC2 pairs: dense layers with nothing but a pointwise activation between them."""
    found: set[ir.Node] = set()
    for node in layers:
        sources = _dense_before(layers[node].data, constants) if _is_dense(node) else set()
        if sources:
            found |= {node} | sources
    return found & set(layers)


def _is_dense(node: ir.Node) -> bool:
    return node.op_type in ("Gemm", "MatMul")


def _dense_before(value: ir.Value, constants: Constants) -> set[ir.Node]:
    """FC1 of the FC2 that `value` feeds; empty when anything else lies in between."""
    nonlinear = False

    def pointwise(node: ir.Node) -> bool:
        nonlocal nonlinear
        gate = node.op_type == "Mul" and len(data_inputs(node, constants)) == 2
        nonlinear |= node.op_type in NONLINEAR or gate
        arithmetic = node.op_type in ("Add", "Sub", "Mul", "Div")
        return node.op_type in NONLINEAR or is_passive(node, constants) or arithmetic

    stops, sources = _backward([value], pointwise, lambda n: data_inputs(n, constants))
    dense = all(_is_dense(node) and _is_linear(node, constants) for node in stops)
    return stops if nonlinear and not sources and dense else set()
