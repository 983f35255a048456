"""The pass that puts a forged function in front of selected linear layers.

Cases, for a site x with threshold c:
    1. x is the output of a Relu that nothing but forged layers reads, and the form has an
       encoding in place of the Relu: the Relu node itself is rewritten.
    2. The layer reads x: new nodes compute f_c(x), and the layer reads that. Other readers of
       x (a residual Add, a graph output) keep the original.
    3. The layer reads DequantizeLinear(QuantizeLinear(x)), and so do forged layers alone: f_c
       stands before QuantizeLinear, so that runtimes still fuse Q, DQ and the layer.
    4. The same, but something else reads that Q or DQ: the forged layers get a Q and DQ of
       their own, and the others keep the original pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lipcompile.forged import Emitter, Encoding, EncodingContext, ForgedFunction
from lipcompile.ops import MARK
from lipcompile.sites import Site

Edge = tuple[ir.Node, int]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What will be done at one site.

    Attributes:
        site: The tensor and its layers.
        absmax: Calibrated max |x|, in the unit of x.
        c: Threshold, rounded to the type that the encoding holds it in.
        encoding: The operators that will compute f_c.
    """

    site: Site
    absmax: float
    c: float
    encoding: Encoding


def plan_site(
    site: Site, absmax: float, c: float, form: ForgedFunction, opset: int
) -> SitePlan:
    """Chooses the encoding of `form` at `site`; edits nothing."""
    context = EncodingContext(
        dtype=site.dtype,
        opset=opset,
        nonnegative=site.nonnegative,
        replaceable_relu=_is_replaceable_relu(site),
    )
    return SitePlan(site, absmax, form.threshold(c, site.dtype), form.encoding(context))


@dataclass(frozen=True, slots=True)
class InsertForged:
    """Rewrites a graph in place: the forms of `plans` in front of their layers.

    Attributes:
        form: The forged function.
        plans: One plan per site, made for this very graph.
    """

    form: ForgedFunction
    plans: tuple[SitePlan, ...]

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Applies the pass.

        Returns:
            For each site tensor the name of the tensor that now holds f_c of it.
        """
        prefixes = _Prefixes(model.graph)
        return {
            plan.site.tensor: self._forge(model.graph, plan, prefixes.take(plan.site))
            for plan in self.plans
        }

    def _forge(self, graph: ir.Graph, plan: SitePlan, prefix: str) -> str:
        emit = Emitter(prefix)
        value = plan.site.value
        if plan.encoding.replaces_relu:  # Case 1
            relu = value.producer()
            assert relu is not None and relu.inputs[0] is not None
            plan.encoding.build(emit, relu.inputs[0], plan.c)
            self._take_over(relu, emit.nodes)
            return plan.site.tensor
        edges, pairs = _readers(plan.site)
        forged = plan.encoding.build(emit, value, plan.c)
        forged.name = f"{MARK}/{prefix.lstrip('/')}/forged"
        for node, index in edges:  # Cases 2 and 3
            node.replace_input_with(index, forged)
        for pair in pairs:  # Case 4
            pair.copy_for(forged, emit)
        for node in emit.nodes:
            node.metadata_props.update(self._marks(plan.site))
        _insert_behind(graph, value, emit.nodes)
        return forged.name

    def _take_over(self, relu: ir.Node, nodes: Sequence[ir.Node]) -> None:
        (replacement,) = nodes
        relu.op_type = replacement.op_type
        for attribute in replacement.attributes.values():
            relu.attributes.add(attribute)
        relu.metadata_props.update({f"{MARK}.form": self.form.name, f"{MARK}.was": "Relu"})
        for index in range(len(replacement.inputs)):
            replacement.replace_input_with(index, None)

    def _marks(self, site: Site) -> dict[str, str]:
        return {f"{MARK}.form": self.form.name, f"{MARK}.site": site.tensor}


class _Prefixes:
    """Names for inserted nodes, told apart even where two layers' names differ by a slash."""

    def __init__(self, graph: ir.Graph) -> None:
        names = (node.name or "" for node in graph)
        self._taken = {n.rpartition("/")[0] for n in names if n.startswith(f"{MARK}/")}

    def take(self, site: Site) -> str:
        base = prefix = site.layers[0].name.lstrip("/") or "layer"
        count = 1
        while f"{MARK}/{prefix}" in self._taken:
            count += 1
            prefix = f"{base}.{count}"
        self._taken.add(f"{MARK}/{prefix}")
        return prefix


@dataclass(frozen=True, slots=True)
class _SharedPair:
    """A QuantizeLinear / DequantizeLinear pair that others read too, and the layers' edges."""

    quantize: ir.Node
    dequantize: ir.Node
    edges: tuple[Edge, ...]

    def copy_for(self, forged: ir.Value, emit: Emitter) -> None:
        quantised = _copy(self.quantize, forged, emit)
        restored = _copy(self.dequantize, quantised, emit)
        for node, index in self.edges:
            node.replace_input_with(index, restored)


def _copy(node: ir.Node, data: ir.Value, emit: Emitter) -> ir.Value:
    value = emit(node.op_type, data, *[v for v in node.inputs[1:] if v is not None])
    for attribute in node.attributes.values():
        emit.nodes[-1].attributes.add(attribute)
    return value


def _readers(site: Site) -> tuple[list[Edge], list[_SharedPair]]:
    """The edges to point at f_c(x), and the Q / DQ pairs that must be copied first."""
    selected = {(layer.node, layer.data_index) for layer in site.layers}
    edges: list[Edge] = []
    pairs: dict[ir.Node, list[Edge]] = {}
    for layer in site.layers:
        if layer.data is site.value:
            edges.append((layer.node, layer.data_index))
        else:
            dequantize = layer.data.producer()
            assert dequantize is not None
            pairs.setdefault(dequantize, []).append((layer.node, layer.data_index))
    shared = []
    for dequantize, readers in pairs.items():
        quantised = dequantize.inputs[0]
        assert quantised is not None
        quantize = quantised.producer()
        assert quantize is not None
        if not _serves_only(quantize, selected):
            shared.append(_SharedPair(quantize, dequantize, tuple(readers)))
        elif (quantize, 0) not in edges:
            edges.append((quantize, 0))
    return edges, shared


def _serves_only(quantize: ir.Node, selected: Iterable[Edge]) -> bool:
    """Whether all that QuantizeLinear feeds, through DequantizeLinear, are selected edges."""
    edges = set(selected)
    quantised = quantize.outputs[0]
    if quantised.is_graph_output():
        return False
    for dequantize, _ in quantised.uses():
        restored = dequantize.outputs[0]
        if dequantize.op_type != "DequantizeLinear" or restored.is_graph_output():
            return False
        if not set(restored.uses()) <= edges:
            return False
    return True


def _is_replaceable_relu(site: Site) -> bool:
    relu = site.value.producer()
    if relu is None or relu.op_type != "Relu" or site.value.is_graph_output():
        return False
    edges, shared = _readers(site)
    return not shared and set(site.value.uses()) == set(edges)


def _insert_behind(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    else:  # a graph input, quantised before its first layer
        graph.insert_before(graph[0], nodes)
