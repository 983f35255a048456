"""Other shapes for the same elements."""

from __future__ import annotations

import math

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("Reshape")
def reshape(node: NodeView) -> Operation:
    """A 0 copies the input's size unless `allowzero`; -1 is inferred."""
    keep_zero = bool(node.attribute("allowzero", 0))
    if node.opset < 5:
        raise node.refuse(f"is of opset {node.opset}: convert the model to opset 7 or later")
    read = node.numbers(1)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x, shape = arguments[0], read(arguments)
        if not keep_zero and 0 in shape:
            shape = [size or x.shape[axis] for axis, size in enumerate(shape)]
        return x.reshape(shape)

    return run


@operator("Flatten")
def flatten(node: NodeView) -> Operation:
    axis = node.attribute("axis", 1)

    def run(x: torch.Tensor) -> torch.Tensor:
        rows = math.prod(x.shape[:axis])  # a negative axis counts from the end here too
        return x.reshape(rows, math.prod(x.shape[axis:]))

    return run


@operator("Transpose")
def transpose(node: NodeView) -> Operation:
    order = node.attribute("perm")
    if order is None:
        return lambda x: x.permute(*reversed(range(x.dim())))
    return lambda x: x.permute(order)


def _read_axes(node: NodeView) -> Operation:
    """Axes are an attribute before opset 13, and an operand since."""
    if node.opset >= 13:
        return node.numbers(1)
    axes = node.attribute("axes")
    return lambda _: axes


@operator("Squeeze")
def squeeze(node: NodeView) -> Operation:
    read = _read_axes(node)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        axes = read(arguments)
        return arguments[0].squeeze() if axes is None else arguments[0].squeeze(tuple(axes))

    return run


@operator("Unsqueeze")
def unsqueeze(node: NodeView) -> Operation:
    read = _read_axes(node)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x, axes = arguments[0], read(arguments)
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("Expand")
def expand(node: NodeView) -> Operation:
    """Both sides may be broadcast."""
    read = node.numbers(1)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x, shape = arguments[0], tuple(read(arguments))
        return x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]

    return run


@operator("Tile")
def tile(node: NodeView) -> Operation:
    read = node.numbers(1)
    return lambda *arguments: arguments[0].repeat(read(arguments))


@operator("DepthToSpace")
def depth_to_space(node: NodeView) -> Operation:
    block = node.attribute("blocksize")
    order = (0, 1, 4, 2, 5, 3) if _column_first(node) else (0, 3, 4, 1, 5, 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        depth = c // block**2
        split = (
            (n, depth, block, block, h, w) if order[1] == 1 else (n, block, block, depth, h, w)
        )
        return x.reshape(split).permute(order).reshape(n, depth, h * block, w * block)

    return run


@operator("SpaceToDepth")
def space_to_depth(node: NodeView) -> Operation:
    block = node.attribute("blocksize")
    order = (0, 1, 3, 5, 2, 4) if _column_first(node) else (0, 3, 5, 1, 2, 4)

    def run(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        split = x.reshape(n, c, h // block, block, w // block, block)
        return split.permute(order).reshape(n, c * block**2, h // block, w // block)

    return run


def _column_first(node: NodeView) -> bool:
    mode = node.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise node.refuse(f"has mode '{mode}', which ONNX does not define")
    return bool(mode == "CRD")
