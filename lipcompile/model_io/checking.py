"""Refuse what is no model, or what the compiler could not hold, before anything is built."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from lipcompile.errors import ModelError
from lipcompile.model_io.ordering import bodies, check_acyclic, check_functions
from lipcompile.model_io.rendering import PROTOBUF_LIMIT
from lipcompile.ops import STANDARD_DOMAINS

_MIN_OPSET = 7  # the first with NumPy broadcasting, which every encoding uses
# Protobuf reads 100 nested messages: 7 for a dimension of an output, 3 per subgraph.
_MAX_NESTING = (100 - 7) // 3


def check_file(path: Path) -> None:
    if path.is_dir():
        inside = ", ".join(f"'{p.name}'" for p in sorted(path.glob("*.onnx"))[:5])
        hint = f"name the file, for example {inside}" if inside else "name an .onnx file"
        raise ModelError(f"'{path}' is a folder, and a model is a file: {hint}")
    if not path.exists():
        near = ", ".join(f"'{p.name}'" for p in sorted(path.parent.glob("*.onnx"))[:5])
        hint = f"the folder has {near}" if near else "check the path"
        raise ModelError(f"model '{path}' does not exist: {hint}")
    if path.stat().st_size == 0:
        raise ModelError(f"'{path}' is empty (0 bytes): export or download it again")
    if path.stat().st_size > PROTOBUF_LIMIT:
        raise ModelError(
            f"'{path}' has {path.stat().st_size} bytes, and protobuf reads at most 2 GiB: "
            "save the model with external data"
        )


def check_is_model(proto: onnx.ModelProto, name: str) -> None:
    if not proto.HasField("graph") or not proto.ir_version or not proto.opset_import:
        raise ModelError(
            f"'{name}' is not an ONNX model: it parses, but has no graph, IR version or "
            "opset: check the file"
        )
    opset = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
    if opset.get("ai.onnx", _MIN_OPSET) < _MIN_OPSET:
        raise ModelError(
            f"'{name}' has opset {opset['ai.onnx']}, and hardening needs {_MIN_OPSET} or "
            "newer (NumPy broadcasting): convert it with onnx.version_converter"
        )


def check_graphs(proto: onnx.ModelProto, name: str) -> None:
    """Refuses what onnx-ir cannot hold; without recursion, since nesting is one such thing."""
    level = [(proto.graph, proto.graph.node)]
    level += [(onnx.GraphProto(), function.node) for function in proto.functions]
    whole = level
    for _ in range(_MAX_NESTING + 1):
        if any(
            isinstance(text, bytes) for graph, nodes in level for text in _names(graph, nodes)
        ):
            raise ModelError(
                f"'{name}' has names that are not UTF-8, as ONNX demands: export it with "
                "ASCII names"
            )
        for graph, nodes in level:
            _check_distinct(graph, nodes, name)
            _check_nodes(nodes, name)
        attributes = [a for _, nodes in level for node in nodes for a in node.attribute]
        if any(graph.sparse_initializer for graph, _ in level) or any(
            a.HasField("sparse_tensor") or a.sparse_tensors for a in attributes
        ):
            raise ModelError(
                f"'{name}' keeps weights as sparse tensors, which are not supported: export "
                "it with dense weights"
            )
        inner = [body for _, nodes in level for node in nodes for body in bodies(node)]
        level = [(body, body.node) for body in inner]
        whole += level
        if not level:
            break
    else:
        raise _too_deep(name)
    for _, nodes in whole:
        check_acyclic(nodes, name)
    check_functions(proto, name)


def _too_deep(name: str) -> ModelError:
    return ModelError(
        f"'{name}' nests its subgraphs too deeply to be read (protobuf stops at "
        f"{_MAX_NESTING} levels): export it with fewer nested If, Loop and Scan"
    )


def _check_nodes(nodes: Iterable[onnx.NodeProto], name: str) -> None:
    """What every operator has, so that passes need not look for it at each step."""
    for node in nodes:
        inputs, outputs = _least_arity(node.domain, node.op_type)
        if len(node.input) < inputs or len(node.output) < outputs:
            raise ModelError(
                f"node '{node.name or node.op_type}' of '{name}' has {len(node.input)} inputs "
                f"and {len(node.output)} outputs, and {node.op_type} has at least {inputs} "
                f"and {outputs}: the model is damaged, export it again"
            )
        for attribute in node.attribute:
            if not _is_whole(attribute):
                raise ModelError(
                    f"attribute '{attribute.name!s:.40}' of node "
                    f"'{node.name or node.op_type}' in '{name}' has no type, no UTF-8 name, "
                    "or no graph where one belongs: the model is damaged, export it again"
                )


@functools.cache
def _least_arity(domain: str, op_type: str) -> tuple[int, int]:
    """Inputs and outputs that an operator has in every version of ONNX."""
    if domain not in STANDARD_DOMAINS or not onnx.defs.has(op_type):
        return 0, 1
    schema = onnx.defs.get_schema(op_type)
    return min(schema.min_input, 1), max(schema.min_output, 1)


def _is_whole(attribute: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.GRAPH and not attribute.HasField("g"):
        return False
    # onnx-ir reads no graph that a function takes as a parameter.
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS) and attribute.ref_attr_name:
        return False
    return attribute.type != kinds.UNDEFINED and isinstance(attribute.name, str)


def _check_distinct(
    graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], name: str
) -> None:
    """One name, one value: of two, runtimes and tools take one or the other."""
    inputs = [info.name for info in graph.input if info.name]
    weights = [tensor.name for tensor in graph.initializer]
    outputs = [output for node in nodes for output in node.output if output]
    if twice := _repeated(weights):
        raise ModelError(
            f"'{name}' has more than one initializer named '{twice}', of which each runtime "
            "takes the one it likes: rename or remove one, or export it again"
        )
    # An initializer may be the default of an input: before IR version 4, each has to be.
    alone = set(weights) - set(inputs)
    if twice := _repeated([*inputs, *sorted(alone), *outputs]):
        raise ModelError(
            f"'{name}' has more than one value named '{twice}', and each name may be given "
            "once: rename one, or export it again"
        )


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _names(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    """Every name that passes work with; protobuf gives bytes for what is not UTF-8."""
    yield from (info.name for info in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in nodes:
        yield from (node.name, node.domain, node.op_type, *node.input, *node.output)
