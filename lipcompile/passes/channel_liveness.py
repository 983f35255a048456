"""Which channels of each activation are needed, and which layers can therefore lose some.

One walk forward finds where channels lie (`channel_rules`, `channel_shapes`); one walk
backward what every consumer needs of them:

    a channel of a value is used   <=>  some consumer uses it
    a linear layer uses a channel  <=>  a row that stays has a weight for it that is not zero
    a row of a linear layer stays  <=>  its channel is used, or held

Since rows are decided before the columns that they read, one walk reaches the fixed point. A
consumer that cannot do with fewer channels *holds* all of them, whether it uses them or not.
Both walks are linear in the size of the graph.

Channels that a convolution or a pool reads go in whole blocks: runtimes compute these
operators on blocks of channels. (A LeNet that was left with 28 and 57 of 32 and 64 channels
took 1.1 to 1.2 times as long in ONNX Runtime, with fewer numbers to compute.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

import numpy as np
import onnx_ir as ir

from lipcompile.ops import LINEAR_OPS, standard_op
from lipcompile.passes import channel_rules, channel_shapes
from lipcompile.passes.channel_passage import (
    UNKNOWN_SHAPE,
    Linear,
    Passage,
    Scope,
    open_scope,
)

_Rule = Callable[[ir.Node, Scope], Passage | None]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(LINEAR_OPS, channel_rules.linear),
    **dict.fromkeys(channel_rules.ELEMENTWISE, channel_rules.elementwise),
    **dict.fromkeys(channel_rules.POOLS, channel_rules.pool),
    **dict.fromkeys(channel_shapes.REDUCTIONS, channel_shapes.reduction),
    "BatchNormalization": channel_rules.normalisation,
    "InstanceNormalization": channel_rules.normalisation,
    "Concat": channel_shapes.concat,
    "Flatten": channel_shapes.flatten,
    "Pad": channel_shapes.pad,
    "Reshape": channel_shapes.reshape,
    "Resize": channel_shapes.resize,
    "Shape": channel_shapes.shape,
    "Slice": channel_shapes.cut_out,
    "Squeeze": channel_shapes.squeeze,
    "Transpose": channel_shapes.transpose,
    "Unsqueeze": channel_shapes.unsqueeze,
    "Upsample": channel_shapes.resize,
}


_WORKS_ON_BLOCKS = frozenset(
    {"Conv", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}
)


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the channels of a value.

    Attributes:
        used: bool [channels], which of them are used; None where no reader tells.
        held: Why all of them have to stay; "" where none has to for this reason.
        blocked: Whether a reader works on blocks of channels.
    """

    used: np.ndarray | None = None
    held: str = ""
    blocked: bool = False

    def join(self, other: Demand) -> Demand:
        """Both demands at once."""
        held, blocked = self.held or other.held, self.blocked or other.blocked
        if self.used is None or other.used is None:
            return Demand(other.used if self.used is None else self.used, held, blocked)
        if self.used.shape != other.used.shape:
            return Demand(None, held or UNKNOWN_SHAPE, blocked)
        return Demand(self.used | other.used, held, blocked)

    @property
    def unused(self) -> int:
        return 0 if self.used is None else int((~self.used).sum())

    def rows(self, block: int) -> np.ndarray | None:
        """bool [channels], which of them stay; None for all. One always does, and whole
        blocks where there were whole blocks and a reader works on them."""
        if self.held or not self.unused:
            return None
        assert self.used is not None
        stay = self.used.copy()
        stay[0] |= not stay.any()
        short = -int(stay.sum()) % self.step(block)
        stay[np.flatnonzero(~stay)[:short]] = True
        return None if stay.all() else stay

    def step(self, block: int) -> int:
        """How many channels have to go at a time: a divisor of their number and the block."""
        return gcd(self.used.size, block) if self.blocked and self.used is not None else 1


