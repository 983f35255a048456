"""The pass that puts forged functions in front of selected linear layers.

Cases, for the anchor x of a site (`lipcompile.placement`) with threshold c:
    1. The form has an encoding in place of the Relu that gives x: the node is rewritten.
    2. The form is a shift of the bias in front of the activation that gives x: no node is
       added (`lipcompile.passes.shift_bias`).
    3. New nodes compute f_c(x), and what leads to the layers reads that. Other readers of x (a
       residual Add, a graph output) keep the original. Sites with one anchor share the nodes.
    4. x is DequantizeLinear(QuantizeLinear(...)): f_c(x) passes a copy of the pair before the
       layer reads it, so that runtimes still find a Q behind what came before and a DQ in
       front of the layer, and compute both in integers. (With f_c in front of the only Q,
       ONNX Runtime keeps 1 of 52 QLinearConv in a MobileNetV2.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from lipcompile.forged import Emitter, ForgedFunction
from lipcompile.ops import MARK
from lipcompile.placement import SitePlan, quantisers
from lipcompile.sites import Site


@dataclass(frozen=True, slots=True)
class Forged:
    """Where the result of one plan lies in the rewritten graph.

    Attributes:
        plan: What was planned.
        tensor: Name of the tensor that holds f_c of the anchor: the anchor's own in cases 1
            and 2.
        changes: What was edited in constants (case 2), for `shift_bias.undo`.
    """

    plan: SitePlan
    tensor: str
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class InsertForged:
    """Rewrites a graph in place: the form at the anchors of `plans`.

    Attributes:
        form: The forged function.
        plans: One plan per site, made for this very graph.
    """

    form: ForgedFunction
    plans: tuple[SitePlan, ...]

    def __call__(self, model: ir.Model) -> tuple[Forged, ...]:
        """Applies the pass; returns one result per plan, in their order."""
        prefixes = _Prefixes(model.graph)
        done: dict[tuple[ir.Value, float], _Result] = {}
        forged = []
        for plan in self.plans:
            key = (plan.anchor, plan.c)
            if key not in done:
                prefix = prefixes.take(plan.site)
                by_nodes = plan.encoding.way == "insert"
                done[key] = (self._insert if by_nodes else self._take_in)(plan, prefix)
            result = done[key]
            if result.read is not plan.anchor:
                for node, index in plan.readers:
                    node.replace_input_with(index, result.read)
            forged.append(Forged(plan, result.tensor, result.changes))
            done[key] = replace(result, changes=())  # told once
        return tuple(forged)

    def _take_in(self, plan: SitePlan, prefix: str) -> _Result:
        """Cases 1 and 2."""
        tensor = plan.anchor.name or ""
        activation = plan.anchor.producer()
        assert activation is not None
        marks = {f"{MARK}.form": self.form.name, f"{MARK}.was": activation.op_type}
        activation.metadata_props.update(marks)
        if plan.encoding.way == "bias":
            assert plan.shift is not None
            changes = plan.shift.apply(plan.c, plan.site.dtype, prefix)
            return _Result(tensor, plan.anchor, tuple(changes))
        emit = Emitter(prefix)
        source = activation.inputs[0]
        assert source is not None and plan.encoding.build is not None
        plan.encoding.build(emit, source, plan.c)
        (replacement,) = emit.nodes
        activation.op_type = replacement.op_type
        for attribute in replacement.attributes.values():
            activation.attributes.add(attribute)
        for index in range(len(replacement.inputs)):
            replacement.replace_input_with(index, None)
        return _Result(tensor, plan.anchor)

    def _insert(self, plan: SitePlan, prefix: str) -> _Result:
        """Cases 3 and 4."""
        emit = Emitter(prefix)
        assert plan.encoding.build is not None
        forged = plan.encoding.build(emit, plan.anchor, plan.c)
        forged.name = f"{MARK}/{prefix}/forged"
        result = forged
        for node in quantisers(plan.anchor):
            result = _copy(node, result, emit)
        for node in emit.nodes:
            node.metadata_props.update(self._marks(plan.site))
        producer = plan.anchor.producer()
        assert producer is not None, "a site is no graph input"
        assert isinstance(producer.graph, ir.Graph)
        producer.graph.insert_after(producer, emit.nodes)
        return _Result(forged.name, result)

    def _marks(self, site: Site) -> dict[str, str]:
        return {f"{MARK}.form": self.form.name, f"{MARK}.site": site.tensor}


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one anchor: the forged tensor, and what the layers are to read."""

    tensor: str
    read: ir.Value
    changes: tuple[dict[str, Any], ...] = ()


class _Prefixes:
    """Names for inserted nodes, told apart even where two layers' names differ by a slash."""

    def __init__(self, graph: ir.Graph) -> None:
        names = [node.name or "" for node in graph]  # which some tools drop
        names += [value.name or "" for node in graph for value in node.outputs]
        names += graph.initializers
        self._taken = {n.rpartition("/")[0] for n in names if n.startswith(f"{MARK}/")}

    def take(self, site: Site) -> str:
        base = prefix = site.layers[0].name.lstrip("/") or "layer"
        count = 1
        while f"{MARK}/{prefix}" in self._taken:
            count += 1
            prefix = f"{base}.{count}"
        self._taken.add(f"{MARK}/{prefix}")
        return prefix


def _copy(node: ir.Node, data: ir.Value, emit: Emitter) -> ir.Value:
    value = emit(node.op_type, data, *[v for v in node.inputs[1:] if v is not None])
    emit.nodes[-1].domain = node.domain
    for attribute in node.attributes.values():
        emit.nodes[-1].attributes.add(attribute)
    return value
