"""Render an edited graph: the original `ModelProto` plus only what passes changed.

Whatever a pass did not touch keeps its bytes: names, documentation, metadata, value_info,
dynamic dimensions, node order.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from lipcompile.errors import ModelError, RunFailure

PROTOBUF_LIMIT = 2**31 - 1  # bytes that one protobuf message can hold


def remember(model: ir.Model) -> None:
    """Marks every node and initializer, for `render` to tell what a pass changed."""
    model.graph.meta["lipcompile.ir_version"] = model.ir_version
    for value in model.graph.initializers.values():
        value.meta["lipcompile.origin"] = value.const_value
    for value in _values(model.graph):
        value.meta["lipcompile.shape"] = value.shape and tuple(value.shape)
    for index, node in enumerate(model.graph):
        # The attributes are kept alive, so that no new one takes the identity of an old one.
        held = tuple(node.attributes.values())
        node.meta["lipcompile.origin"] = (index, _fingerprint(node), held)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


# The fields of a NodeProto that passes edit, in the order of the fingerprint.
_FINGERPRINT = ("op_type", "input", "output", "attribute", "metadata_props")


def _fingerprint(node: ir.Node) -> tuple[object, ...]:
    """Changes when a pass edits the node; attributes are immutable, so identity will do."""
    return (
        node.op_type,
        tuple(v and v.name for v in node.inputs),
        tuple(v.name for v in node.outputs),
        tuple(id(attribute) for attribute in node.attributes.values()),
        tuple(node.metadata_props.items()),
    )


def render(
    base: onnx.ModelProto, edited: ir.Model, metadata: Mapping[str, str | None] | None = None
) -> onnx.ModelProto:
    """Returns `base` with the main graph's nodes, initializers, functions and opsets of
    `edited`.

    Nodes and initializers that no pass touched are copied from `base` byte for byte, and so
    is value_info, but for values whose shape a pass changed, of which nothing is said then;
    `metadata` is added to the model's `metadata_props`, replacing keys of the same name; None
    drops one.
    """
    result = onnx.ModelProto()
    result.CopyFrom(base)
    del result.graph.node[:]
    for node in edited.graph:
        result.graph.node.append(_render_node(base, node))
    _render_initializers(result.graph, edited.graph)
    _render_shapes(result.graph, edited.graph)
    kept = set(edited.functions)
    functions = [f for f in base.functions if (f.domain, f.name, f.overload) in kept]
    del result.functions[:]
    result.functions.extend(functions)
    known = {opset.domain or "ai.onnx" for opset in base.opset_import}
    for domain, version in edited.opset_imports.items():
        if (domain or "ai.onnx") not in known:
            result.opset_import.append(onnx.helper.make_opsetid(domain, version))
    _set_metadata(result, metadata or {})
    return result


def _render_node(base: onnx.ModelProto, node: ir.Node) -> onnx.NodeProto:
    index, fingerprint, _ = node.meta.get("lipcompile.origin", (None, None, None))
    if index is None:
        return _written(node)
    original: onnx.NodeProto = base.graph.node[index]
    now = _fingerprint(node)
    if fingerprint == now:
        return original
    # Only the fields that a pass changed: whether an empty name was written is kept as well.
    edited, fresh = onnx.NodeProto(), _written(node)
    edited.CopyFrom(original)
    edited.op_type = fresh.op_type
    for field, before, after in zip(_FINGERPRINT, fingerprint, now, strict=True):
        if field != "op_type" and before != after:
            edited.ClearField(field)
            getattr(edited, field).extend(getattr(fresh, field))
    return edited


def _written(node: ir.Node) -> onnx.NodeProto:
    try:
        proto: onnx.NodeProto = ir.serde.serialize_node(node)
    except Exception as error:  # text that is not UTF-8, attributes of no type, ...
        raise ModelError(
            f"node '{node.name or node.op_type}' must be edited, and holds what cannot be "
            "written again: the model is damaged, export it again"
        ) from error
    return proto


def _render_initializers(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    """Keeps what no pass replaced, in its place; new initializers follow."""
    rendered = []
    for tensor in proto.initializer:
        value = graph.initializers.get(tensor.name)
        if value is not None:
            rendered.append(_replacement(value, tensor) or tensor)
    known = {tensor.name for tensor in proto.initializer}
    added = [value for name, value in graph.initializers.items() if name not in known]
    rendered += [fresh for value in added if (fresh := _replacement(value)) is not None]
    changed = len(rendered) != len(proto.initializer) or any(
        after is not before for after, before in zip(rendered, proto.initializer, strict=False)
    )
    if changed:
        kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in rendered]
        del proto.initializer[:]
        proto.initializer.extend(kept)


def _replacement(
    value: ir.Value, before: onnx.TensorProto | None = None
) -> onnx.TensorProto | None:
    """The tensor that a pass gave an initializer, if one did.

    It is written the way `before` was, so that an edit that is taken back leaves no trace.
    """
    untouched = value.const_value if before is not None else None  # if nothing was remembered
    if value.meta.get("lipcompile.origin", untouched) is value.const_value:
        return None
    assert value.const_value is not None
    tensor: onnx.TensorProto = ir.to_proto(value.const_value)
    tensor.name = value.name or ""
    if before is not None:
        _write_like(tensor, before)
    return tensor


def _write_like(tensor: onnx.TensorProto, before: onnx.TensorProto) -> None:
    """Holds the numbers in the field that held them before, with its other fields."""
    if before.HasField("doc_string"):
        tensor.doc_string = before.doc_string
    if before.data_location == onnx.TensorProto.EXTERNAL or tensor.HasField("raw_data") is (
        before.HasField("raw_data")
    ):
        return
    if before.HasField("data_location"):
        tensor.data_location = before.data_location
    if tensor.data_type == before.data_type and (field := _typed_field(before)):
        numbers = onnx.numpy_helper.to_array(tensor).ravel()
        if field == "int32_data" and numbers.dtype.itemsize == 2:  # 16-bit floats: their bits
            numbers = numbers.view(np.uint16)
        getattr(tensor, field).extend(numbers.tolist())
        tensor.ClearField("raw_data")


def _typed_field(tensor: onnx.TensorProto) -> str | None:
    fields = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")
    return next((field for field in fields if len(getattr(tensor, field))), None)


def _render_shapes(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    """Drops what value_info says of values whose shape a pass changed."""
    changed = set()
    for value in _values(graph):
        shape = value.shape and tuple(value.shape)
        if value.meta.get("lipcompile.shape", shape) != shape:
            changed.add(value.name)
    if changed:
        kept = [info for info in proto.value_info if info.name not in changed]
        del proto.value_info[:]
        proto.value_info.extend(kept)


def rename_dimension(
    proto: onnx.ModelProto, before: str, after: str, tensors: Container[str]
) -> None:
    """Gives a symbol in the value_info of some tensors another name, in place; "" stays."""
    if not before:
        return
    for info in (info for info in proto.graph.value_info if info.name in tensors):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param == before:
                dim.dim_param = after


def _set_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str | None]) -> None:
    kept = [prop for prop in proto.metadata_props if prop.key not in metadata]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for key, value in metadata.items():
        if value is not None:
            proto.metadata_props.add(key=key, value=value)


def with_extra_outputs(base: onnx.ModelProto, nodes: Sequence[ir.Node]) -> bytes:
    """Serialises `base` with `nodes` appended; outputs that none of them reads become the
    graph's.

    Protobuf merges concatenated messages and appends their repeated fields, so the model
    itself is not copied.

    Raises:
        ModelError: The inline weights do not fit into one protobuf message.
    """
    extra = onnx.ModelProto()
    for node in nodes:
        extra.graph.node.append(ir.serde.serialize_node(node))
        for value in node.outputs:
            if not value.uses():
                extra.graph.output.append(ir.to_proto(value))
    _check_size(base.ByteSize() + extra.ByteSize())
    return serialize(base) + extra.SerializeToString(deterministic=True)


def with_outputs(base: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """Serialises `base` with these tensors of its graph as further outputs.

    Raises:
        ModelError: The inline weights do not fit into one protobuf message.
    """
    extra, own = onnx.ModelProto(), {value.name for value in base.graph.output}
    for name in names:
        if name not in own:
            extra.graph.output.add(name=name)
    _check_size(base.ByteSize() + extra.ByteSize())
    return serialize(base) + extra.SerializeToString(deterministic=True)


def serialize(proto: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model.

    Raises:
        ModelError: The inline weights do not fit into one protobuf message (2 GiB).
    """
    _check_size(proto.ByteSize())
    try:
        return proto.SerializeToString(deterministic=True)
    except (ValueError, MemoryError) as error:
        raise RunFailure(f"the model could not be serialised ({error})") from error