@dataclass(frozen=True, slots=True)
class Liveness:
    """What can be dropped.

    Attributes:
        passages: Every node in order of computation, with what it does to channels.
        scope: What is known of the graph, and where the channels of each value lie.
        stay: Values that lose channels: bool [channels], those that stay.
        rows: The same for each linear layer that loses rows, by name, in graph order.
        held: What makes channels that nobody uses and that stay: name, how many, and why.
    """

    passages: Mapping[ir.Node, Passage]
    scope: Scope
    stay: Mapping[ir.Value, np.ndarray]
    rows: tuple[tuple[str, np.ndarray], ...]
    held: tuple[tuple[str, int, str], ...]


def analyse(model: ir.Model, block: int) -> Liveness:
    """Decides for every channel of `model`; edits nothing.

    Args:
        model: The model.
        block: How many channels a convolution or a pool computes at once.
    """
    scope = open_scope(model)
    passages = {node: _passage(node, scope) for node in in_order(model.graph)}
    demands = _from_outside(model.graph)
    rows: dict[ir.Node, np.ndarray] = {}
    for node, passage in reversed(passages.items()):
        out = demands.get(node.outputs[0], Demand()) if node.outputs else Demand()
        out = _checked(out.join(Demand(held=passage.obstacle)), passage)
        stay = (
            out.rows(block)
            if passage.kind == "linear" and passage.layout is not None
            else None
        )
        if stay is not None:
            rows[node] = stay
        wanted = _wanted(passage, out, stay)
        if standard_op(node) in _WORKS_ON_BLOCKS:
            wanted = {index: replace(item, blocked=True) for index, item in wanted.items()}
        other = Demand(held=f"is read by {_who(node, scope)}, which may mix channels")
        if passage.kind == "opaque" and passage.obstacle:
            other = Demand(held=passage.obstacle)
        for index, value in enumerate(node.inputs):
            if value is not None and value not in scope.constants.static:
                demand = wanted.get(index, other)
                demands[value] = demands.get(value, Demand()).join(demand)
    return Liveness(
        passages,
        scope,
        _stay(passages, rows),
        tuple((scope.name(n), rows[n]) for n in model.graph if n in rows),
        tuple(_held(model.graph, passages, scope, demands, block)),
    )


def in_order(graph: ir.Graph) -> list[ir.Node]:
    """The nodes, each after what it reads. (ONNX Runtime takes them in any order.)"""
    readers: dict[ir.Node, list[ir.Node]] = {node: [] for node in graph}
    missing: dict[ir.Node, int] = {}
    for node in graph:
        made = [value.producer() for value in node.inputs if value is not None]
        sources = {source for source in made if source is not None and source in readers}
        missing[node] = len(sources)
        for source in sources:
            readers[source].append(node)
    ready = [node for node, count in missing.items() if count == 0]
    for node in ready:  # which grows
        for reader in readers[node]:
            missing[reader] -= 1
            if missing[reader] == 0:
                ready.append(reader)
    return ready


def _passage(node: ir.Node, scope: Scope) -> Passage:
    """What `node` does to channels; notes the layout of its output."""
    rule = _RULES.get(standard_op(node))
    further = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
    found = rule(node, scope) if rule is not None and not further else None
    passage = found or Passage("opaque")
    if passage.layout is not None:
        scope.layouts[node.outputs[0]] = passage.layout
    return passage


def _from_outside(graph: ir.Graph) -> dict[ir.Value, Demand]:
    """Values that the model's caller reads, or the body of an If, Loop or Scan."""
    demands = {value: Demand(held="is an output of the graph") for value in graph.outputs}
    inside = [v for n in graph.all_nodes() if n.graph is not graph for v in n.inputs]
    inside += [value for body in graph.subgraphs() for value in body.outputs]
    for value in inside:
        if value is not None:
            demands.setdefault(value, Demand(held="is read inside a subgraph"))
    return demands


def _who(node: ir.Node, scope: Scope) -> str:
    return f"'{scope.name(node)}' ({node.op_type})"


def _checked(out: Demand, passage: Passage) -> Demand:
    """A demand of another length than the layout says nothing of its channels."""
    lengths = None if passage.layout is None else (passage.layout.length,)
    if out.used is None or lengths is None or out.used.shape == lengths:
        return out
    return Demand(None, out.held or UNKNOWN_SHAPE)


