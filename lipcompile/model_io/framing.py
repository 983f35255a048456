"""A model between operators of another's making: they feed its input, and read its output."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from lipcompile.model_io.rendering import serialize


def framed(
    base: onnx.ModelProto,
    given: str,
    inputs: Sequence[ir.Value],
    front: Sequence[ir.Node],
    behind: Sequence[ir.Node],
    kept: Sequence[str],
) -> bytes:
    """Serialises `base` with `front` in place of one of its inputs, and `behind` at its end.

    What the model says of the shapes of tensors inside is left out, since they may have
    another batch than the model was exported with. The model's own nodes keep their bytes.

    Args:
        base: The model, which is not changed.
        given: Name of an input; `front` gives a tensor of this name.
        inputs: New graph inputs.
        front: Computes `given` from them.
        behind: Reads the model's tensors by name; what none of them reads becomes an output.
        kept: Names of the outputs that stay.

    Raises:
        ModelError: The inline weights do not fit into one protobuf message.
    """
    result = onnx.ModelProto()
    result.CopyFrom(base)
    graph = result.graph
    before = [*(info for info in base.graph.input if info.name != given)]
    after = [info for info in base.graph.output if info.name in kept]
    for field in (graph.input, graph.output, graph.node):
        del field[:]
    graph.input.extend([*(ir.to_proto(value) for value in inputs), *before])
    graph.node.extend(ir.serde.serialize_node(node) for node in front)
    graph.node.extend(base.graph.node)
    graph.node.extend(ir.serde.serialize_node(node) for node in behind)
    graph.output.extend(after)
    ends = (value for node in behind for value in node.outputs if not value.uses())
    graph.output.extend(ir.to_proto(value) for value in ends)
    for info in (*graph.value_info, *graph.output[: len(after)]):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    return serialize(result)
