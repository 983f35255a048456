"""The pass that puts a forged function in front of selected linear layers.

Cases, for a site x with threshold c:
    1. x is the output of a Relu that nothing but forged layers reads, and the form has an
       encoding in place of the Relu: the Relu node itself is rewritten.
    2. The layer reads x: new nodes compute f_c(x), and the layer reads that. Other readers of
       x (a residual Add, a graph output) keep the original.
    3. x is DequantizeLinear(QuantizeLinear(...)): f_c(x) passes a copy of the pair before the
       layer reads it, so that runtimes still find a Q behind what came before and a DQ in
       front of the layer, and compute both in integers. (With f_c in front of the only Q,
       ONNX Runtime keeps 1 of 52 QLinearConv in a MobileNetV2.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lipcompile.forged import Emitter, Encoding, EncodingContext, ForgedFunction
from lipcompile.ops import MARK, standard_op
from lipcompile.sites import Site

_IN_QUANTISED = frozenset({"QuantizeLinear", "Cast", "Identity"})


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
        # Between DequantizeLinear and QuantizeLinear there is no blocked layout to keep.
        channels=None if _quantisers(site.value) else site.channels,
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
        forged = plan.encoding.build(emit, value, plan.c)
        forged.name = f"{MARK}/{prefix.lstrip('/')}/forged"
        result = _requantised(forged, value, emit)
        for layer in plan.site.layers:
            layer.node.replace_input_with(layer.data_index, result)
        for node in emit.nodes:
            node.metadata_props.update(self._marks(plan.site))
        producer = value.producer()
        assert producer is not None, "a site is no graph input"
        graph.insert_after(producer, emit.nodes)
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
        names = [node.name or "" for node in graph]  # which some tools drop
        names += [value.name or "" for node in graph for value in node.outputs]
        self._taken = {n.rpartition("/")[0] for n in names if n.startswith(f"{MARK}/")}

    def take(self, site: Site) -> str:
        base = prefix = site.layers[0].name.lstrip("/") or "layer"
        count = 1
        while f"{MARK}/{prefix}" in self._taken:
            count += 1
            prefix = f"{base}.{count}"
        self._taken.add(f"{MARK}/{prefix}")
        return prefix


def _requantised(forged: ir.Value, value: ir.Value, emit: Emitter) -> ir.Value:
    """Case 3: `forged` through copies of the nodes that quantised `value`; else itself."""
    result = forged
    for node in _quantisers(value):
        result = _copy(node, result, emit)
    return result


def _quantisers(value: ir.Value) -> list[ir.Node]:
    """QuantizeLinear to DequantizeLinear (PyTorch puts a Cast between them), or []."""
    chain: list[ir.Node] = []
    source: ir.Value | None = value
    while source is not None and (node := source.producer()) is not None:
        is_last = node.op_type == "DequantizeLinear"
        if is_last == bool(chain) or (not is_last and node.op_type not in _IN_QUANTISED):
            return []
        chain.insert(0, node)
        if node.op_type == "QuantizeLinear":
            return chain
        source = node.inputs[0]
    return []


def _copy(node: ir.Node, data: ir.Value, emit: Emitter) -> ir.Value:
    value = emit(node.op_type, data, *[v for v in node.inputs[1:] if v is not None])
    emit.nodes[-1].domain = node.domain
    for attribute in node.attributes.values():
        emit.nodes[-1].attributes.add(attribute)
    return value


def _is_replaceable_relu(site: Site) -> bool:
    relu = site.value.producer()
    if relu is None or standard_op(relu) != "Relu" or site.value.is_graph_output():
        return False
    edges = {(layer.node, layer.data_index) for layer in site.layers}
    return set(site.value.uses()) == edges
