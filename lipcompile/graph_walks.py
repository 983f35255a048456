"""Walks over a graph that several modules need."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


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


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of its subgraphs, at any depth."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()
