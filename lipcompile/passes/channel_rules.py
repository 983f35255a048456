"""Which operators keep channels apart, and what they hold per channel.

Cases:
    1. A linear layer mixes the channels of its data and makes new ones.
    2. A depthwise convolution (groups = channels in = channels out) keeps them.
    3. An elementwise operator keeps those of its activation, if every other operand is a
       constant, or descends from the same channels (x * Sigmoid(x)), or holds one number for
       all channels (x * mask).
    4. BatchNormalization and InstanceNormalization in inference keep those on axis 1.
    5. Pooling keeps those on axis 1.
Operators on shapes are in `channel_shapes`.
"""

from __future__ import annotations

import onnx_ir as ir

from lipcompile.attributes import integer
from lipcompile.linear_layers import LinearLayer
from lipcompile.ops import QDQ
from lipcompile.passes.channel_passage import (
    COMBINED,
    Cut,
    Layout,
    Linear,
    Passage,
    Scope,
    fixed_reason,
    names,
)
from lipcompile.weights import Columns, columns_of, constant_array, stored_weight

ELEMENTWISE = names(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh "
    "DequantizeLinear Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min "
    "Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where "
    "Xor"
)
POOLS = names("AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool")


def linear(node: ir.Node, scope: Scope) -> Passage | None:
    """Cases 1 and 2."""
    operands = node.inputs[:2]
    fixed = [i for i, value in enumerate(operands) if value in scope.constants.fixed]
    conv = node.op_type.startswith("Conv")
    if len(operands) < 2 or len(fixed) != 1 or (conv and fixed != [1]):
        return None
    name, weight = scope.name(node), stored_weight(node, fixed[0])
    if isinstance(weight, str):
        return Passage("opaque", obstacle=f"the weight of '{name}' {weight}")
    shape = weight.shape
    if len(shape) < (3 if conv else 1) or (node.op_type == "Gemm" and len(shape) != 2):
        return None
    groups = integer(node, "group", 1) if conv else 1
    reason = fixed_reason(weight) or ("is shared with another operator" * weight.shared)
    obstacle = f"the weight of '{name}' {reason}" if reason else ""
    if groups > 1 and shape[:2] == (groups, 1):
        kept = _depthwise(node, scope, obstacle)
        if kept is not None:
            return kept
    if groups > 1:
        obstacle = f"'{name}' is a grouped convolution"
    index = 1 - fixed[0]
    columns = columns_of(LinearLayer(name, node, index, "", "", 0), shape)
    return _mixing(node, scope, Linear(name, weight, columns), index, groups, obstacle)


def _mixing(
    node: ir.Node, scope: Scope, layer: Linear, index: int, groups: int, obstacle: str
) -> Passage | None:
    """Case 1."""
    columns, weight = layer.columns, layer.weight
    rank = _data_rank(node, scope, index)
    if index == 1 and node.op_type == "MatMul" and (rank or 0) < 2:
        return None  # a vector on the right is summed over its only axis
    data = _data_axis(node, columns)
    known = scope.layout(node, index)
    aligned = known is None or (known.axis, known.length) == (data, columns.count)
    cuts = [Cut(weight.index, columns.weight_axis, "data")]
    layout, block = None, ""
    if columns.output_axis is not None:
        length = columns.shape[columns.output_axis]
        if node.op_type == "ConvTranspose":
            length *= groups
        layout = _made(node, columns, index, length, rank)
        bias = _bias(node, scope, layout)
        block = bias if isinstance(bias, str) else ""
        cuts += [Cut(weight.index, columns.output_axis)]
        cuts += [bias] if isinstance(bias, Cut) else []
    return Passage(
        "linear",
        layout,
        (index,) if aligned else (),
        tuple(cuts),
        obstacle or block,
        obstacle,
        layer,
    )


def _data_rank(node: ir.Node, scope: Scope, index: int) -> int | None:
    if node.op_type != "MatMul":
        return None
    value = node.inputs[index]
    assert value is not None
    known = scope.layouts.get(value)
    if known is not None and known.rank is not None:
        return known.rank
    dims = scope.shapes.of(value)
    return len(dims) if dims is not None else None


def _data_axis(node: ir.Node, columns: Columns) -> int:
    if columns.data_axis < 0:
        return columns.data_axis
    return columns.data_axis - (2 if node.op_type == "Gemm" else len(columns.shape))


def _made(
    node: ir.Node, columns: Columns, index: int, length: int, rank: int | None
) -> Layout:
    """The layout of what a linear layer makes."""
    weight_rank = len(columns.shape)
    if node.op_type.startswith("Conv"):
        return Layout(node.outputs[0], 1 - weight_rank, length, weight_rank)
    axis = -1 if index == 0 else -2
    if node.op_type == "Gemm":
        return Layout(node.outputs[0], axis, length, 2)
    if rank is not None:  # the product with a vector has one axis less
        rank = max(rank, weight_rank) - (rank == 1)
    return Layout(node.outputs[0], axis, length, rank)


def _bias(node: ir.Node, scope: Scope, layout: Layout) -> Cut | str | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    if value not in scope.constants.fixed:
        return COMBINED
    if node.op_type == "Gemm":
        return scope.cut(node, 2, layout)
    return _per_channel(node, scope, 2)


