"""Pooling and reductions."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import integer, integers, text
from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.maps import Dense, Reduce
from lipcompile.certifying.lipschitz.operators.affine import pads_before, spatial
from lipcompile.certifying.lipschitz.reader import Reader, Refused, operator


@operator("MaxPool")
def max_pool(reader: Reader, node: ir.Node) -> int:
    """|max a - max b| <= max |a_i - b_i|, so that the squares of all windows add up to at most

    (windows that one element is part of) * ||a - b||^2.
    """
    source = reader.step_of(node.inputs[0])
    before = reader.steps[source].shape
    axes = zip(
        integers(node, "kernel_shape"),
        spatial(node, "strides", before),
        spatial(node, "dilations", before),
        strict=True,
    )
    windows = math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in axes)
    bound = math.sqrt(windows)
    return reader.slope(node, source, -bound, bound, reader.shape(node))


@operator("GlobalMaxPool", "ReduceMax", "ReduceMin")
def whole_maximum(reader: Reader, node: ir.Node) -> int:
    source = reader.step_of(node.inputs[0])
    _axes(reader, node, len(reader.steps[source].shape))
    return reader.slope(node, source, -1.0, 1.0, reader.shape(node))


@operator("AveragePool")
def average_pool(reader: Reader, node: ir.Node) -> int:
    source = reader.step_of(node.inputs[0])
    before, after = reader.steps[source].shape, reader.shape(node)
    kernel = tuple(integers(node, "kernel_shape"))
    strides, dilations = spatial(node, "strides", before), spatial(node, "dilations", before)
    pads = pads_before(node, before, after, kernel, strides, dilations)
    weight = np.full((before[1], 1, *kernel), 1 / math.prod(kernel))
    pool = Convolution(before, after, weight, strides, pads, dilations, before[1])
    behind = tuple(integers(node, "pads")[len(kernel) :]) or pads
    if text(node, "auto_pad", "NOTSET").startswith("SAME"):
        reached = zip(pool.last(), before[2:], strict=True)
        behind = tuple(max(0, last + 1 - n) for last, n in reached)
    inside = all(
        last < n + p for last, n, p in zip(pool.last(), before[2:], behind, strict=True)
    )
    if not pool.reads_outside or (integer(node, "count_include_pad", 0) and inside):
        return reader.convolve(node, source, pool)
    return _averages(reader, node, source, pool, behind)


def _averages(
    reader: Reader, node: ir.Node, source: int, pool: Convolution, behind: tuple[int, ...]
) -> int:
    """Windows at the border average over fewer elements: a matrix along each axis."""
    counted = bool(integer(node, "count_include_pad", 0))
    for axis, kernel in enumerate(pool.kernel):
        before = reader.steps[source].shape
        n, m = before[2 + axis], pool.out_size[axis]
        taps = np.arange(kernel) * pool.dilations[axis]
        places = np.arange(m)[:, None] * pool.strides[axis] + taps - pool.pads[axis]
        reach = (-pool.pads[axis], n + behind[axis]) if counted else (0, n)
        counts = ((places >= reach[0]) & (places < reach[1])).sum(axis=1)
        matrix = np.zeros((m, n))
        for row, at in enumerate(places):
            matrix[row, at[(at >= 0) & (at < n)]] = 1 / max(1, counts[row])
        after = tuple(m if i == 2 + axis else length for i, length in enumerate(before))
        source = reader.linear(node, source, Dense(before, after, matrix, 2 + axis))
    return source


@operator("GlobalAveragePool", "ReduceMean", "ReduceSum")
def average(reader: Reader, node: ir.Node) -> int:
    source = reader.step_of(node.inputs[0])
    before = reader.steps[source]
    rank = len(before.shape)
    axes = _axes(reader, node, rank)
    count = math.prod(before.shape[axis] for axis in axes)
    factor = 1.0 if node.op_type == "ReduceSum" else 1 / count
    reduced = Reduce(before.shape, reader.shape(node), axes, factor)
    return reader.linear(node, source, reduced)


def _axes(reader: Reader, node: ir.Node, rank: int) -> tuple[int, ...]:
    """What is reduced.

    Raises:
        Refused: The batch is.
    """
    if node.op_type.startswith("Global"):
        return tuple(range(2, rank))
    axes = integers(node, "axes") or reader.integers(node, 1)
    if not axes and not integer(node, "noop_with_empty_axes", 0):
        axes = list(range(rank))
    found = tuple(axis % rank for axis in axes)
    if 0 in found:
        raise Refused("reduces over the images of a batch")
    return found
