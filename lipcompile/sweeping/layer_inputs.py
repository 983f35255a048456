"""A linear layer as a matrix, and the vectors that it multiplies.

Cases, for data x and a weight, G groups, O outputs and I inputs per group:
    1. Conv: x becomes patches, one per output position; I = channels / G * kernel.
    2. ConvTranspose: each position of x is a vector; O = outputs / G * kernel.
    3. Gemm and MatMul: each row (or column) of x is a vector.
Padding counts as 0. A MatMul with a weight of more than two axes is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lipcompile.attributes import integer, integers, text
from lipcompile.linear_layers import LinearLayer
from lipcompile.weights import columns_of


def as_matrices(layer: LinearLayer, weight: np.ndarray) -> np.ndarray | None:
    """The weight as float [G, O, I]; None where it is no matrix.

    Args:
        layer: The layer.
        weight: Its weight as the operator reads it.
    """
    groups = _groups(layer)
    if layer.node.op_type == "Conv":  # Case 1
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    if layer.node.op_type == "ConvTranspose":  # Case 2
        inputs = weight.shape[0] // groups
        return weight.reshape(groups, inputs, -1).transpose(0, 2, 1)
    if weight.ndim > 2:
        return None
    columns = columns_of(layer, weight.shape)
    moved = np.moveaxis(weight, columns.weight_axis, -1)
    return moved.reshape(1, -1, columns.count)


def draw_inputs(
    layer: LinearLayer,
    weight_shape: Sequence[int],
    data: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """At most `count` vectors that the layer multiplies, [G, I, count].

    Args:
        layer: The layer.
        weight_shape: Shape of its weight as the operator reads it.
        data: Its data operand, of one or more samples.
        count: How many to draw.
        rng: Where from.
    """
    if layer.node.op_type == "Conv":
        return _patches(layer, weight_shape, data, count, rng)
    columns = columns_of(layer, weight_shape)
    axis = columns.data_axis if columns.data_axis >= 0 else data.ndim + columns.data_axis
    vectors = np.moveaxis(data, max(axis, 0), -1).reshape(-1, data.shape[max(axis, 0)])
    rows = rng.choice(len(vectors), min(count, len(vectors)), replace=False)
    return vectors[rows].T.reshape(_groups(layer), -1, len(rows))


def spread_features(
    layer: LinearLayer, weight_shape: Sequence[int], features: np.ndarray
) -> np.ndarray:
    """One value per input feature, as `draw_inputs` lays vectors out: [G, I, 1]."""
    taps = int(np.prod(weight_shape[2:])) if layer.node.op_type == "Conv" else 1
    return np.repeat(features.reshape(_groups(layer), -1), taps, axis=1)[..., None]


def _groups(layer: LinearLayer) -> int:
    """Of a convolution of either kind; 1 elsewhere."""
    return integer(layer.node, "group", 1) if "Conv" in layer.node.op_type else 1


def _patches(
    layer: LinearLayer,
    weight_shape: Sequence[int],
    data: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Case 1: values under the kernel at random output positions."""
    kernel, sizes = list(weight_shape[2:]), data.shape[2:]
    axes = len(kernel)
    strides = integers(layer.node, "strides") or [1] * axes
    dilations = integers(layer.node, "dilations") or [1] * axes
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    begins, totals = _padding(layer, sizes, reach, strides)
    steps = [
        (size + total - span) // stride + 1
        for size, total, span, stride in zip(sizes, totals, reach, strides, strict=True)
    ]
    positions = len(data) * int(np.prod(steps))
    drawn = rng.choice(positions, min(count, positions), replace=False)
    image, *place = np.unravel_index(drawn, (len(data), *steps))
    ends = [total - begin for begin, total in zip(begins, totals, strict=True)]
    padded = np.pad(data, [(0, 0), (0, 0), *zip(begins, ends, strict=True)])
    taps = np.stack(np.unravel_index(np.arange(int(np.prod(kernel))), kernel))
    index = [
        place[axis][:, None] * strides[axis] + taps[axis][None, :] * dilations[axis]
        for axis in range(axes)
    ]
    found = padded[(image[:, None], slice(None), *index)]  # [N, taps, C]
    return found.transpose(2, 1, 0).reshape(_groups(layer), -1, len(drawn))


def _padding(
    layer: LinearLayer, sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Zeros in front of each axis, and in all."""
    axes = len(sizes)
    auto = text(layer.node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-size // stride) - 1) * stride + span - size)
            for size, span, stride in zip(sizes, reach, strides, strict=True)
        ]
        return [(t + (auto == "SAME_LOWER")) // 2 for t in totals], totals
    pads = integers(layer.node, "pads") or [0] * (2 * axes)
    if auto == "VALID":
        pads = [0] * (2 * axes)
    return pads[:axes], [pads[i] + pads[i + axes] for i in range(axes)]
