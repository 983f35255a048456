"""Images in other sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.operators import sampling
from lipcompile.torchview.operators.sampling import Axis, Rule
from lipcompile.torchview.registry import Operation, operator

# torch's names of linear interpolation, by the rank of the input.
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@operator("Resize")
def resize(node: NodeView) -> Operation:
    if node.opset < 11:
        return _resize_by_scales(node, node.numbers(1))
    rule = _rule(node)
    axes = node.attribute("axes")
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    read_roi, read_scales, read_sizes = (node.numbers(index, []) for index in (1, 2, 3))

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x = arguments[0]
        chosen = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        plan = {axis: Axis(x.shape[axis], x.shape[axis], 1.0) for axis in range(x.dim())}
        scales = read_scales(arguments)
        if scales:
            plan |= {a: _scaled(x.shape[a], s) for a, s in zip(chosen, scales, strict=True)}
        else:
            plan |= _sized(x.shape, chosen, read_sizes(arguments), policy)
        roi = read_roi(arguments)
        if rule.coordinates == "tf_crop_and_resize":
            half = len(roi) // 2
            for axis, start, end in zip(chosen, roi[:half], roi[half:], strict=True):
                part = plan[axis]
                plan[axis] = Axis(part.size, part.target, part.scale, start, end)
        return _resample(x, rule, [plan[axis] for axis in range(x.dim())])

    return run


@operator("Upsample")
def upsample(node: NodeView) -> Operation:
    """Scales are an attribute before opset 9, and an operand since."""
    scales = node.attribute("scales")
    return _resize_by_scales(node, node.numbers(1) if node.opset >= 9 else lambda _: scales)


def _resize_by_scales(node: NodeView, read: Operation) -> Operation:
    """Resize of opset 10, and Upsample."""
    rule = Rule(node.attribute("mode", "nearest"), "asymmetric", "simple")
    if rule.mode not in ("nearest", "linear"):
        raise node.refuse(f"has mode '{rule.mode}', which ONNX does not define")

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        x, scales = arguments[0], read(arguments)
        plan = [_scaled(n, s) for n, s in zip(x.shape, scales, strict=True)]
        return _resample(x, rule, plan)

    return run


def _rule(node: NodeView) -> Rule:
    rule = Rule(
        node.attribute("mode", "nearest"),
        node.attribute("coordinate_transformation_mode", "half_pixel"),
        node.attribute("nearest_mode", "round_prefer_floor"),
        node.attribute("cubic_coeff_a", -0.75),
        bool(node.attribute("exclude_outside", 0)),
        bool(node.attribute("antialias", 0)),
        node.attribute("extrapolation_value", 0.0),
    )
    if rule.mode not in ("nearest", "linear", "cubic"):
        raise node.refuse(f"has mode '{rule.mode}', which ONNX does not define")
    if rule.coordinates not in sampling.COORDINATES:
        raise node.refuse(f"has coordinates '{rule.coordinates}', which are not supported")
    if rule.nearest_mode not in sampling.NEAREST:
        raise node.refuse(f"has nearest_mode '{rule.nearest_mode}', which is not supported")
    return rule


def _scaled(size: int, scale: float) -> Axis:
    return Axis(size, int(np.float32(scale) * np.float32(size)), scale)


def _sized(
    shape: Sequence[int], axes: Sequence[int], sizes: Sequence[int], policy: str
) -> dict[int, Axis]:
    scales = [target / shape[axis] for axis, target in zip(axes, sizes, strict=True)]
    if policy == "stretch":
        return {a: Axis(shape[a], n, s) for a, n, s in zip(axes, sizes, scales, strict=True)}
    scale = min(scales) if policy == "not_larger" else max(scales)
    return {a: Axis(shape[a], int(scale * shape[a] + 0.5), scale) for a in axes}


def _resample(x: torch.Tensor, rule: Rule, plan: Sequence[Axis]) -> torch.Tensor:
    changed = [index for index, axis in enumerate(plan) if axis.changes]
    if not changed:
        return x
    mode, align = _torch_mode(x, rule, plan, changed)
    if mode:
        return F.interpolate(x, [a.target for a in plan[2:]], mode=mode, align_corners=align)
    result = x
    for index in changed:
        axis = plan[index]
        if rule.mode == "nearest":
            chosen = torch.from_numpy(sampling.nearest(rule, axis)).to(x.device)
            result = result.index_select(index, chosen)
        else:
            matrix = torch.from_numpy(sampling.weights(rule, axis)).to(x.device)
            if not x.is_floating_point():
                result = result.double()
            mixed = result.movedim(index, -1) @ matrix.to(result.dtype).t()
            result = mixed.movedim(-1, index)
        outside = sampling.outside(rule, axis)
        if outside is not None:
            mask = torch.from_numpy(outside).to(x.device)
            mask = mask.reshape(-1, *[1] * (x.dim() - index - 1))
            result = result.masked_fill(mask, rule.extrapolation_value)
    return result.to(x.dtype)


def _torch_mode(
    x: torch.Tensor, rule: Rule, plan: Sequence[Axis], changed: Sequence[int]
) -> tuple[str, bool | None]:
    """The mode of `F.interpolate` that computes exactly this, and "" where none does."""
    special = rule.antialias or rule.exclude_outside or not x.is_floating_point()
    empty = not all(axis.size and axis.target for axis in plan)
    if special or empty or min(changed) < 2 or x.dim() not in _LINEAR:
        return "", None
    if rule.mode == "nearest":
        return ("nearest" if all(_torch_nearest(rule, a) for a in plan[2:]) else ""), None
    align = rule.coordinates == "align_corners"
    if not align and not all(_half_pixel(rule, a) for a in plan[2:]):
        return "", None
    if rule.mode == "linear":
        return _LINEAR[x.dim()], align
    return ("bicubic" if x.dim() == 4 and rule.cubic_coeff_a == -0.75 else ""), align


def _torch_nearest(rule: Rule, axis: Axis) -> bool:
    """Whether torch, which takes floor(i * size / target), reads the same elements."""
    if rule.coordinates == "tf_crop_and_resize":
        return False
    step = np.float32(axis.size) / np.float32(axis.target)
    own = np.floor(np.arange(axis.target, dtype=np.float32) * step).clip(max=axis.size - 1)
    return bool(np.array_equal(own, sampling.nearest(rule, axis)))


def _half_pixel(rule: Rule, axis: Axis) -> bool:
    if rule.coordinates == "pytorch_half_pixel":
        return axis.exact and (axis.target > 1 or not axis.changes)
    return axis.exact and rule.coordinates in ("half_pixel", "half_pixel_symmetric")


@operator("GridSample")
def grid_sample(node: NodeView) -> Operation:
    """Modes are called linear and cubic since opset 20, bilinear and bicubic before."""
    mode = node.attribute("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding = node.attribute("padding_mode", "zeros")
    align = bool(node.attribute("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, align)
