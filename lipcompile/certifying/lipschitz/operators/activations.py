"""Slopes of functions of each element alone, and of Softmax.

Each pair holds the least and the largest difference quotient over all real numbers; constants
that are no simple fractions are rounded outwards, and a test measures every one.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import number
from lipcompile.certifying.lipschitz.operators.gates import affine_of
from lipcompile.certifying.lipschitz.reader import Reader, Refused, operator

_SLOPES: dict[str, tuple[float, float]] = {
    "Relu": (0.0, 1.0),
    "Sigmoid": (0.0, 0.25),
    "Tanh": (0.0, 1.0),
    "Softplus": (0.0, 1.0),
    "Softsign": (0.0, 1.0),
    "Abs": (-1.0, 1.0),
    "Clip": (0.0, 1.0),
    "Erf": (0.0, 1.1283792),  # 2 / sqrt(pi)
    "Gelu": (-0.1291, 1.1291),
    "HardSwish": (-0.5, 1.5),
    "Mish": (-0.1171, 1.0886),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
    "Atan": (0.0, 1.0),
}


@operator(*_SLOPES)
def known(reader: Reader, node: ir.Node) -> int:
    for index in range(1, len(node.inputs)):  # limits of Clip
        reader.constant(node, index)
    return reader.slope(node, reader.step_of(node.inputs[0]), *_SLOPES[node.op_type])


@operator("LeakyRelu")
def leaky_relu(reader: Reader, node: ir.Node) -> int:
    return _between(reader, node, _single(node, "alpha", 0.01), 1.0)


@operator("Elu", "Celu", "Selu")
def elu(reader: Reader, node: ir.Node) -> int:
    """alpha * (exp(x) - 1) below 0, of which Celu divides x by alpha first."""
    if node.op_type == "Celu":
        if not number(node, "alpha", 1.0) > 0:
            raise Refused("grows without a bound of its slope, since its alpha is not above 0")
        return _between(reader, node, 0.0, 1.0)
    if node.op_type == "Elu":
        return _between(reader, node, 0.0, 1.0, number(node, "alpha", 1.0))
    alpha = _single(node, "alpha", 1.67326319217681884765625)
    gamma = _single(node, "gamma", 1.05070102214813232421875)
    return _between(reader, node, 0.0, gamma, gamma * alpha)


@operator("HardSigmoid")
def hard_sigmoid(reader: Reader, node: ir.Node) -> int:
    return _between(reader, node, 0.0, _single(node, "alpha", 0.2))


@operator("Swish")
def swish(reader: Reader, node: ir.Node) -> int:
    """x * sigmoid(alpha * x): its derivative depends on alpha * x alone."""
    return _between(reader, node, -0.0999, 1.0999)


@operator("PRelu")
def prelu(reader: Reader, node: ir.Node) -> int:
    slopes = reader.need(node, 1)
    return _between(reader, node, float(slopes.min()), float(slopes.max()), 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(reader: Reader, node: ir.Node) -> int:
    if number(node, "alpha", 1.0) != 0:
        raise Refused("jumps at its threshold, as the form hard does, and has no slope")
    return _between(reader, node, 0.0, 1.0)


@operator("Shrink")
def shrink(reader: Reader, node: ir.Node) -> int:
    lambd = number(node, "lambd", 0.5)
    # Below 0 its first case holds up to |lambd|, and its second one jumps from there.
    if number(node, "bias", 0.0) != lambd or lambd < 0:
        raise Refused("jumps at its threshold, as the form hard does, and has no slope")
    return _between(reader, node, 0.0, 1.0)


@operator("Max", "Min")
def extremum(reader: Reader, node: ir.Node) -> int:
    """Of a tensor and constants, or of multiples of one tensor, as LeakyReLU is exported."""
    data = [value for value in node.inputs if value is not None and reader.is_data(value)]
    parts = [affine_of(reader, value) for value in data]
    first = parts[0].of
    if any(part.of is not first or part.magnitude for part in parts):
        raise Refused("takes the larger of several activations")
    slopes = [part.scale for part in parts]
    if len(data) < len(node.inputs):
        slopes.append(0.0)
    source = reader.spread(node, reader.step_of(first), reader.shape(node))
    return reader.slope(node, source, min(slopes), max(slopes))


@operator("Softmax")
def softmax(reader: Reader, node: ir.Node) -> int:
    """Its Jacobian diag(p) - p p^T: each row adds up, in absolute values, to 2 p (1 - p) <=
    1/2."""
    source = reader.step_of(node.inputs[0])
    return reader.slope(node, source, -0.5, 0.5, reader.steps[source].shape)


@operator("Where")
def where(reader: Reader, node: ir.Node) -> int:
    raise Refused("chooses between values, as the form hard does, and may jump")


def _single(node: ir.Node, name: str, default: float) -> float:
    """An attribute whose default is a float32 number, a little off the decimal one."""
    return number(node, name, float(np.float32(default)))


def _between(reader: Reader, node: ir.Node, *slopes: float) -> int:
    if not all(map(math.isfinite, slopes)):
        raise Refused(f"has slopes of {np.array(slopes)}")
    return reader.slope(node, reader.step_of(node.inputs[0]), min(slopes), max(slopes))