def _check_size(size: int) -> None:
    if size > PROTOBUF_LIMIT:
        raise ModelError(
            f"the model has {size} bytes in memory, with what was added to it, and protobuf "
            "holds at most 2 GiB: save it with external data and pass the path"
        )


def relocate(proto: onnx.ModelProto, locations: Mapping[str, str]) -> None:
    """Points external tensors at new files: `locations` maps old location to new, in place."""
    for tensor in _external_protos(proto):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = locations[entry.value]


def _external_protos(proto: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while graphs:
        graph = graphs.pop()
        tensors = list(graph.initializer) if isinstance(graph, onnx.GraphProto) else []
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                graphs += [attribute.g, *attribute.graphs]
        yield from (t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL)


def passes_checker(proto: onnx.ModelProto) -> bool:
    """Whether ONNX's own checker accepts the model; external weights are not read for it.

    Raises:
        ModelError: The inline weights do not fit into one protobuf message.
    """
    _check_size(proto.ByteSize())
    subject = proto
    if any(True for _ in _external_protos(proto)):
        subject = onnx.ModelProto()
        subject.CopyFrom(proto)
        for tensor in _external_protos(subject):
            # The checker wants a value as long as the shape says, but infers no shapes.
            stand_in = onnx.TensorProto(name=tensor.name, dims=[1], raw_data=b"\0")
            stand_in.data_type = onnx.TensorProto.UINT8
            tensor.CopyFrom(stand_in)
    try:
        onnx.checker.check_model(subject)
    except (onnx.checker.ValidationError, ValueError, RuntimeError):
        return False
    return True
