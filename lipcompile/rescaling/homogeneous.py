"""Reads a positively homogeneous network: which tensors share a factor, and what is edited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.graph_walks import inner_nodes
from lipcompile.linear_layers import layer_name
from lipcompile.model_io import LoadedModel
from lipcompile.ops import standard_op
from lipcompile.passes.rescale_constants import find_constant
from lipcompile.rescaling.rules import Edit, Reading, effect_of
from lipcompile.scores import final_softmax, score_output

_SHAPES = frozenset({"Shape", "Size"})
# Order scores and keep the order; what they give cannot be scaled any further.
_ENDS = frozenset({"Softmax", "LogSoftmax", "ArgMax", "ArgMin", "Hardmax"})
_ORDERED = frozenset({"ArgMax", "ArgMin", "Hardmax"})
_BEHIND_ENDS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze"})


@dataclass(frozen=True, slots=True)
class Network:
    """A network that can be rescaled.

    Attributes:
        model: Its graph, which nobody has edited since.
        image: Its input.
        logits: What decides: the scores, or what their Softmax reads.
        kept: Tensors that must keep their numbers: other outputs.
        edits: Constants that get a factor, in graph order.
        groups: The group of each tensor; a group is its first tensor in graph order.
        ends_in: "Softmax" or "LogSoftmax" where that gives the scores.
    """

    model: ir.Model
    image: ir.Value
    logits: ir.Value
    kept: tuple[ir.Value, ...]
    edits: tuple[Edit, ...]
    groups: dict[ir.Value, ir.Value]
    ends_in: str | None

    def group(self, value: ir.Value) -> ir.Value:
        return self.groups.get(value, value)


def read_network(loaded: LoadedModel, scores: str | None) -> Network:
    """Reads a network; edits nothing.

    Args:
        loaded: A classifier with one input.
        scores: The output with the class scores; None finds it by its shape.

    Raises:
        ModelError: An operator does not scale, or a constant cannot be edited (named), there
            is no layer that could take the factor, or something else beside the scores would
            change.
    """
    name = score_output(loaded, scores).name
    reader = _Reader(loaded)
    reader.read(final_softmax(loaded.graph_ir, name))
    return reader.network(name)


@dataclass(slots=True)
class _Reader:
    """Walks a graph in its order; `parent` is a union-find forest."""

    loaded: LoadedModel
    data: set[ir.Value] = field(default_factory=set)
    ended: set[ir.Value] = field(default_factory=set)  # order of scores, or probabilities
    parent: dict[ir.Value, ir.Value] = field(default_factory=dict)
    rank: dict[ir.Value, int] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    kept: list[ir.Value] = field(default_factory=list)
    final: ir.Node | None = None

    def read(self, final: ir.Node | None) -> None:
        self.final = final
        graph = self.loaded.graph_ir.graph
        self._add(v for v in graph.inputs if v.name == self.loaded.inputs[0].name)
        for node in graph:
            inner = {v for one in inner_nodes(node) for v in one.inputs if v is not None}
            if inner & (self.data | self.ended):
                raise self._refusal(node, "has a subgraph that reads activations")
            if any(v in self.ended for v in node.inputs):
                self._behind_an_end(node)
            elif any(v in self.data for v in node.inputs):
                self._on_data(node)

    def _behind_an_end(self, node: ir.Node) -> None:
        if standard_op(node) not in _BEHIND_ENDS:
            reason = "reads what a Softmax or ArgMax gives, which does not scale"
            raise self._refusal(node, reason)
        self.ended.update(node.outputs)

    def _on_data(self, node: ir.Node) -> None:
        op = standard_op(node)
        if op in _SHAPES:
            return
        if op in _ENDS:
            if op not in _ORDERED and node is not self.final:
                self.kept += [value for value in node.inputs[:1] if value is not None]
            self.ended.update(node.outputs)
            return
        data = tuple(i for i, value in enumerate(node.inputs) if value in self.data)
        self._add(node.outputs)
        effect = effect_of(Reading.of(self.loaded.graph_ir, node, data))
        if isinstance(effect, str):
            raise self._refusal(node, effect)
        for value in effect.alike[1:]:
            self._join(effect.alike[0], value)
        for edit in effect.edits:
            found = find_constant(node, edit.index)
            if isinstance(found, str):
                raise self._refusal(node, found)
        self.edits += effect.edits

    def _add(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            self.data.add(value)
            self.parent[value] = value
            self.rank[value] = len(self.rank)

    def _root(self, value: ir.Value) -> ir.Value:
        while (above := self.parent[value]) is not value:
            self.parent[value] = value = self.parent[above]
        return value

    def _join(self, one: ir.Value, other: ir.Value) -> None:
        first, second = sorted((self._root(one), self._root(other)), key=self.rank.__getitem__)
        self.parent[second] = first

    def _refusal(self, node: ir.Node, reason: str) -> ModelError:
        return ModelError(
            f"'{self.loaded.name}' cannot be rescaled: node '{layer_name(node)}' "
            f"({node.op_type}) {reason}; leave --lipschitz out, or export a network of linear "
            "layers, Relu and pooling"
        )

    def network(self, scores: str) -> Network:
        graph = self.loaded.graph_ir.graph
        end = next(value for value in graph.outputs if value.name == scores)
        logits = self.final.inputs[0] if self.final is not None else end
        if logits is None or logits not in self.data:
            raise ModelError(
                f"'{self.loaded.name}' cannot be rescaled: its scores '{scores}' are no "
                "function of the image that scales; name others with --scores"
            )
        others = (v for v in graph.outputs if v is not end and v in self.data)
        groups = {value: self._root(value) for value in self.data}
        network = Network(
            self.loaded.graph_ir,
            next(iter(self.rank)),
            logits,
            tuple(dict.fromkeys([*self.kept, *others])),
            tuple(self.edits),
            groups,
            self.final.op_type if self.final is not None else None,
        )
        self._check_free(network)
        return network

    def _check_free(self, network: Network) -> None:
        group = network.group(network.logits)
        for value in _fixed(network):
            if network.group(value) is group:
                what = "the image" if value is network.image else f"'{value.name}'"
                raise ModelError(
                    f"'{self.loaded.name}' cannot be rescaled: no linear layer stands between "
                    f"{what} and the scores '{network.logits.name}', so that both would have "
                    "to change; leave --lipschitz out"
                )


def _fixed(network: Network) -> Iterator[ir.Value]:
    yield network.image
    yield from network.kept
