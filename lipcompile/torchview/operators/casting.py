"""Casts, and operators that hand on what they get."""

from __future__ import annotations

from typing import Any

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.operators.quantization import hands_on_levels
from lipcompile.torchview.registry import Operation, operator, pointwise

pointwise("Identity", lambda x: x)
pointwise("CastLike", lambda x, like: x.to(like.dtype))


@operator("Cast")
def cast(node: NodeView) -> Operation:
    """To an integer truncates towards zero; to a truth value is x != 0."""
    dtype = node.dtype(node.attribute("to"))
    if hands_on_levels(node):
        return lambda x: x
    return lambda x: x.to(dtype)


@operator("Dropout")
def dropout(node: NodeView) -> Operation:
    """Passes its input through: the view is never in training mode. The mask is all true."""
    if not node.wants_output(1):
        return lambda x, *_: x

    def run(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return x, torch.ones_like(x, dtype=torch.bool if node.opset >= 10 else x.dtype)

    return run
