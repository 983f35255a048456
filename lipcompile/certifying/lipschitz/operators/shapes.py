"""Operators that move, repeat or drop elements."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import integer, integers, text
from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.maps import Transpose
from lipcompile.certifying.lipschitz.network import Grid, Step
from lipcompile.certifying.lipschitz.operators.arithmetic import shared_grid
from lipcompile.certifying.lipschitz.reader import Reader, Refused, label, operator


@operator("Identity", "Cast", "CastLike")
def identity(reader: Reader, node: ir.Node) -> int:
    """Casts to narrow types are refused by their type."""
    return reader.step_of(node.inputs[0])


@operator("Dropout")
def dropout(reader: Reader, node: ir.Node) -> int:
    training = reader.constant(node, 2)
    if training is not None and training.any():
        raise Refused("drops elements at random, also at inference")
    return reader.step_of(node.inputs[0])


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(reader: Reader, node: ir.Node) -> int:
    shape = reader.shape(node)
    return reader.rearrange(node, reader.step_of(node.inputs[0]), lambda a: a.reshape(shape))


@operator("Expand", "Tile")
def repeat(reader: Reader, node: ir.Node) -> int:
    source, shape = reader.step_of(node.inputs[0]), reader.shape(node)
    if node.op_type == "Expand":
        return reader.spread(node, source, shape)
    times = reader.integers(node, 1)
    return reader.rearrange(node, source, lambda a: np.tile(a, times))


@operator("Transpose")
def transpose(reader: Reader, node: ir.Node) -> int:
    source = reader.step_of(node.inputs[0])
    before = reader.steps[source]
    order = tuple(integers(node, "perm") or reversed(range(len(before.shape))))
    after = tuple(before.shape[axis] for axis in order)
    grid = before.grid
    if grid is not None:
        moved = tuple(order.index(axis) for axis in grid.spatial)
        grid = Grid(order.index(grid.channel), moved, grid.masked)
    return reader.linear(node, source, Transpose(before.shape, after, order), grid)


@operator("Concat")
def concat(reader: Reader, node: ir.Node) -> int:
    data = [reader.is_data(value) for value in node.inputs]
    sources = tuple(
        reader.step_of(v) for v, moves in zip(node.inputs, data, strict=True) if moves
    )
    steps = [reader.steps[source] for source in sources]
    axis = integer(node, "axis", 1) % len(steps[0].shape)
    grid = shared_grid(steps)
    if grid is not None and grid.channel != axis:
        grid = None
    length = sum(step.shape[axis] for step in steps)
    shape = tuple(length if i == axis else n for i, n in enumerate(steps[0].shape))
    joined = Step("concat", label(node), shape, sources, grid, axis=axis)
    return _with_constants(reader, node, reader.add(joined), axis)


def _with_constants(reader: Reader, node: ir.Node, joined: int, axis: int) -> int:
    """What a Concat joins, between constants, which do not change."""
    if all(map(reader.is_data, node.inputs)):
        return joined
    parts: list[np.ndarray | range] = []
    start = 0
    for index, value in enumerate(node.inputs):
        constant = None if reader.is_data(value) else reader.constant(node, index)
        if constant is not None:
            parts.append(np.full(constant.shape, -1))
            continue
        assert value is not None
        end = start + reader.trace.shapes[value][axis]
        parts.append(range(start, end))
        start = end

    def how(a: np.ndarray) -> np.ndarray:
        taken = [np.take(a, p, axis=axis) if isinstance(p, range) else p for p in parts]
        return np.concatenate(taken, axis=axis)

    return reader.rearrange(node, joined, how)


@operator("Split")
def split(reader: Reader, node: ir.Node) -> list[int]:
    source = reader.step_of(node.inputs[0])
    axis = integer(node, "axis", 0) % len(reader.steps[source].shape)
    found, start = [], 0
    for value in node.outputs:
        size = reader.trace.shapes[value][axis]
        part = partial(np.take, indices=range(start, start + size), axis=axis)
        found.append(reader.rearrange(node, source, part))
        start += size
    return found


@operator("Gather")
def gather(reader: Reader, node: ir.Node) -> int:
    chosen = reader.need(node, 1).astype(np.int64)
    axis = integer(node, "axis", 0)
    return reader.rearrange(
        node, reader.step_of(node.inputs[0]), lambda a: np.take(a, chosen, axis=axis)
    )


@operator("Slice")
def slice_(reader: Reader, node: ir.Node) -> int:
    source = reader.step_of(node.inputs[0])
    before = reader.steps[source]
    spans = _spans(reader, node, len(before.shape))
    steps = [span.step or 1 for span in spans]
    starts = [span.indices(n)[0] for span, n in zip(spans, before.shape, strict=True)]
    after = reader.shape(node)
    if not _is_spatial(before, after) or min(steps) < 0:
        return reader.rearrange(node, source, lambda a: a[tuple(spans)])
    pads = tuple(-start for start in starts[2:])
    return _resample(reader, node, source, after, tuple(steps[2:]), pads)


def _spans(reader: Reader, node: ir.Node, rank: int) -> list[slice]:
    """What is taken of each axis; operands before opset 10 are attributes."""
    if len(node.inputs) > 1:
        starts, ends, axes, steps = (reader.integers(node, i) for i in (1, 2, 3, 4))
    else:
        starts, ends, axes = (integers(node, name) for name in ("starts", "ends", "axes"))
        steps = []
    spans = [slice(None)] * rank
    for place, axis in enumerate(axes or range(len(starts))):
        step = steps[place] if steps else 1
        end = ends[place]
        # Backwards to the very first element: an end that lies before it.
        spans[axis % rank] = slice(
            starts[place], None if step < 0 and end < -(2**30) else end, step
        )
    return spans


@operator("Pad")
def pad(reader: Reader, node: ir.Node) -> int:
    source = reader.step_of(node.inputs[0])
    before, after = reader.steps[source], reader.shape(node)
    rank, mode = len(before.shape), text(node, "mode", "constant")
    listed = integers(node, "pads") or reader.integers(node, 1)
    places = [axis % rank for axis in reader.integers(node, 3)] or range(rank)
    widths = [(0, 0)] * rank
    for i, axis in enumerate(places):
        widths[axis] = (listed[i], listed[i + len(listed) // 2])
    # Channels may be shifted as well: some in front, and as many taken away behind.
    if mode == "constant" and not any(map(any, widths[:2])) and _is_spatial(before, after):
        starts = tuple(width[0] for width in widths[2:])
        return _resample(reader, node, source, after, (1,) * len(starts), starts)
    if min(min(width) for width in widths) < 0 or mode not in ("constant", "edge", "reflect"):
        raise Refused(f"pads in a way ({mode}) for which no bound is known here")
    fill = {"constant_values": -1} if mode == "constant" else {}
    return reader.rearrange(
        node,
        source,
        lambda a: np.pad(a, widths, mode=mode, **fill),  # type: ignore[call-overload]
    )


def _is_spatial(before: Step, after: tuple[int, ...]) -> bool:
    """Whether only places change, of a tensor whose channels are its second axis."""
    grid = before.grid
    return grid is not None and grid.channel == 1 and before.shape[:2] == after[:2]


def _resample(
    reader: Reader,
    node: ir.Node,
    source: int,
    after: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
) -> int:
    """Strided slices and zero padding, as a convolution with a kernel of one element."""
    before = reader.steps[source]
    channels, rank = before.shape[1], len(pads)
    ones = np.ones((channels, 1, *[1] * rank))
    kernel = Convolution(before.shape, after, ones, strides, pads, (1,) * rank, channels)
    step = reader.convolve(node, source, kernel)
    covers = all(
        s == 1 and p >= 0 and p + n <= m
        for s, p, n, m in zip(strides, pads, before.shape[2:], after[2:], strict=True)
    )
    if covers and before.grid is not None:
        made = reader.steps[step]
        assert made.grid is not None
        grid = replace(made.grid, masked=before.grid.masked)
        reader.steps[step] = replace(made, grid=grid)
    return step


@operator("DepthToSpace", "SpaceToDepth")
def depth_to_space(reader: Reader, node: ir.Node) -> int:
    block, shape = integer(node, "blocksize", 1), reader.shape(node)
    if node.op_type == "SpaceToDepth":

        def how(a: np.ndarray) -> np.ndarray:
            n, c, h, w = a.shape
            parts = a.reshape(n, c, h // block, block, w // block, block)
            return parts.transpose(0, 3, 5, 1, 2, 4).reshape(shape)

    else:
        columns = text(node, "mode", "DCR") == "CRD"

        def how(a: np.ndarray) -> np.ndarray:
            n, c, h, w = a.shape
            inner = c // block**2
            if columns:
                parts = a.reshape(n, inner, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
            else:
                parts = a.reshape(n, block, block, inner, h, w).transpose(0, 3, 4, 1, 5, 2)
            return parts.reshape(shape)

    return reader.rearrange(node, reader.step_of(node.inputs[0]), how)
