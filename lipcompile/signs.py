"""Signs: which tensors can be shown to hold no negative value."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import number
from lipcompile.graph_walks import all_behind, walk_back
from lipcompile.linear_layers import Constants
from lipcompile.ops import KEEPS_SIGN, NONNEGATIVE, standard_op
from lipcompile.roles import data_inputs
from lipcompile.weights import constant_array, constant_root


def nonnegative_values(
    values: Iterable[ir.Value], constants: Constants
) -> frozenset[ir.Value]:
    """Those of `values`, and of what they are computed from, of which every path back ends at
    an operator that is never negative; in time linear in the graph."""
    unknown: list[ir.Value] = []

    def sources(value: ir.Value) -> Iterable[ir.Value]:
        known = _decided_by(value, constants)
        if known is None:
            unknown.append(value)
        return known or ()

    readers = walk_back(values, sources)
    return frozenset(readers.keys() - all_behind(unknown, readers))


def is_nonnegative(value: ir.Value, constants: Constants) -> bool:
    """Whether every path back from `value` ends at an operator that is never negative."""
    return value in nonnegative_values([value], constants)


def _decided_by(value: ir.Value, constants: Constants) -> Iterable[ir.Value] | None:
    """The values that must not be negative for `value` not to be; None where it may be so
    whatever they are."""
    node = value.producer()
    if node is None:
        return None
    if standard_op(node) in NONNEGATIVE or _is_bounded_by_zero(node):
        return ()
    if standard_op(node) not in KEEPS_SIGN:
        return None
    data = data_inputs(node, constants)
    takes_all = node.op_type in ("Add", "Mul", "Concat")
    if not data or (takes_all and len(data) != len(node.inputs)):
        return None
    return data


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
