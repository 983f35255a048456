"""One file per family of operators; importing this package fills the registry."""

from __future__ import annotations

from lipcompile.torchview.operators import (
    activations,
    arithmetic,
    casting,
    comparison,
    constants,
    control,
    convolution,
    gathering,
    joining,
    matmul,
    normalization,
    ordering,
    pooling,
    quantization,
    random,
    reduction,
    resizing,
    shape,
    softmax,
)

__all__ = [
    "activations",
    "arithmetic",
    "casting",
    "comparison",
    "constants",
    "control",
    "convolution",
    "gathering",
    "joining",
    "matmul",
    "normalization",
    "ordering",
    "pooling",
    "quantization",
    "random",
    "reduction",
    "resizing",
    "shape",
    "softmax",
]
