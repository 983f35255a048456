"""The pass that takes forged functions out again: the inverse of `InsertForged`.

Cases, for the record that provenance holds of a site:
    1. way "relu": the ThresholdedRelu is a Relu again.
    2. way "bias": what was edited in constants is taken back (`shift_bias.undo`).
    3. way "insert": what reads the forged tensor reads the anchor again, and the nodes go.
    4. The same behind a copy of QuantizeLinear and DequantizeLinear. Where the graph has
       several equal DequantizeLinear, each layer gets the one that nothing reads now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.ops import MARK
from lipcompile.passes.shift_bias import undo
from lipcompile.sites import site_value

Edge = tuple[ir.Node, int]


@dataclass(frozen=True, slots=True)
class RemoveForged:
    """Rewrites a graph in place: without the forms of `records`.

    Attributes:
        records: The site records of the graph's provenance, of every run.
    """

    records: Sequence[Mapping[str, Any]]

    def __call__(self, model: ir.Model) -> None:
        """Applies the pass.

        Raises:
            ModelError: The graph lacks something that the records name.
        """
        done: set[tuple[str, str]] = set()
        try:
            for record in reversed(self.records):
                where = (record["at"], record["forged"])
                if where not in done:
                    done.add(where)
                    _take_back(model.graph, record)
                # Of the records that share an anchor, the first one tells of the changes.
                for change in reversed(record.get("changes", [])):
                    if "max" in change:  # else written later on, outside of this
                        change = {**change, "max": float(change["max"])}
                    undo(model.graph, change)
            _drop_inserted(model.graph)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"the forged functions cannot be taken out: the graph does not fit its own "
                f"provenance ({type(error).__name__}: {error}), so another tool changed it "
                "after it was hardened; take the original"
            ) from error


def _take_back(graph: ir.Graph, record: Mapping[str, Any]) -> None:
    anchor = _tensor(graph, record["at"])
    if record["way"] == "insert":
        _reconnect(_tensor(graph, record["forged"]), anchor)  # Cases 3 and 4
        return
    activation = anchor.producer()
    if activation is None:
        raise ValueError(f"'{anchor.name}' is computed by nothing")
    if record["way"] == "relu":  # Case 1
        if activation.op_type != "ThresholdedRelu":
            raise ValueError(f"'{anchor.name}' is computed by {activation.op_type}")
        activation.op_type = activation.metadata_props.get(f"{MARK}.was", "Relu")
        del activation.attributes["alpha"]
    for key in [key for key in activation.metadata_props if key.startswith(f"{MARK}.")]:
        del activation.metadata_props[key]


def _tensor(graph: ir.Graph, name: str) -> ir.Value:
    for node in graph:
        for value in node.outputs:
            if value.name == name:
                return value
    raise ValueError(f"there is no tensor '{name}'")


def is_inserted(node: ir.Node) -> bool:
    """Whether LipCompile put this node into the graph; names of nodes get lost, of values
    not."""
    return any((value.name or "").startswith(f"{MARK}/") for value in node.outputs)


def readers_of(value: ir.Value) -> Iterator[Edge]:
    """The model's own inputs that read `value`, directly or through inserted nodes."""
    for node, index in value.uses():
        if not is_inserted(node):
            yield node, index
            continue
        for output in node.outputs:
            yield from readers_of(output)


def _reconnect(forged: ir.Value, anchor: ir.Value) -> None:
    readers = [edge for edge in readers_of(forged) if edge[0].graph is not None]
    if not readers:
        raise ValueError(f"nothing reads '{forged.name}'")
    places = {node: place for place, node in enumerate(_graph(anchor))}
    readers.sort(key=lambda edge: (places.get(edge[0], len(places)), edge[1]))
    unread = [value for value in equals_of(anchor) if _is_unread(value)]
    if len(unread) == len(readers):
        chosen = unread
    else:
        chosen = [_nearest([anchor, *unread], node, places) for node, _ in readers]
    for (node, index), value in zip(readers, chosen, strict=True):
        node.replace_input_with(index, value)


def _is_unread(value: ir.Value) -> bool:
    """Whether only the form itself reads it, if anything does."""
    read = any(not is_inserted(node) for node, _ in value.uses())
    return not read and not value.is_graph_output()


def _graph(anchor: ir.Value) -> ir.Graph:
    node = anchor.producer()
    assert node is not None and isinstance(node.graph, ir.Graph)
    return node.graph


def equals_of(anchor: ir.Value) -> list[ir.Value]:
    """`anchor`, and what equal DequantizeLinear give beside it, in graph order."""
    node = anchor.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return [anchor]
    beside = [user for user, _ in node.inputs[0].uses()]
    same = [
        user
        for user in _graph(anchor)
        if user in beside
        and user.op_type == "DequantizeLinear"
        and site_value(user.outputs[0]) is site_value(anchor)
    ]
    return [user.outputs[0] for user in same]


def _nearest(
    values: Sequence[ir.Value], reader: ir.Node, places: Mapping[ir.Node, int]
) -> ir.Value:
    """The last of `values` that is computed before `reader`, else the first."""

    def place(value: ir.Value) -> int:
        producer = value.producer()
        return places[producer] if producer is not None else -1

    above = [value for value in values if place(value) < places.get(reader, len(places))]
    return max(above, key=place) if above else values[0]


def _drop_inserted(graph: ir.Graph) -> None:
    inserted = [node for node in graph if is_inserted(node)]
    for node in inserted:
        for reader, _ in (edge for value in node.outputs for edge in value.uses()):
            if reader not in inserted:
                raise ValueError(f"'{reader.name}' still reads '{node.outputs[0].name}'")
    graph.remove(inserted, safe=True)
    for name in [name for name in graph.initializers if name.startswith(f"{MARK}/")]:
        if not graph.initializers[name].uses():
            graph.initializers.pop(name)
