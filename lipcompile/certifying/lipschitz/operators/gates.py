"""Products of a tensor with a gate of itself, and sums that are soft thresholds.

SiLU, GELU, HardSwish and the forms of LipCompile are written in several operators, each of
which alone would have no bound. They are recognised by what they compute: no metadata is
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import number
from lipcompile.certifying.lipschitz.norms import SLACK
from lipcompile.certifying.lipschitz.reader import Reader, Refused

_STEEP = 1e4  # a gate that opens faster is a step
_ERF_LOW, _ERF_HIGH = -0.25793, 2.25793  # of d/du u * (1 + erf(u)): see `_of_erf`


@dataclass(frozen=True, slots=True)
class Gate:
    """x * g(x) for a scalar function g.

    Attributes:
        argument: x.
        low: Least difference quotient.
        high: Largest one.
    """

    argument: ir.Value
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Affine:
    """scale * x + shift, or scale * |x| + shift."""

    of: ir.Value
    scale: float = 1.0
    shift: float = 0.0
    magnitude: bool = False


def gate_of(reader: Reader, node: ir.Node) -> Gate | None:
    """The gate that a Mul of two activations is, if it is one."""
    first, second = node.inputs
    for value, gate in ((first, second), (second, first)):
        assert value is not None and gate is not None
        factor = affine_of(reader, value)
        producer = gate.producer()
        if producer is None or factor.shift or factor.magnitude:
            continue
        found = _GATES.get(producer.op_type, _no_gate)(reader, producer, factor.of)
        if found is not None:
            low, high = sorted((factor.scale * found[0], factor.scale * found[1]))
            return Gate(factor.of, low, high)
    return None


def soft_threshold(reader: Reader, node: ir.Node) -> ir.Value | None:
    """x, where a Sub is x - clip(x, low, high): its slope is 0 inside and 1 outside."""
    first, second = node.inputs
    clip = second.producer() if second is not None else None
    if clip is not None and clip.op_type == "Clip" and clip.inputs[0] is first:
        reader.step_of(second)  # refused where the limits depend on the image
        return first
    return None


def affine_of(reader: Reader, value: ir.Value) -> _Affine:
    """Looks through scalar factors, offsets and one Abs."""
    scale, shift = 1.0, 0.0
    while (node := value.producer()) is not None:
        if node.op_type == "Abs" and node.inputs[0] is not None:
            return _Affine(node.inputs[0], scale, shift, magnitude=True)
        found = _scalar_step(reader, node)
        if found is None:
            break
        inner, (factor, offset) = found
        scale, shift = scale * factor, scale * offset + shift
        value = inner
    return _Affine(value, scale, shift)


def _affine_in(reader: Reader, node: ir.Node, x: ir.Value) -> _Affine | None:
    """What a node reads, where that is affine in x."""
    found = affine_of(reader, node.inputs[0]) if node.inputs[0] else None
    return found if found is not None and found.of is x else None


def _scalar_step(reader: Reader, node: ir.Node) -> tuple[ir.Value, tuple[float, float]] | None:
    """(x, (factor, offset)) of a node that computes factor * x + offset."""
    if node.op_type == "BatchNormalization":
        return _normalised(reader, node)
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if first is None or second is None or reader.is_data(first) == reader.is_data(second):
        return None
    right = reader.is_data(first)
    constant = _scalar(reader, second if right else first)
    if constant is None:
        return None
    rules: dict[tuple[str, bool], Callable[[float], tuple[float, float]]] = {
        ("Add", True): lambda c: (1.0, c),
        ("Add", False): lambda c: (1.0, c),
        ("Sub", True): lambda c: (1.0, -c),
        ("Sub", False): lambda c: (-1.0, c),
        ("Mul", True): lambda c: (c, 0.0),
        ("Mul", False): lambda c: (c, 0.0),
        ("Div", True): lambda c: (1 / c, 0.0),
    }
    rule = rules.get((node.op_type, right))
    if rule is None or (node.op_type == "Div" and not constant):
        return None
    return (first if right else second), rule(constant)


def _normalised(reader: Reader, node: ir.Node) -> tuple[ir.Value, tuple[float, float]] | None:
    """A BatchNormalization with the same numbers in every channel."""
    numbers = [_scalar(reader, value) for value in node.inputs[1:5]]
    if any(value is None for value in numbers) or node.inputs[0] is None:
        return None
    gain, bias, mean, variance = (float(value) for value in numbers if value is not None)
    factor = gain / math.sqrt(variance + number(node, "epsilon", float(np.float32(1e-5))))
    return node.inputs[0], (factor, bias - factor * mean)


def _scalar(reader: Reader, value: ir.Value | None) -> float | None:
    array = None if value is None else reader.trace.constants.get(value)
    if array is None and value is not None and value.const_value is not None:
        array = value.const_value.numpy()
    if array is None or array.size == 0 or not (array == array.flat[0]).all():
        return None
    scalar = float(array.flat[0])
    return scalar if math.isfinite(scalar) else None


def _no_gate(reader: Reader, node: ir.Node, x: ir.Value) -> None:
    return None


def _of_sigmoid(reader: Reader, node: ir.Node, x: ir.Value) -> tuple[float, float] | None:
    """x * sigmoid(p * x + q) or x * sigmoid(p * |x| + q).

    Its derivative is s + u * s * (1 - s) with u = p * x or p * |x| and s = sigmoid(u + q), in
    one variable, the sign of which is known for |x|.
    """
    inner = _affine_in(reader, node, x)
    if inner is None:
        return None
    side = 0 if not inner.magnitude else 1 if inner.scale > 0 else -1
    return _sigmoid_slopes(round(inner.shift, 12), side)


@cache
def _sigmoid_slopes(q: float, side: int) -> tuple[float, float]:
    """Limits of h(u) = s + u * s * (1 - s), s = sigmoid(u + q), for u of any sign (side 0),
    u >= 0 (1) or u <= 0 (-1).

    Outside of |u + q| <= 40, s * (1 - s) * |u| is below 1e-15 * (|q| + 40). Inside, |h'| <=
    1/2 + |u| / 10, which bounds what a grid can miss.
    """
    low, high = -q - 40.0, -q + 40.0
    if side:
        low, high = sorted(max(side * v, 0.0) * side for v in (low, high))
    u = np.linspace(low, high, 400_001)
    s = 1 / (1 + np.exp(-np.clip(u + q, -700, 700)))
    h = s + u * s * (1 - s)
    missed = float(u[1] - u[0]) * (0.5 + float(np.abs(u).max()) / 10) + 1e-12 * (1 + abs(q))
    # Beyond the grid h tends to 0 and 1; at u = 0 it is sigmoid(q).
    return min(0.0, float(h.min()) - missed), max(1.0, float(h.max()) + missed)


def _of_hard_sigmoid(reader: Reader, node: ir.Node, x: ir.Value) -> tuple[float, float] | None:
    """x * h, h = clip(alpha * a(x) + beta, 0, 1): the derivative is h, and in between h plus
    alpha * a' * x, where |alpha * a' * x| <= |h - shift|."""
    inner = _affine_in(reader, node, x)
    if inner is None:
        return None
    alpha, beta = number(node, "alpha", float(np.float32(0.2))), number(node, "beta", 0.5)
    return _ramp(alpha * inner.shift + beta, alpha * inner.scale)


def _of_clip(reader: Reader, node: ir.Node, x: ir.Value) -> tuple[float, float] | None:
    """x * clip(p * x + q, low, high), as HardSwish is exported."""
    inner = _affine_in(reader, node, x)
    if inner is None:
        return None
    if len(node.inputs) == 1:
        low, high = number(node, "min", -math.inf), number(node, "max", math.inf)
    else:
        limits = [_scalar(reader, v) for v in (*node.inputs[1:], None, None)[:2]]
        low = -math.inf if limits[0] is None else limits[0]
        high = math.inf if limits[1] is None else limits[1]
    width = high - low
    if low != 0 or not 0 < width < math.inf:
        return None
    found = _ramp(inner.shift / width, inner.scale / width)
    return found[0] * width, found[1] * width


def _ramp(shift: float, slope: float) -> tuple[float, float]:
    """Limits of h + (h - shift) on 0 <= h <= 1, and of h alone.

    Raises:
        Refused: The ramp is so steep that it is a step.
    """
    if abs(slope) > _STEEP or abs(shift) > _STEEP:
        raise Refused("opens a gate so steeply that it jumps")
    return min(0.0, -shift), max(1.0, 2 - shift)


def _of_erf(reader: Reader, node: ir.Node, x: ir.Value) -> tuple[float, float] | None:
    """x * (1 + erf(p * x)): with u = p * x its derivative is

        1 + erf(u) + 2 / sqrt(pi) * u * exp(-u^2),

    whose own derivative 4 / sqrt(pi) * (1 - u^2) * exp(-u^2) vanishes at u = -1 and u = 1.
    """
    outer = _scalar_step(reader, node)
    if outer is None or outer[1] != (1.0, 1.0):
        return None
    erf = outer[0].producer()
    if erf is None or erf.op_type != "Erf" or erf.inputs[0] is None:
        return None
    inner = affine_of(reader, erf.inputs[0])
    if inner.of is not x or inner.shift or inner.magnitude or inner.scale < 0:
        return None
    return _ERF_LOW * (1 + SLACK), _ERF_HIGH * (1 + SLACK)


_GATES: dict[str, Callable[[Reader, ir.Node, ir.Value], tuple[float, float] | None]] = {
    "Sigmoid": _of_sigmoid,
    "HardSigmoid": _of_hard_sigmoid,
    "Clip": _of_clip,
    "Add": _of_erf,
}
