"""The digest that binds tables and provenance to a model.

It covers what the model computes: operators, attributes, names of tensors, inline weights in
full, and of external weights the length and sampled blocks (so that binding a 20 GB model
costs nothing). It does not cover node names, documentation, metadata, value_info or file
names, so that it stays the same for a path, a `ModelProto` and an `onnx_ir.Model` of one
model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from lipcompile.external_data import ExternalRange, sampled_digest

_Samples = Mapping[tuple[str, str, int], bytes]


def model_digest(model: ir.Model, ranges: Iterable[ExternalRange]) -> str:
    """Returns "sha256:<hex>" of what `model` computes.

    Args:
        model: The graph; inline weights are read, external ones are not.
        ranges: Where the external tensors lie, from `external_data.checked_ranges`.
    """
    digest = hashlib.sha256(b"lipcompile.model/1")
    external = {
        (item.tensor, item.location, item.offset): sampled_digest(item) for item in ranges
    }
    opsets = {name or "ai.onnx": version for name, version in model.opset_imports.items()}
    _add(digest, model.ir_version, sorted(opsets.items()))
    _add_graph(digest, model.graph, external)
    for key, function in sorted(model.functions.items()):
        _add(digest, "function", key, [v.name for v in function.inputs])
        _add(
            digest, [v.name for v in function.outputs], sorted(function.opset_imports.items())
        )
        for name in sorted(function.attributes):  # with their defaults
            _add_attribute(digest, function.attributes[name], external)
        _add_nodes(digest, function, external)
    return "sha256:" + digest.hexdigest()


def _add(digest: hashlib._Hash, *parts: object) -> None:
    digest.update(repr(parts).encode())


def _add_graph(digest: hashlib._Hash, graph: ir.Graph, external: _Samples) -> None:
    for role, values in (("in", graph.inputs), ("out", graph.outputs)):
        for value in values:
            _add(digest, role, value.name, str(value.dtype), str(value.shape))
    for name, value in sorted(graph.initializers.items()):
        if value.const_value is not None:
            _add_tensor(digest, name, value.const_value, external)
    _add_nodes(digest, graph, external)


def _add_nodes(digest: hashlib._Hash, nodes: Iterable[ir.Node], external: _Samples) -> None:
    for node in nodes:
        _add(digest, node.domain, node.op_type, node.overload)
        _add(digest, [v and v.name for v in node.inputs], [v.name for v in node.outputs])
        for name in sorted(node.attributes):
            _add_attribute(digest, node.attributes[name], external)
    _add(digest, "end")  # else a node could move out of a subgraph unseen


def _add_attribute(digest: hashlib._Hash, attribute: ir.Attr, external: _Samples) -> None:
    kind, value = attribute.type, attribute.value
    _add(digest, attribute.name, kind.name, attribute.ref_attr_name)
    if attribute.is_ref():
        return
    if kind == ir.AttributeType.TENSOR:
        _add_tensor(digest, value.name or "", value, external)
    elif kind == ir.AttributeType.TENSORS:
        for tensor in value:
            _add_tensor(digest, tensor.name or "", tensor, external)
    elif kind == ir.AttributeType.GRAPH:
        _add_graph(digest, value, external)
    elif kind == ir.AttributeType.GRAPHS:
        for graph in value:
            _add_graph(digest, graph, external)
    elif kind in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        _add(digest, str(value))
    elif isinstance(value, (list, tuple)):
        _add(digest, list(value))
    else:
        _add(digest, value)


def _add_tensor(
    digest: hashlib._Hash, name: str, tensor: ir.TensorProtocol, external: _Samples
) -> None:
    _add(digest, "tensor", name, str(tensor.dtype), list(map(str, tensor.shape)))
    if isinstance(tensor, ir.ExternalTensor):
        key = (tensor.name or "", os.fspath(tensor.location), tensor.offset or 0)
        digest.update(external[key])
    elif tensor.dtype == ir.DataType.STRING:
        _add(digest, tensor.numpy().tolist())
    else:
        digest.update(tensor.tobytes())
