"""Convolutions and matrices with constant weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import integer, integers, number, text
from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.maps import Dense, Reshape, Scale, Shape
from lipcompile.certifying.lipschitz.reader import Reader, Refused, operator

_ATTENTION = (
    "multiplies two activations, as attention does, and grows without a bound of its slope"
)


@operator("Conv")
def conv(reader: Reader, node: ir.Node) -> int:
    source, weight = reader.step_of(node.inputs[0]), reader.need(node, 1)
    reader.constant(node, 2)
    before, after = reader.steps[source].shape, reader.shape(node)
    strides, dilations = spatial(node, "strides", before), spatial(node, "dilations", before)
    pads = pads_before(node, before, after, weight.shape[2:], strides, dilations)
    groups = integer(node, "group", 1)
    kernel = Convolution(before, after, weight, strides, pads, dilations, groups)
    return reader.convolve(node, source, kernel)


@operator("ConvTranspose")
def conv_transpose(reader: Reader, node: ir.Node) -> int:
    """The adjoint of a convolution, with the same norm."""
    source, weight = reader.step_of(node.inputs[0]), reader.need(node, 1)
    reader.constant(node, 2)
    before, after = reader.steps[source].shape, reader.shape(node)
    if text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refused("pads automatically")
    if integers(node, "output_shape"):
        raise Refused("pads as its output_shape needs it")
    strides, dilations = spatial(node, "strides", before), spatial(node, "dilations", before)
    pads = tuple(integers(node, "pads") or [0] * 2 * len(strides))[: len(strides)]
    groups = integer(node, "group", 1)
    adjoint = Convolution(after, before, weight, strides, pads, dilations, groups)
    bound = adjoint.norm()
    return reader.slope(node, source, -bound, bound, after)


def spatial(node: ir.Node, name: str, shape: Shape) -> Shape:
    """An attribute with one number per spatial axis, 1 by default."""
    return tuple(integers(node, name) or [1] * (len(shape) - 2))


def pads_before(
    node: ir.Node,
    before: Shape,
    after: Shape,
    kernel: Sequence[int],
    strides: Shape,
    dilations: Shape,
) -> Shape:
    """Zeros in front of each spatial axis."""
    auto = text(node, "auto_pad", "NOTSET")
    given = integers(node, "pads")
    if auto == "NOTSET":
        return tuple(given[: len(strides)]) if given else (0,) * len(strides)
    if auto == "VALID":
        return (0,) * len(strides)
    axes = zip(before[2:], after[2:], kernel, strides, dilations, strict=True)
    whole = [max(0, (m - 1) * s + (k - 1) * d + 1 - n) for n, m, k, s, d in axes]
    return tuple((n + 1) // 2 if auto == "SAME_LOWER" else n // 2 for n in whole)


@operator("Gemm")
def gemm(reader: Reader, node: ir.Node) -> int:
    if integer(node, "transA", 0) or not reader.is_data(node.inputs[0]):
        raise Refused("multiplies the image from the right")
    if reader.is_data(node.inputs[1]):
        raise Refused(_ATTENTION)
    weight = reader.need(node, 1) * number(node, "alpha", 1.0)
    reader.constant(node, 2)
    matrix = weight if integer(node, "transB", 0) else weight.T
    return _dense(reader, node, reader.step_of(node.inputs[0]), matrix, 1)


@operator("MatMul")
def matmul(reader: Reader, node: ir.Node) -> int:
    first, second = node.inputs[:2]
    if reader.is_data(first) and reader.is_data(second):
        raise Refused(_ATTENTION)
    left = reader.is_data(second)
    weight = reader.need(node, 0 if left else 1)
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    source = reader.step_of(second if left else first)
    rank = len(reader.steps[source].shape)
    if weight.ndim > 2 or rank < 2:
        raise Refused("multiplies by another matrix for each part of the tensor")
    matrix = np.atleast_2d(weight) if left else np.atleast_2d(weight.T)
    step = _dense(reader, node, source, matrix, rank - 2 if left else rank - 1)
    if reader.steps[step].shape == reader.shape(node):
        return step
    return reader.linear(node, step, Reshape(reader.steps[step].shape, reader.shape(node)))


def _dense(reader: Reader, node: ir.Node, source: int, matrix: np.ndarray, axis: int) -> int:
    before = reader.steps[source]
    after = tuple(len(matrix) if i == axis else n for i, n in enumerate(before.shape))
    grid = before.grid if before.grid and before.grid.channel == axis else None
    return reader.linear(node, source, Dense(before.shape, after, matrix, axis), grid)


@operator("BatchNormalization")
def batch_normalization(reader: Reader, node: ir.Node) -> int:
    if integer(node, "training_mode", 0):
        raise Refused("normalises by statistics of the batch")
    source = reader.step_of(node.inputs[0])
    gain, variance = reader.need(node, 1), reader.need(node, 4)
    factors = gain / np.sqrt(variance + number(node, "epsilon", float(np.float32(1e-5))))
    if (factors == 1).all():  # an offset alone, as forms are written
        return source
    before = reader.steps[source]
    shape = (1, -1, *[1] * (len(before.shape) - 2))
    return reader.linear(
        node, source, Scale(before.shape, factors.reshape(shape)), before.grid
    )