def _wanted(passage: Passage, out: Demand, rows: np.ndarray | None) -> dict[int, Demand]:
    """What the node asks of the inputs whose channels it passes on or mixes."""
    if passage.kind == "linear":
        assert passage.linear is not None
        demand = Demand(columns_used(passage.linear, rows), passage.data_obstacle)
        return dict.fromkeys(passage.data, demand)
    if passage.kind == "blind" or out.used is None:
        return dict.fromkeys(passage.data, Demand(held=out.held))
    if passage.kind == "fold":
        used = np.asarray(out.used.reshape(passage.parts).any(axis=(0, 2)))
        return dict.fromkeys(passage.data, Demand(used, out.held))
    if passage.kind == "concat":
        ends = np.cumsum((0, *passage.parts))
        parts = [out.used[start:end] for start, end in pairwise(ends)]
        return {index: replace(out, used=parts[index]) for index in passage.data}
    return dict.fromkeys(passage.data, out)


def columns_used(layer: Linear, rows: np.ndarray | None) -> np.ndarray:
    """bool [input features], those for which one of `rows` has a weight that is not zero."""
    columns, weight = layer.columns, layer.weight
    weighs = weight.array() != weight.zeros()
    if rows is not None and columns.output_axis is not None:
        weighs = np.compress(rows, weighs, axis=columns.output_axis)
    if columns.groups > 1:  # row o of a Conv's weight sees the channels of its own group
        rest = weighs.any(axis=tuple(range(2, weighs.ndim)))
        used = rest.reshape(columns.groups, -1, rest.shape[1]).any(axis=1)
    else:
        others = [axis for axis in range(weighs.ndim) if axis != columns.weight_axis]
        used = weighs.any(axis=tuple(others))
    return np.asarray(used).reshape(-1)


def _stay(
    passages: Mapping[ir.Node, Passage], rows: Mapping[ir.Node, np.ndarray]
) -> dict[ir.Value, np.ndarray]:
    """Follows what linear layers lose forward to every value that loses it with them."""
    stay: dict[ir.Value, np.ndarray] = {}
    for node, passage in passages.items():
        sources = [node.inputs[index] for index in passage.data]
        masks = [stay.get(value) for value in sources if value is not None]
        if passage.kind == "linear":
            mask = rows.get(node)
        elif passage.layout is None or all(found is None for found in masks):
            mask = None
        elif passage.kind == "fold":
            assert masks[0] is not None
            mask = np.broadcast_to(masks[0][:, None], passage.parts).reshape(-1)
        elif passage.kind == "concat":
            parts = [np.ones(length, bool) for length in passage.parts]
            for index, found in zip(passage.data, masks, strict=True):
                parts[index] = parts[index] if found is None else found
            mask = np.concatenate(parts)
        else:
            mask = masks[0]
        if mask is not None:
            stay[node.outputs[0]] = mask
    return stay


def _held(
    graph: ir.Graph,
    passages: Mapping[ir.Node, Passage],
    scope: Scope,
    demands: Mapping[ir.Value, Demand],
    block: int,
) -> list[tuple[str, int, str]]:
    """Channels that nobody uses, and that stay."""
    held = []
    for value in graph.inputs:
        if unused := demands.get(value, Demand()).unused:
            held.append((value.name or "", unused, "is an input of the graph"))
    for node in graph:
        passage = passages[node]
        demand = demands.get(node.outputs[0], Demand()) if node.outputs else Demand()
        if not demand.unused or (passage.layout is not None and passage.kind != "linear"):
            continue
        unused = demand.unused
        if passage.kind == "linear":
            reason = passage.obstacle or demand.held
            if not reason and (step := demand.step(block)) > 1:
                stay = demand.rows(block)
                unused -= int((~stay).sum()) if stay is not None else 0
                reason = f"would leave a number of channels that is no multiple of {step}"
        else:
            other = f"is made by {_who(node, scope)}, not by a layer that could lose it"
            reason = passage.obstacle or other
        if unused and reason:
            held.append((scope.name(node), unused, reason))
    return held
