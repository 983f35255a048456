"""Activations: Relu and its relatives, each acting on one element."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator, pointwise

# Selu's defaults since opset 6, which are the paper's constants in float32.
_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875

pointwise("Relu", torch.relu)
pointwise("Sigmoid", torch.sigmoid)
pointwise("Tanh", torch.tanh)
pointwise("Softplus", F.softplus)
pointwise("Softsign", F.softsign)
pointwise("HardSwish", F.hardswish)
pointwise("Mish", F.mish)


@operator("LeakyRelu")
def leaky_relu(node: NodeView) -> Operation:
    alpha = node.attribute("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(node: NodeView) -> Operation:
    """y = x if x >= 0 else slope x, with a slope that broadcasts to x."""
    return lambda x, slope: torch.where(x < 0, slope * x, x)


@operator("ThresholdedRelu")
def thresholded_relu(node: NodeView) -> Operation:
    """y = x if x > alpha else 0."""
    alpha = node.attribute("alpha", 1.0)
    return lambda x: F.threshold(x, alpha, 0.0)


@operator("Elu")
def elu(node: NodeView) -> Operation:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@operator("Celu")
def celu(node: NodeView) -> Operation:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@operator("Selu")
def selu(node: NodeView) -> Operation:
    """y = gamma elu(x): torch's own `selu` has fixed constants."""
    alpha = node.attribute("alpha", _SELU_ALPHA)
    gamma = node.attribute("gamma", _SELU_GAMMA)
    return lambda x: gamma * F.elu(x, alpha)


@operator("Gelu")
def gelu(node: NodeView) -> Operation:
    approximate = node.attribute("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@operator("HardSigmoid")
def hard_sigmoid(node: NodeView) -> Operation:
    """y = alpha x + beta, clipped to [0, 1]."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0.0, 1.0)


@operator("Swish")
def swish(node: NodeView) -> Operation:
    """y = x sigmoid(alpha x)."""
    alpha = node.attribute("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


@operator("Shrink")
def shrink(node: NodeView) -> Operation:
    """y = x + bias below -lambd, x - bias above lambd, and 0 between."""
    lambd, bias = node.attribute("lambd", 0.5), node.attribute("bias", 0.0)

    def run(x: torch.Tensor) -> torch.Tensor:
        inner = torch.where(x > lambd, x - bias, torch.zeros_like(x))
        return torch.where(x < -lambd, x + bias, inner).to(x.dtype)

    return run
