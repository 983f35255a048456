"""What scaling means for each operator: which tensors share a factor, which constants get one.

A tensor t becomes g(t) * t. Let x be a data input, y the output, c a constant:

    y = op(x), positively homogeneous       g(y) = g(x): Relu, MaxPool, Reshape, ...
    y = x1 + x2, Concat, Max, ...           g(y) = g(x1) = g(x2), and c * g(y)
    y = W x + b                             W * g(y) / g(x), and b * g(y)
    y = x * c, y = x / c                    c * g(y) / g(x), c * g(x) / g(y)
    y = s (x - m) / sqrt(v + e) + b         s * g(y) / g(x), m * g(x), b * g(y)

so that linear layers, multiplications and normalisations may change the factor, and nothing
else may. BatchNormalization keeps its variance, to which an epsilon is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lipcompile.attributes import integer, number, text
from lipcompile.linear_layers import is_forged
from lipcompile.ops import default_opset, names_in, standard_op
from lipcompile.weights import constant_array


@dataclass(frozen=True, slots=True)
class Edit:
    """A constant operand that is multiplied by g(up) / g(down).

    Attributes:
        node: The operator.
        index: Which of its inputs.
        up: The tensor whose factor multiplies.
        down: The tensor whose factor divides; None for 1.
    """

    node: ir.Node
    index: int
    up: ir.Value
    down: ir.Value | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What an operator demands.

    Attributes:
        alike: Tensors that share a factor.
        edits: Constants that must be multiplied.
    """

    alike: tuple[ir.Value, ...] = ()
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One operator, and which of its inputs are data.

    Attributes:
        node: The operator.
        data: Indices of inputs that depend on the image.
        opset: Version of the default operator set.
    """

    node: ir.Node
    data: tuple[int, ...]
    opset: int

    @classmethod
    def of(cls, model: ir.Model, node: ir.Node, data: tuple[int, ...]) -> Reading:
        return cls(node, data, default_opset(model))

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    def input(self, index: int) -> ir.Value | None:
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) else None

    def data_input(self) -> ir.Value:
        value = self.node.inputs[self.data[0]]
        assert value is not None
        return value


Rule = Callable[[Reading], Effect | str]

_FIRST = names_in(
    "Relu LeakyRelu PRelu Abs Neg MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool "
    "GlobalLpPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 Flatten Reshape "
    "Transpose Squeeze Unsqueeze Expand Identity Slice Split Gather DepthToSpace SpaceToDepth "
    "Tile"
)
_BENT = "is not positively homogeneous: f(g x) is not g f(x)"


def effect_of(reading: Reading) -> Effect | str:
    """What an operator demands, or why it cannot be scaled, as a clause."""
    op = standard_op(reading.node)
    if is_forged(reading.node):
        return "is part of a forged function, whose threshold is no weight"
    if op in _FIRST:
        return _first(reading)
    rule = _RULES.get(op)
    return _BENT if rule is None else rule(reading)


def _first(reading: Reading) -> Effect | str:
    if reading.data != (0,):
        return "reads an operand that depends on the image"
    return Effect((reading.data_input(), *reading.node.outputs))


def _joined(reading: Reading) -> Effect | str:
    """Add, Sub, Sum, Mean, Max, Min, Concat: g(y) = g of every data input."""
    out, inputs = reading.output, reading.node.inputs
    data = [value for index in reading.data if (value := inputs[index]) is not None]
    constant = [i for i, v in enumerate(inputs) if v is not None and i not in reading.data]
    return Effect((out, *data), tuple(Edit(reading.node, i, out) for i in constant))


def _times(reading: Reading) -> Effect | str:
    if len(reading.data) != 1 or len(reading.node.inputs) != 2:
        return "multiplies two activations"
    index = 1 - reading.data[0]
    return Effect(edits=(Edit(reading.node, index, reading.output, reading.data_input()),))


def _divided(reading: Reading) -> Effect | str:
    if reading.data != (0,):
        return "divides by an activation"
    return Effect(edits=(Edit(reading.node, 1, reading.data_input(), reading.output),))


def _linear(reading: Reading) -> Effect | str:
    """Conv, ConvTranspose, Gemm, MatMul: one operand of the product is constant."""
    op, out = reading.node.op_type, reading.output
    product = [index for index in reading.data if index < 2]
    if len(product) != 1 or (op.startswith("Conv") and product != [0]):
        return "multiplies two activations, or has a weight that depends on the image"
    data = reading.node.inputs[product[0]]
    assert data is not None
    weight = Edit(reading.node, 1 - product[0], out, data)
    bias = reading.input(2)
    if bias is None:
        return Effect(edits=(weight,))
    if 2 in reading.data:
        return Effect((out, bias), (weight,))
    return Effect(edits=(weight, Edit(reading.node, 2, out)))


def _normalised(reading: Reading) -> Effect | str:
    if reading.data != (0,):
        return "has parameters that depend on the image"
    node, x, out = reading.node, reading.data_input(), reading.output
    if integer(node, "training_mode", 0) or any(v.uses() for v in node.outputs[1:]):
        return "normalises by the batch (training mode)"
    return Effect(edits=(Edit(node, 1, out, x), Edit(node, 2, out), Edit(node, 3, x)))


def _dropped(reading: Reading) -> Effect | str:
    training = reading.input(2)
    if training is not None:
        found = constant_array(training)
        if found is None or bool(found):
            return "drops activations at random (training mode)"
    return _first(reading)


def _padded(reading: Reading) -> Effect | str:
    node = reading.node
    if reading.data != (0,):
        return "reads an operand that depends on the image"
    if text(node, "mode", "constant") == "constant":
        value = reading.input(2) if reading.opset >= 11 else None
        filled = constant_array(value) if value is not None else number(node, "value", 0.0)
        if filled is None or bool(filled):
            return "pads with a value that is not 0"
    return _first(reading)


def _resized(reading: Reading) -> Effect | str:
    if text(reading.node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return "fills what lies outside of the image with a constant"
    return _first(reading)


def _cast(reading: Reading) -> Effect | str:
    wide = (int(ir.DataType.FLOAT), int(ir.DataType.DOUBLE))
    if integer(reading.node, "to", 0) not in wide:
        return "casts activations to a type in which scaling rounds"
    return _first(reading)


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Max", "Min", "Concat"), _joined),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _linear),
    **dict.fromkeys(("Resize", "Upsample"), _resized),
    "Mul": _times,
    "Div": _divided,
    "BatchNormalization": _normalised,
    "Dropout": _dropped,
    "Pad": _padded,
    "Cast": _cast,
}
