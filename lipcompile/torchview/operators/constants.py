"""Tensors made from attributes and shapes."""

from __future__ import annotations

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("Constant")
def constant(node: NodeView) -> Operation:
    name = next(iter(node.node.attributes), "")
    value = node.attribute(name)
    if name == "value":
        tensor = node.tensor(value)
    elif name in ("value_float", "value_floats"):
        tensor = torch.tensor(value, dtype=node.precision)
    elif name in ("value_int", "value_ints"):
        tensor = torch.tensor(value, dtype=torch.int64)
    else:
        raise node.refuse(f"gives '{name}', which is no tensor of numbers")
    return lambda: tensor


@operator("ConstantOfShape")
def constant_of_shape(node: NodeView) -> Operation:
    value = node.attribute("value")
    filling = torch.zeros((), dtype=node.precision) if value is None else node.tensor(value)
    number, dtype = filling.reshape(()).item(), filling.dtype
    shape = node.numbers(0)
    return lambda *arguments: torch.full(shape(arguments), number, dtype=dtype)


@operator("Range")
def range_(node: NodeView) -> Operation:
    def run(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        first, last, step = start.item(), limit.item(), delta.item()
        if (last - first) * step <= 0:
            return start.new_empty(0)
        return torch.arange(first, last, step, dtype=start.dtype, device=start.device)

    return run


@operator("EyeLike")
def eye_like(node: NodeView) -> Operation:
    """Ones on the k-th diagonal of a matrix."""
    offset, code = node.attribute("k", 0), node.attribute("dtype")
    dtype = None if code is None else node.dtype(code)

    def run(like: torch.Tensor) -> torch.Tensor:
        eye = torch.zeros_like(like, dtype=dtype)
        eye.diagonal(offset).fill_(1)
        return eye

    return run


@operator("Shape")
def shape(node: NodeView) -> Operation:
    """Stays on the CPU: shapes are read as numbers."""
    part = slice(node.attribute("start", 0), node.attribute("end"))
    return lambda x: torch.tensor(list(x.shape)[part], dtype=torch.int64)


@operator("Size")
def size(node: NodeView) -> Operation:
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)
