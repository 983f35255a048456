"""Walks over a graph that several modules need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx_ir as ir

Readers = Mapping[ir.Value, list[ir.Value]]


def walk_back(
    start: Iterable[ir.Value], sources: Callable[[ir.Value], Iterable[ir.Value]]
) -> Readers:
    """All that `start` is computed from as far as `sources` tells, and `start` itself: each
    value with the values that are computed from it directly."""
    readers: dict[ir.Value, list[ir.Value]] = {value: [] for value in start}
    queue = list(readers)
    while queue:
        value = queue.pop()
        for source in sources(value):
            if source not in readers:
                readers[source] = []
                queue.append(source)
            readers[source].append(value)
    return readers


def all_behind(values: Iterable[ir.Value], readers: Readers) -> set[ir.Value]:
    """`values`, and all that is computed from them on the way of `walk_back`."""
    found = set(values)
    queue = list(found)
    while queue:
        fresh = [value for value in readers[queue.pop()] if value not in found]
        found.update(fresh)
        queue += fresh
    return found


def nodes_behind(graph: ir.Graph, value: ir.Value) -> set[ir.Node]:
    """The graph's own nodes that depend on `value`, be it in a subgraph of theirs."""
    owners = {inner: node for node in graph for inner in inner_nodes(node)}
    found, queue = set[ir.Node](), [value]
    while queue:
        for reader, _ in queue.pop().uses():
            node = owners.get(reader, reader)
            if node not in found:
                found.add(node)
                queue += node.outputs
    return found


def nodes_by_output(graph: ir.Graph) -> dict[str, ir.Node]:
    """The graph's own nodes by the names of what they give."""
    return {value.name: node for node in graph for value in node.outputs if value.name}


def producer_of(value: ir.Value) -> ir.Node:
    """The node that computes a value.

    Raises:
        ValueError: None does.
    """
    node = value.producer()
    if node is None:
        raise ValueError(f"'{value.name}' is computed by nothing")
    return node


def gives_under(node: ir.Node, prefix: str) -> bool:
    """Whether an output of the node has a name below `prefix`."""
    return any((value.name or "").startswith(f"{prefix}/") for value in node.outputs)


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of its subgraphs, at any depth."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()
