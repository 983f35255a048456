"""Quantisation, as simulated by QuantizeLinear and DequantizeLinear.

Integers carry no gradient in torch. A QuantizeLinear whose every reader is a DequantizeLinear
therefore hands on its integers in a float tensor: the pair has gradient 0, or, unless the
exact gradient is asked for, 1 inside the clipping range and 0 outside.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch

from lipcompile.attributes import integer
from lipcompile.torchview.backward import straight_through
from lipcompile.torchview.dtypes import torch_dtype
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
    return _is_only_dequantised(node.node.outputs[0], _level_type(node.node, node.known))


def _is_only_dequantised(value: ir.Value, dtype: torch.dtype | None) -> bool:
    """Whether every reader of quantised levels is a DequantizeLinear, maybe behind a Cast to
    the type that the levels have anyway (PyTorch's exporter writes one).
    """
    if value.is_graph_output() or not value.consumers():
        return False
    for reader in value.consumers():
        if reader.op_type == "Cast" and torch_dtype(integer(reader, "to", 0)) == dtype:
            if not _is_only_dequantised(reader.outputs[0], dtype):
                return False
        elif reader.op_type != "DequantizeLinear":
            return False
    return True


def hands_on_levels(cast: NodeView) -> bool:
    """Whether a Cast reads levels that are carried in a float tensor, and changes nothing."""
    source = cast.node.inputs[0]
    producer = source.producer() if source is not None else None
    if producer is None or producer.op_type != "QuantizeLinear":
        return False
    dtype = _level_type(producer, cast.known)
    same = torch_dtype(cast.attribute("to")) == dtype
    return same and _is_only_dequantised(producer.outputs[0], dtype)


def _level_type(node: ir.Node, known: Mapping[str, torch.Tensor]) -> torch.dtype | None:
    """The integer type that a QuantizeLinear gives, or None where that is not known yet."""
    if node.op_type != "QuantizeLinear":
        return torch.uint8
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        value = known.get(zero.name or "")
        return value.dtype if value is not None else None
    return torch_dtype(integer(node, "output_dtype", 0) or ir.DataType.UINT8)


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
