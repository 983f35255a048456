"""Sums, and products with constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lipcompile.certifying.lipschitz.maps import Scale
from lipcompile.certifying.lipschitz.network import Grid, Step
from lipcompile.certifying.lipschitz.operators.gates import gate_of, soft_threshold
from lipcompile.certifying.lipschitz.reader import Reader, Refused, label, operator


@operator("Add", "Sum", "Mean")
def add(reader: Reader, node: ir.Node) -> int:
    terms = [_spread(reader, node, value) for value in node.inputs if reader.is_data(value)]
    total = _sum(reader, node, terms)
    if node.op_type == "Mean":
        return _scaled(reader, node, total, np.array(1 / len(node.inputs)))
    return total


@operator("Sub")
def subtract(reader: Reader, node: ir.Node) -> int:
    first, second = node.inputs
    if soft_threshold(reader, node) is not None:
        return reader.slope(node, reader.step_of(first), 0.0, 1.0)
    if not reader.is_data(second):
        return _spread(reader, node, first)
    negative = _scaled(reader, node, _spread(reader, node, second), np.array(-1.0))
    if not reader.is_data(first):
        return negative
    return _sum(reader, node, [_spread(reader, node, first), negative])


@operator("Neg")
def negate(reader: Reader, node: ir.Node) -> int:
    return _scaled(reader, node, reader.step_of(node.inputs[0]), np.array(-1.0))


@operator("Mul")
def multiply(reader: Reader, node: ir.Node) -> int:
    first, second = node.inputs
    if reader.is_data(first) and reader.is_data(second):
        gate = gate_of(reader, node)
        if gate is None:
            for value in (first, second):  # one of them may have its own reason
                reader.step_of(value)
            raise Refused("multiplies two activations, and grows without a bound of its slope")
        return reader.slope(node, _spread(reader, node, gate.argument), gate.low, gate.high)
    index = 1 if reader.is_data(first) else 0
    step = _spread(reader, node, first if index else second)
    return _scaled(reader, node, step, reader.need(node, index))


@operator("Div")
def divide(reader: Reader, node: ir.Node) -> int:
    first, second = node.inputs
    if reader.is_data(second):
        raise Refused("divides by an activation, which may come near zero")
    divisor = reader.need(node, 1)
    if not divisor.all():
        raise Refused("divides by zero")
    return _scaled(reader, node, _spread(reader, node, first), 1 / divisor)


def _spread(reader: Reader, node: ir.Node, value: ir.Value | None) -> int:
    return reader.spread(node, reader.step_of(value), reader.shape(node))


def _scaled(reader: Reader, node: ir.Node, step: int, factors: np.ndarray) -> int:
    """Constants that turn elements off or on are allowed to be any numbers, but finite."""
    if not np.isfinite(factors).all():
        raise Refused("multiplies by NaN or infinity")
    before = reader.steps[step]
    scale = Scale(before.shape, factors)
    grid = before.grid
    if grid is not None and scale.along(grid.channel) is None:
        grid = None
    return reader.linear(node, step, scale, grid)


def _sum(reader: Reader, node: ir.Node, terms: list[int]) -> int:
    if len(terms) == 1:
        return terms[0]
    steps = [reader.steps[term] for term in terms]
    return reader.add(
        Step("sum", label(node), steps[0].shape, tuple(terms), shared_grid(steps))
    )


def shared_grid(steps: list[Step]) -> Grid | None:
    """The grid of a combination of steps, where all of them lie on one."""
    grids = [step.grid for step in steps]
    first = grids[0]
    if first is None or any(grid is None or grid.axes != first.axes for grid in grids):
        return None
    masked = all(grid.masked for grid in grids if grid is not None)
    return Grid(first.channel, first.spatial, masked)
