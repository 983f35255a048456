"""Which role a linear layer plays: stem, head, attention projection, FC1 or FC2.

Every analysis is one walk over the graph, linear in its size, and needs no order of the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir

from lipcompile.graph_walks import all_behind, walk_back
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


def _stops(
    start: Iterable[ir.Value],
    through: Callable[[ir.Node], bool],
    follow: Callable[[ir.Node], Iterable[ir.Value]],
) -> set[ir.Node]:
    """The nodes at which a walk to producers stops, that goes on while `through` holds."""
    seen, passed, stops = set(start), set[ir.Node](), set[ir.Node]()
    queue = list(seen)
    while queue:
        node = queue.pop().producer()
        if node is None or node in passed or node in stops:
            continue
        if not through(node):
            stops.add(node)
            continue
        passed.add(node)
        fresh = [v for v in follow(node) if v not in seen]
        seen.update(fresh)
        queue += fresh
    return stops


def stem_layers(graph: ir.Graph, layers: Layers, constants: Constants) -> set[ir.Node]:
    """Layers fed by graph inputs through shape-only or constant-elementwise operators."""
    touched = {v for v in graph.inputs if v not in constants.fixed}
    missing: dict[ir.Node, int] = {}
    operands: dict[ir.Node, frozenset[ir.Value]] = {}
    queue = list(touched)
    stems: set[ir.Node] = set()
    while queue:
        value = queue.pop()
        for node, index in value.uses():
            if node in layers:
                if layers[node].data_index == index:
                    stems.add(node)
            elif is_passive(node, constants):
                if node not in missing:
                    data = data_inputs(node, constants)
                    missing[node], operands[node] = len(data), frozenset(data)
                missing[node] -= value in operands[node]
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

    before_output = _stops(graph.outputs, is_free, every)
    fed = [v for n in graph.all_nodes() if not is_free(n) for v in _operands(n)]
    before_layer = _stops(fed, is_free, every)
    direct = _stops(graph.outputs, is_direct, data)
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

    stops = _stops([v for n in cores for v in data(n)], passive, data)
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
    fc2 = {node: layer.data for node, layer in layers.items() if _is_dense(node)}
    bent: list[ir.Value] = []  # by an activation
    fed: list[ir.Value] = []  # by a dense layer
    other: list[ir.Value] = []  # by anything else

    def sources(value: ir.Value) -> Iterable[ir.Value]:
        node = value.producer()
        if node is None:
            other.append(value)
        elif not _is_pointwise(node, constants):
            dense = _is_dense(node) and _is_linear(node, constants)
            (fed if dense else other).append(value)
        else:
            if _is_activation(node, constants):
                bent.append(value)
            return data_inputs(node, constants)
        return ()

    readers = walk_back(fc2.values(), sources)
    good = all_behind(bent, readers) & all_behind(fed, readers) - all_behind(other, readers)
    pairs = {node: data for node, data in fc2.items() if data in good}
    fed.clear()
    walk_back(pairs.values(), sources)
    fc1 = {node for value in fed if (node := value.producer()) is not None}
    return (pairs.keys() | fc1) & layers.keys()


def _is_dense(node: ir.Node) -> bool:
    return node.op_type in ("Gemm", "MatMul")


def _is_activation(node: ir.Node, constants: Constants) -> bool:
    gate = node.op_type == "Mul" and len(data_inputs(node, constants)) == 2
    return node.op_type in NONLINEAR or gate


def _is_pointwise(node: ir.Node, constants: Constants) -> bool:
    arithmetic = node.op_type in ("Add", "Sub", "Mul", "Div")
    return node.op_type in NONLINEAR or arithmetic or is_passive(node, constants)
