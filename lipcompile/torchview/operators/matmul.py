"""Matrix products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator, pointwise

pointwise("MatMul", torch.matmul)


@operator("Gemm")
def gemm(node: NodeView) -> Operation:
    """alpha A' B' + beta C, where A' and B' may be transposed."""
    transpose_a, transpose_b = node.attribute("transA", 0), node.attribute("transB", 0)
    scales = {"alpha": node.attribute("alpha", 1.0), "beta": node.attribute("beta", 1.0)}
    # A scale of 1 is left out: integers take no float scale.
    scales = {name: value for name, value in scales.items() if value != 1.0}
    plain = transpose_b and not transpose_a and not scales

    def run(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        if plain and (c is None or c.ndim == 1):
            return F.linear(a, b, c)
        a = a.t() if transpose_a else a
        b = b.t() if transpose_b else b
        if c is not None:
            return torch.addmm(c, a, b, **scales)
        product = torch.mm(a, b)
        return product * scales["alpha"] if "alpha" in scales else product

    return run


@operator("Einsum")
def einsum(node: NodeView) -> Operation:
    equation = node.attribute("equation")

    def run(*operands: Any) -> torch.Tensor:
        result: torch.Tensor = torch.einsum(equation, *operands)
        return result

    return run
