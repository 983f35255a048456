"""Normalisations, in inference."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("BatchNormalization")
def batch_normalization(node: NodeView) -> Operation:
    epsilon = node.attribute("epsilon", 1e-5)
    training = node.attribute("training_mode", 0)
    if node.opset < 7:
        training = not node.attribute("is_test", 0)
    elif node.opset < 14:
        training = node.wants_output(1)
    if training:
        raise node.refuse("is in training mode: export the model for inference")
    per_element = node.opset < 9 and not node.attribute("spatial", 1)

    def run(x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> torch.Tensor:
        plain = not (per_element or mean.requires_grad or variance.requires_grad)
        if plain and x.dtype == mean.dtype == scale.dtype:
            return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
        # torch's function is faster, but has no gradient for mean and variance.
        factor = scale * torch.rsqrt(variance + epsilon)
        shift = bias - mean * factor
        if not per_element:
            ones = [1] * (x.dim() - 2)
            factor, shift = factor.reshape(-1, *ones), shift.reshape(-1, *ones)
        return torch.addcmul(shift.to(x.dtype), x, factor.to(x.dtype))

    return run


@operator("InstanceNormalization")
def instance_normalization(node: NodeView) -> Operation:
    epsilon = node.attribute("epsilon", 1e-5)
    return lambda x, scale, bias: torch.group_norm(x, x.shape[1], scale, bias, epsilon)


@operator("GroupNormalization")
def group_normalization(node: NodeView) -> Operation:
    """Scale and bias are per group before opset 21, and per channel since."""
    epsilon, groups = node.attribute("epsilon", 1e-5), node.attribute("num_groups")
    per_group = node.opset < 21

    def run(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if per_group:
            each = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return torch.group_norm(x, groups, scale, bias, epsilon)

    return run


@operator("LayerNormalization")
def layer_normalization(node: NodeView) -> Operation:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    statistics = node.wants_output(1) or node.wants_output(2)
    stash = node.dtype(node.attribute("stash_type", 1))

    def run(
        x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        shape = x.shape[axis % x.dim() :]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            result = F.layer_norm(x, shape, scale, bias, epsilon)
        else:
            result = F.layer_norm(x, shape, eps=epsilon) * scale
            result = result if bias is None else result + bias
        if not statistics:
            return result
        axes = tuple(range(axis % x.dim(), x.dim()))
        variance, mean = torch.var_mean(x.to(stash), axes, correction=0, keepdim=True)
        return result, mean, torch.rsqrt(variance + epsilon)

    return run


@operator("RMSNormalization")
def rms_normalization(node: NodeView) -> Operation:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    stash = node.dtype(node.attribute("stash_type", 1))

    def run(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        wide = x.to(stash)
        axes = tuple(range(axis % x.dim(), x.dim()))
        mean = wide.square().mean(axes, keepdim=True)
        return (wide * torch.rsqrt(mean + epsilon)).to(x.dtype) * scale

    return run


@operator("LRN")
def local_response_normalization(node: NodeView) -> Operation:
    """x / (bias + alpha / size * sum of x^2 over neighbouring channels)^beta."""
    size = node.attribute("size")
    alpha, beta = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75)
    bias = node.attribute("bias", 1.0)
    before = (size - 1) // 2

    def run(x: torch.Tensor) -> torch.Tensor:
        plane = math.prod(x.shape[2:])
        squares = x.square().reshape(x.shape[0], 1, x.shape[1], plane)
        padded = F.pad(squares, [0, 0, before, size - 1 - before])
        means = F.avg_pool2d(padded, (size, 1), 1).reshape(x.shape)
        return torch.div(x, torch.pow(bias + alpha * means, beta))

    return run


@operator("LpNormalization")
def lp_normalization(node: NodeView) -> Operation:
    """x / norm of x along an axis; zeros stay zeros."""
    axis, p = node.attribute("axis", -1), node.attribute("p", 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return torch.div(x, norm.masked_fill(norm == 0, 1))

    return run
