"""Comparisons, logic and bits: what gives or chooses by truth values."""

from __future__ import annotations

import torch

from lipcompile.torchview.dtypes import widened
from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator, pointwise

pointwise("Equal", torch.eq)
pointwise("Greater", widened(torch.gt))
pointwise("Less", widened(torch.lt))
pointwise("GreaterOrEqual", widened(torch.ge))
pointwise("LessOrEqual", widened(torch.le))
pointwise("And", torch.logical_and)
pointwise("Or", torch.logical_or)
pointwise("Xor", torch.logical_xor)
pointwise("Not", torch.logical_not)
pointwise("Where", torch.where)
pointwise("IsNaN", torch.isnan)
pointwise("BitwiseAnd", torch.bitwise_and)
pointwise("BitwiseOr", torch.bitwise_or)
pointwise("BitwiseXor", torch.bitwise_xor)
pointwise("BitwiseNot", widened(torch.bitwise_not))


@operator("IsInf")
def is_inf(node: NodeView) -> Operation:
    positive = node.attribute("detect_positive", 1)
    negative = node.attribute("detect_negative", 1)
    if positive and negative:
        return torch.isinf
    if not positive and not negative:
        return lambda x: torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf if positive else torch.isneginf


@operator("BitShift")
def bit_shift(node: NodeView) -> Operation:
    """Shifts unsigned integers; "LEFT" or "RIGHT"."""
    left = node.attribute("direction") == "LEFT"
    return widened(torch.bitwise_left_shift if left else torch.bitwise_right_shift)
