"""Quantisation, as simulated by QuantizeLinear and DequantizeLinear.

Integers carry no gradient in torch. A QuantizeLinear whose every reader is a DequantizeLinear
therefore hands on its integers in a float tensor: the pair has gradient 0, or, unless the
exact gradient is asked for, 1 inside the clipping range and 0 outside.
"""

from __future__ import annotations

import torch

from lipcompile.torchview.backward import straight_through
from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("QuantizeLinear")
def quantize(node: NodeView) -> Operation:
    """saturate(round(x / scale) + zero_point), rounding half to even."""
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    code = node.attribute("output_dtype", 0)
    fixed = node.dtype(code) if code else torch.uint8
    carried = _feeds_dequantizers(node)

    def run(
        x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None
    ) -> torch.Tensor:
        dtype = fixed if zero is None else zero.dtype
        working = torch.promote_types(scale.dtype, torch.float32)
        steps = x.to(working) / _spread(scale.to(working), x, axis, block)
        levels = _round(steps, node)
        if zero is not None:
            levels = levels + _spread(zero.to(working), x, axis, block)
        levels = _saturate(levels, dtype)
        return levels if carried else levels.to(dtype)

    return run


@operator("DequantizeLinear")
def dequantize(node: NodeView) -> Operation:
    """(x - zero_point) scale, in the type of the scale."""
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    code = node.attribute("output_dtype", 0)
    fixed = node.dtype(code) if code else None

    def run(
        x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None
    ) -> torch.Tensor:
        dtype = fixed or scale.dtype
        working = torch.promote_types(dtype, torch.float32)
        levels = x.to(working)
        if zero is not None:
            levels = levels - _spread(zero.to(working), x, axis, block)
        return (levels * _spread(scale.to(working), x, axis, block)).to(dtype)

    return run


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: NodeView) -> Operation:
    """To uint8, with the range of x, widened to hold 0, as scale and zero point."""
    carried = _feeds_dequantizers(node)

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
        scale = (high - low) / 255.0
        # Of a constant 0 the scale is 0: any other keeps it exact.
        scale = torch.where(scale == 0.0, torch.ones_like(scale), scale)
        zero = _saturate(torch.round(-low / scale).detach(), torch.uint8)
        levels = _saturate(_round(x / scale, node) + zero, torch.uint8)
        return levels if carried else levels.to(torch.uint8), scale, zero.to(torch.uint8)

    return run


def _round(x: torch.Tensor, node: NodeView) -> torch.Tensor:
    rounded = torch.round(x)
    return rounded if node.gradient == "exact" else straight_through(rounded, x)


def _saturate(levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    info = torch.iinfo(dtype)
    return levels.clamp(info.min, info.max)


def _feeds_dequantizers(node: NodeView) -> bool:
    """Whether nobody sees in which type the first output is."""
    output = node.node.outputs[0]
    readers = {reader.op_type for reader in output.consumers()}
    return not output.is_graph_output() and readers == {"DequantizeLinear"}


def _spread(
    operand: torch.Tensor, x: torch.Tensor, axis: int, block_size: int
) -> torch.Tensor:
    """A scale or zero point such that it broadcasts to x: one for all, per axis, per block."""
    if operand.numel() == 1:
        return operand.reshape(())
    if operand.ndim == 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        return operand.reshape(shape)
    block_size = block_size or -(-x.shape[axis] // operand.shape[axis])
    return operand.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
