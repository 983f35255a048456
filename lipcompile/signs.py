"""Signs: which tensors can be shown to hold no negative value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import number
from lipcompile.linear_layers import Constants
from lipcompile.ops import KEEPS_SIGN, NONNEGATIVE, standard_op
from lipcompile.roles import data_inputs
from lipcompile.weights import constant_array, constant_root


def is_nonnegative(value: ir.Value, constants: Constants) -> bool:
    """Whether every path back from `value` ends at an operator that is never negative."""
    queue, seen = [value], {value}
    while queue:
        node = queue.pop().producer()
        if node is None:
            return False
        if standard_op(node) in NONNEGATIVE or _is_bounded_by_zero(node):
            continue
        if standard_op(node) not in KEEPS_SIGN:
            return False
        data = data_inputs(node, constants)
        constant_operand = node.op_type in ("Add", "Mul", "Concat") and len(data) != len(
            node.inputs
        )
        if constant_operand or not data:
            return False
        fresh = [v for v in data if v not in seen]
        seen.update(fresh)
        queue += fresh
    return True


def _is_bounded_by_zero(node: ir.Node) -> bool:
    """Operators that a parameter of theirs keeps from being negative."""
    if standard_op(node) == "Clip":  # as ReLU6 is exported
        if "min" in node.attributes:  # before opset 11
            return number(node, "min", -1.0) >= 0
        bound = _constant(node, 1)
        return bound is not None and bound.size == 1 and bool(bound >= 0)
    if standard_op(node) == "ThresholdedRelu":
        return number(node, "alpha", 1.0) >= 0
    if node.op_type == "DequantizeLinear":  # from the lowest integer, as Relu is quantised
        scale, zero = _constant(node, 1), _constant(node, 2)
        if scale is None or zero is None:
            return False
        lowest = np.iinfo(zero.dtype).min if zero.dtype.kind in "iu" else None
        return bool((zero == lowest).all()) and bool((scale >= 0).all())
    return False


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = constant_root(node.inputs[index]) if len(node.inputs) > index else None
    if value is not None and value.is_graph_input():
        return None  # its initializer is a default that a caller may override
    return constant_array(value)
