"""Arithmetic and elementary functions, element by element with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from lipcompile.torchview.dtypes import widened
from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator, pointwise

Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

pointwise("Add", widened(torch.add))
pointwise("Sub", widened(torch.sub))
pointwise("Mul", torch.mul)
pointwise("Neg", torch.neg)
pointwise("Abs", widened(torch.abs))
pointwise("Sqrt", torch.sqrt)
pointwise("Exp", torch.exp)
pointwise("Log", torch.log)
pointwise("Reciprocal", torch.reciprocal)
pointwise("Erf", torch.erf)
pointwise("Sign", widened(torch.sign))
pointwise("Floor", torch.floor)
pointwise("Ceil", torch.ceil)
pointwise("Round", torch.round)  # half to even, as ONNX wants it
pointwise("Sin", torch.sin)
pointwise("Cos", torch.cos)
pointwise("Tan", torch.tan)
pointwise("Asin", torch.asin)
pointwise("Acos", torch.acos)
pointwise("Atan", torch.atan)
pointwise("Sinh", torch.sinh)
pointwise("Cosh", torch.cosh)
pointwise("Asinh", torch.asinh)
pointwise("Acosh", torch.acosh)
pointwise("Atanh", torch.atanh)


@operator("Div")
def div(node: NodeView) -> Operation:
    """a / b; integers are divided towards zero."""

    def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.is_floating_point():
            return torch.div(a, b)
        return torch.div(a, b, rounding_mode="trunc")

    return widened(run)


@operator("Mod")
def mod(node: NodeView) -> Operation:
    """The remainder, with the sign of the divisor; of the dividend where fmod = 1."""
    return widened(torch.fmod if node.attribute("fmod", 0) else torch.remainder)


@operator("Pow")
def pow_(node: NodeView) -> Operation:
    """x ** y in the type of x."""
    exponent = node.known_input(1)
    if exponent is not None and exponent.numel() == 1 and exponent.ndim == 0:
        # As a number it is faster, and no gradient of it (NaN for x < 0) is computed.
        number = exponent.item()
        return lambda x, _: torch.pow(x, number).to(x.dtype)

    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return widened(torch.pow)(x, y).to(x.dtype)

    return run


def _variadic(name: str, function: Binary) -> None:
    operator(name)(lambda _: lambda *operands: reduce(function, operands))


_variadic("Sum", torch.add)
_variadic("Max", widened(torch.maximum))
_variadic("Min", widened(torch.minimum))


@operator("Mean")
def mean(node: NodeView) -> Operation:
    return lambda *operands: reduce(torch.add, operands) / len(operands)


@operator("Clip")
def clip(node: NodeView) -> Operation:
    """Clips to [min, max], and is max where min > max.

    As torch's `clamp` its gradient is 1 inside, bounds included, and 0 outside.
    """
    if node.opset < 11:
        low, high = node.attribute("min"), node.attribute("max")
        return lambda x: _clamp(x, low, high)
    bounds = [node.known_input(index) for index in (1, 2)]
    if all(b is not None or not node.has_input(i) for i, b in enumerate(bounds, 1)):
        numbers = [None if b is None else b.reshape(()).item() for b in bounds]
        return lambda x, *_: _clamp(x, *numbers)

    return _clamp


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    """Bounds are numbers, or tensors of one element, or None."""
    return x if low is None and high is None else torch.clamp(x, low, high)