def _per_channel(node: ir.Node, scope: Scope, index: int) -> Cut | str:
    """A vector with one entry per channel."""
    reason = fixed_reason(stored_weight(node, index))
    return f"a constant of '{scope.name(node)}' {reason}" if reason else Cut(index, 0)


def _depthwise(node: ir.Node, scope: Scope, obstacle: str) -> Passage | None:
    """Case 2."""
    layout = scope.layout(node)
    groups = integer(node, "group", 1)
    if layout is None or layout.length != groups or not on_axis_1(layout):
        return None
    operands = [1, 2] if len(node.inputs) > 2 and node.inputs[2] is not None else [1]
    kept = vectors(node, scope, layout, operands, obstacle)
    return Passage(kept.kind, kept.layout, (0,), kept.cuts, kept.obstacle, depthwise=True)


def vectors(
    node: ir.Node, scope: Scope, layout: Layout, operands: list[int], obstacle: str = ""
) -> Passage:
    """Channels kept by an operator with constants whose axis 0 goes by channel."""
    cuts = [_per_channel(node, scope, index) for index in operands]
    obstacle = next((cut for cut in cuts if isinstance(cut, str)), obstacle)
    kept = tuple(cut for cut in cuts if isinstance(cut, Cut))
    return Passage("per-channel", _after(node, layout, obstacle), (0,), kept, obstacle)


def _after(node: ir.Node, layout: Layout, obstacle: str) -> Layout:
    """The same channels, of the same origin unless they may not be dropped from here on."""
    origin = node.outputs[0] if obstacle else layout.origin
    return Layout(origin, layout.axis, layout.length, layout.rank)


def on_axis_1(layout: Layout) -> bool:
    return layout.rank is not None and layout.rank >= 2 and layout.axis == 1 - layout.rank


def elementwise(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 3."""
    known = [scope.layout(node, index) for index in range(len(node.inputs))]
    found = [layout for layout in known if layout is not None]
    if not found or not _in_inference(node):
        return None
    layout = max(found, key=lambda one: one.length)
    if node.op_type in QDQ:
        return _quantiser(node, scope, layout)
    operands = [i for i, value in enumerate(node.inputs) if value is not None]
    verdicts = {index: _operand(node, scope, index, layout) for index in operands}
    cuts = tuple(cut for cut in verdicts.values() if isinstance(cut, Cut))
    obstacle = next((text for text in verdicts.values() if isinstance(text, str)), "")
    after = _after(node, layout, obstacle)
    made = Layout(after.origin, layout.axis, layout.length, _broadcast_rank(node, scope))
    data = tuple(i for i in operands if (one := known[i]) and _aligned(one, layout))
    return Passage("per-channel", made, data, cuts, obstacle)


def _aligned(one: Layout, other: Layout) -> bool:
    return (one.axis, one.length) == (other.axis, other.length)


def _operand(node: ir.Node, scope: Scope, index: int, layout: Layout) -> Cut | str | None:
    """What an operand loses with the channels of `layout`, or why they have to stay."""
    value = node.inputs[index]
    assert value is not None
    if value in scope.constants.static:
        return scope.cut(node, index, layout)
    other = scope.layouts.get(value)
    if other is not None and _aligned(other, layout):
        return None if other.origin is layout.origin else COMBINED
    dims = scope.shapes.of(value)
    if dims is None:
        return COMBINED
    place = len(dims) + layout.axis
    return None if place < 0 or dims[place] == 1 else COMBINED  # one number for all channels


def _broadcast_rank(node: ir.Node, scope: Scope) -> int | None:
    ranks = []
    for value in node.inputs:
        if value is not None:
            known = scope.layouts.get(value)
            dims = scope.shapes.of(value) if known is None else None
            ranks.append(
                known.rank if known is not None else None if dims is None else len(dims)
            )
    return None if None in ranks else max(rank for rank in ranks if rank is not None)


def _quantiser(node: ir.Node, scope: Scope, layout: Layout) -> Passage:
    """QuantizeLinear or DequantizeLinear of an activation, by one scale for the tensor."""
    obstacle = ""
    for value in node.inputs[1:]:
        array = constant_array(value)
        if value is not None and (array is None or array.size != 1):
            obstacle = f"'{scope.name(node)}' quantises each channel by its own scale"
    return Passage("per-channel", _after(node, layout, obstacle), (0,), (), obstacle)


def _in_inference(node: ir.Node) -> bool:
    mode = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
    if mode is None:
        return True
    training = constant_array(mode)
    return training is not None and not mode.is_graph_input() and not bool(training)


def normalisation(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 4."""
    layout = scope.layout(node)
    batch = node.op_type == "BatchNormalization"
    plain = integer(node, "training_mode", 0) == 0 and integer(node, "spatial", 1) == 1
    if layout is None or not on_axis_1(layout) or not plain:
        return None
    return vectors(node, scope, layout, [1, 2, 3, 4] if batch else [1, 2])


def pool(node: ir.Node, scope: Scope) -> Passage | None:
    """Case 5."""
    layout = scope.layout(node)
    if layout is None or not on_axis_1(layout) or layout.rank == 2:
        return None
    return Passage("per-channel", layout, (0,))
