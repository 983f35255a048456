"""Where the largest elements are, and running sums."""

from __future__ import annotations

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("ArgMax")
def argmax(node: NodeView) -> Operation:
    return _position(node, torch.argmax)


@operator("ArgMin")
def argmin(node: NodeView) -> Operation:
    return _position(node, torch.argmin)


def _position(node: NodeView, find: Operation) -> Operation:
    """The first extreme element along the axis; the last one if `select_last_index`."""
    axis = node.attribute("axis", 0)
    keepdims = bool(node.attribute("keepdims", 1))
    if not node.attribute("select_last_index", 0):
        return lambda x: find(x, axis, keepdims)
    return lambda x: x.shape[axis] - 1 - find(x.flip(axis), axis, keepdims)


@operator("CumSum")
def cumsum(node: NodeView) -> Operation:
    """Running sums; `exclusive` leaves each element out of its own, `reverse` runs back."""
    exclusive, reverse = node.attribute("exclusive", 0), node.attribute("reverse", 0)
    axes = node.numbers(1)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        axis = int(axes(arguments)[0])
        x = arguments[0].flip(axis) if reverse else arguments[0]
        if exclusive:
            zeros = torch.zeros_like(x.narrow(axis, 0, 1))
            x = torch.cat([zeros, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        sums = x.cumsum(axis, dtype=x.dtype)
        return sums.flip(axis) if reverse else sums

    return run


@operator("TopK")
def topk(node: NodeView) -> Operation:
    """The k largest (smallest) elements and where they are; of equal ones the first wins."""
    axis = node.attribute("axis", -1)
    largest = bool(node.attribute("largest", 1))
    fixed = node.attribute("k")  # until opset 9
    count = node.numbers(1) if fixed is None else lambda _: [fixed]

    def run(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        k = int(count(arguments)[0])
        # torch.topk promises no order among equal elements.
        values, indices = arguments[0].sort(dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

    return run
