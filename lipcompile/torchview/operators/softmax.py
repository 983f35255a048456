"""Softmax and its relatives."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator

AlongAxis = Callable[[torch.Tensor, int], torch.Tensor]


def _hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    """1 at the first maximum, 0 elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _along_axis(node: NodeView, function: AlongAxis) -> Operation:
    """Before opset 13 everything from `axis` on (default 1) is one vector; then `axis` is."""
    if node.opset >= 13:
        axis = node.attribute("axis", -1)
        return lambda x: function(x, axis)
    first = node.attribute("axis", 1)
    return lambda x: function(x.flatten(first), -1).reshape(x.shape)


@operator("Softmax")
def softmax(node: NodeView) -> Operation:
    return _along_axis(node, torch.softmax)


@operator("LogSoftmax")
def log_softmax(node: NodeView) -> Operation:
    return _along_axis(node, torch.log_softmax)


@operator("Hardmax")
def hardmax(node: NodeView) -> Operation:
    return _along_axis(node, _hardmax)
