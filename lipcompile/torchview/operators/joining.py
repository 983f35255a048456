"""Tensors joined, cut apart, cropped and padded along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import Arguments, NodeView
from lipcompile.torchview.registry import Operation, operator

Read = Callable[[Arguments], Any]
_LARGEST = (2**31 - 1, 2**63 - 1)


@operator("Concat")
def concatenate(node: NodeView) -> Operation:
    axis = node.attribute("axis", 1)
    return lambda *parts: torch.cat(parts, axis)


@operator("Split")
def split(node: NodeView) -> Operation:
    """Sizes are an attribute before opset 13, and an operand since; or all parts are equal,
    up to the last one.
    """
    axis, count = node.attribute("axis", 0), node.output_count
    read = _operand_or_attribute(node, 13, 1, "split")

    def run(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, sizes = arguments[0], read(arguments)
        if sizes is None:
            size, each = x.shape[axis], -(-x.shape[axis] // count)
            sizes = [max(min(each, size - i * each), 0) for i in range(count)]
        return torch.split(x, sizes, axis)

    return run


@operator("Slice")
def slice_axes(node: NodeView) -> Operation:
    """NumPy's slices: ends may lie outside, steps may be negative."""
    names = ("starts", "ends", "axes")
    starts, ends, axes = (
        _operand_or_attribute(node, 10, i, name) for i, name in enumerate(names, 1)
    )
    steps = node.numbers(4)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x, begins = arguments[0], starts(arguments)
        chosen = axes(arguments) or range(len(begins))
        strides = steps(arguments) or [1] * len(begins)
        cuts = [slice(None)] * x.dim()
        for axis, begin, end, step in zip(
            chosen, begins, ends(arguments), strides, strict=True
        ):
            if step > 0:
                cuts[axis] = slice(begin, end, step)
                continue
            # torch knows no negative steps. Unlike Python, ONNX clamps the start to the
            # first element, and ONNX Runtime reads a largest integer as "to the first".
            size = x.shape[axis]
            start = min(max(begin + size if begin < 0 else begin, 0), size - 1)
            last = None if end in _LARGEST else end
            where = range(*slice(start, last, step).indices(size))
            x = x.index_select(axis, torch.tensor(where, device=x.device).long())
        return x[tuple(cuts)]

    return run


@operator("Pad")
def pad(node: NodeView) -> Operation:
    """Pads are an attribute before opset 11, and operands since; negative ones crop."""
    mode = node.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise node.refuse(f"has mode '{mode}', which ONNX does not define")
    pads = _operand_or_attribute(node, 11, 1, "pads")
    default = [node.attribute("value", 0.0)]
    values = node.numbers(2, default) if node.opset >= 11 else lambda _: default
    axes = node.numbers(3)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x, amounts = arguments[0], pads(arguments)
        chosen = axes(arguments) or range(x.dim())
        begins, ends = [0] * x.dim(), [0] * x.dim()
        half = len(amounts) // 2
        for axis, begin, end in zip(chosen, amounts[:half], amounts[half:], strict=True):
            begins[axis], ends[axis] = begin, end
        if mode == "constant":
            value = (values(arguments) or default)[0]
            flat = [n for pair in zip(begins[::-1], ends[::-1], strict=True) for n in pair]
            return F.pad(x, flat, value=value)
        for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            x = _extend(x, axis, begin, end, mode)
        return x

    return run


def _extend(x: torch.Tensor, axis: int, begin: int, end: int, mode: str) -> torch.Tensor:
    if begin < 0 or end < 0:  # cropped first: what is gone is not repeated
        size = x.shape[axis] + min(begin, 0) + min(end, 0)
        x = x.narrow(axis, max(-begin, 0), size)
    begin, end = max(begin, 0), max(end, 0)
    if not begin and not end:
        return x
    size = x.shape[axis]
    places = torch.arange(-begin, size + end, device=x.device)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    elif size == 1:
        places = torch.zeros_like(places)
    else:  # a wave: up and down again in 2 (size - 1) steps
        places = size - 1 - (places % (2 * size - 2) - (size - 1)).abs()
    return x.index_select(axis, places)


def _operand_or_attribute(node: NodeView, opset: int, index: int, name: str) -> Read:
    """Numbers that are an attribute before `opset`, and an operand since."""
    if node.opset >= opset:
        return node.numbers(index)
    value = node.attribute(name)
    return lambda _: value
