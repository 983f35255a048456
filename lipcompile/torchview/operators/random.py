"""Random numbers, from torch's own generator: a `seed` attribute is not honoured.

No draw equals ONNX Runtime's. A model with such a node is one whose outputs vary.
"""

from __future__ import annotations

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("RandomNormal", "RandomNormalLike")
def normal(node: NodeView) -> Operation:
    mean, scale = node.attribute("mean", 0.0), node.attribute("scale", 1.0)
    empty = _empty(node)
    return lambda *like: empty(*like).normal_(mean, scale)


@operator("RandomUniform", "RandomUniformLike")
def uniform(node: NodeView) -> Operation:
    low, high = node.attribute("low", 0.0), node.attribute("high", 1.0)
    empty = _empty(node)
    return lambda *like: empty(*like).uniform_(low, high)


def _empty(node: NodeView) -> Operation:
    """Makes the tensor to fill: of the attribute `shape`, or like the input."""
    code, shape = node.attribute("dtype"), node.attribute("shape")
    dtype = None if code is None else node.dtype(code)
    if shape is None:
        return lambda like: torch.empty_like(like, dtype=dtype)
    return lambda: torch.empty(shape, dtype=dtype or node.precision)


@operator("Bernoulli")
def bernoulli(node: NodeView) -> Operation:
    """1 with probability x, else 0."""
    code = node.attribute("dtype")
    dtype = None if code is None else node.dtype(code)
    return lambda x: torch.bernoulli(x).to(dtype or x.dtype)


@operator("Multinomial")
def multinomial(node: NodeView) -> Operation:
    """Draws classes from unnormalised log-probabilities."""
    count = node.attribute("sample_size", 1)
    dtype = node.dtype(node.attribute("dtype", 6))  # int32
    return lambda x: torch.multinomial(x.softmax(-1), count, replacement=True).to(dtype)
