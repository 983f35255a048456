"""How the operators of ONNX become steps; importing this package fills the registry."""

from __future__ import annotations

from lipcompile.certifying.lipschitz.operators import (
    activations,
    affine,
    arithmetic,
    gates,
    pooling,
    shapes,
)

__all__ = ["activations", "affine", "arithmetic", "gates", "pooling", "shapes"]
