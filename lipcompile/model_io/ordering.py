"""Refuse graphs and functions that lead back to themselves, or that grow without bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from lipcompile.errors import ModelError

_Key = tuple[str, str, str]

# A file of a few kilobytes can call functions that call functions, a million million times.
# What exporters write stays far below this.
_MOST_NODES = 1 << 16
_MOST_CALLS = 100


def check_acyclic(nodes: Sequence[onnx.NodeProto], name: str) -> None:
    """Raises ModelError where a node of one graph depends on its own output.

    ONNX wants nodes in topological order, in which case one pass is all; runtimes take them in
    any order.
    """
    to_come = {output for node in nodes for output in node.output if output}
    for node in nodes:
        if not to_come.isdisjoint(node.input) or not to_come.isdisjoint(_captured(node)):
            break
        to_come.difference_update(node.output)
    else:
        return
    if stuck := _stuck(nodes):
        raise ModelError(
            f"'{name}' has a cycle: node '{stuck.name or stuck.op_type}' depends on its own "
            f"output '{stuck.output[0]}', so the graph cannot be computed: export it again"
        )


def _stuck(nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto | None:
    """A node on a cycle, or None: Kahn's algorithm, then a walk against the arrows."""
    maker = {output: i for i, node in enumerate(nodes) for output in node.output if output}
    needs = [{maker[need] for need in _needs(node) if need in maker} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, makers in enumerate(needs):
        for one in makers:
            readers[one].append(index)
    waiting = [len(makers) for makers in needs]
    ready = [index for index, count in enumerate(waiting) if count == 0]
    while ready:
        for reader in readers[ready.pop()]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    left = [index for index, count in enumerate(waiting) if count]
    if not left:
        return None
    index, passed = left[0], set()
    while index not in passed:
        passed.add(index)
        index = next(one for one in needs[index] if waiting[one])
    return nodes[index]


def _needs(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, its subgraphs included."""
    yield from (need for need in node.input if need)
    yield from _captured(node)


def _captured(node: onnx.NodeProto) -> set[str]:
    """What the subgraphs of a node read from outside."""
    if not node.attribute:
        return set()
    used: set[str] = set()
    own: set[str] = set()
    graphs = list(bodies(node))
    while graphs:
        graph = graphs.pop()
        own.update(info.name for info in graph.input)
        own.update(tensor.name for tensor in graph.initializer)
        used.update(info.name for info in graph.output)
        for inner in graph.node:
            used.update(inner.input)
            own.update(inner.output)
            graphs += bodies(inner)
    return used - own


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check_functions(proto: onnx.ModelProto, name: str) -> None:
    """Raises ModelError where functions call themselves, or are too many once inlined."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    if len(functions) < len(proto.functions):
        raise ModelError(
            f"'{name}' defines a local function more than once, of which each runtime takes "
            "the one it likes: remove one, or export the model again"
        )
    calls = {key: _calls(f.node, functions) for key, f in functions.items()}
    sizes: dict[_Key, tuple[int, int]] = {}  # nodes once inlined, and depth of calls
    for key in _callees_first(calls, name):
        own = sum(1 for _ in _all_nodes(functions[key].node))
        inner = [sizes[callee] for callee in calls[key]]
        sizes[key] = (
            own + sum(nodes for nodes, _ in inner),
            1 + max((depth for _, depth in inner), default=0),
        )
    called = [sizes[key] for key in _calls(proto.graph.node, functions)]
    nodes, depth = sum(n for n, _ in called), max((d for _, d in called), default=0)
    if nodes > _MOST_NODES or depth > _MOST_CALLS:
        raise ModelError(
            f"the local functions of '{name}' are {nodes} nodes once inlined, in calls "
            f"{depth} deep, and at most {_MOST_NODES} and {_MOST_CALLS} are supported: export "
            "the model without functions"
        )


def _calls(
    nodes: Iterable[onnx.NodeProto], functions: Mapping[_Key, onnx.FunctionProto]
) -> list[_Key]:
    keys = ((node.domain, node.op_type, node.overload) for node in _all_nodes(nodes))
    return [key for key in keys if key in functions] if functions else []


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    levels = [iter(nodes)]
    while levels:
        for node in levels.pop():
            yield node
            levels += [iter(body.node) for body in bodies(node)]


def _callees_first(calls: Mapping[_Key, Sequence[_Key]], name: str) -> list[_Key]:
    order: list[_Key] = []
    done: set[_Key] = set()
    for start in calls:
        path: dict[_Key, Iterator[_Key]] = {start: iter(calls[start])}
        while path:
            key = next(reversed(path))
            callee = next((c for c in path[key] if c not in done), None)
            if callee is None:
                del path[key]
                if key not in done:
                    done.add(key)
                    order.append(key)
            elif callee in path:
                raise ModelError(
                    f"the local function '{callee[1]}' of '{name}' calls itself, directly or "
                    "through another one, and ONNX has no recursion: export the model again"
                )
            else:
                path[callee] = iter(calls[callee])
    return order
