"""What a model declares of its outputs, edited in place."""

from __future__ import annotations

import onnx


def set_output_length(proto: onnx.ModelProto, name: str, length: int | str) -> None:
    """Declares axis 1 of an output to be `length`: a number, a symbol, or "" for unknown.

    Raises:
        LookupError: There is no such output, or it has no axis 1.
    """
    dim = _output(proto, name).type.tensor_type.shape.dim[1]
    dim.ClearField("dim_value")
    dim.ClearField("dim_param")
    if isinstance(length, int):
        dim.dim_value = length
    elif length:
        dim.dim_param = length


def add_flag_output(proto: onnx.ModelProto, name: str, like: str) -> None:
    """Declares an output bool [N], where N is axis 0 of the output `like`.

    Raises:
        LookupError: There is no output `like`, or it has no axis 0.
    """
    batch = _output(proto, like).type.tensor_type.shape.dim[0]
    info = onnx.ValueInfoProto(name=name)
    info.type.tensor_type.elem_type = onnx.TensorProto.BOOL
    info.type.tensor_type.shape.dim.append(batch)
    proto.graph.output.append(info)


def drop_output(proto: onnx.ModelProto, name: str) -> None:
    """Declares an output no more.

    Raises:
        LookupError: There is no such output.
    """
    proto.graph.output.remove(_output(proto, name))


def rename_value_info(proto: onnx.ModelProto, before: str, after: str) -> None:
    """What value_info says of one tensor, it says of another."""
    for info in proto.graph.value_info:
        if info.name == before:
            info.name = after


def _output(proto: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    for info in proto.graph.output:
        if info.name == name:
            found: onnx.ValueInfoProto = info
            return found
    raise LookupError(f"there is no output '{name}'")
