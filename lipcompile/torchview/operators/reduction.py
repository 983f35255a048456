"""Reductions over axes: sums, norms and extrema."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lipcompile.torchview.dtypes import widened
from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator

Axes = tuple[int, ...]
Reduction = Callable[[torch.Tensor, Axes, bool], torch.Tensor]


def _reduction(name: str, reduce: Reduction) -> None:
    """Registers a reduction: `reduce` gets at least one axis."""

    def build(node: NodeView) -> Operation:
        keepdims = bool(node.attribute("keepdims", 1))
        noop = bool(node.attribute("noop_with_empty_axes", 0))
        fixed = node.attribute("axes")
        axes = node.numbers(1) if fixed is None else lambda _: fixed

        def run(*arguments: torch.Tensor) -> torch.Tensor:
            x = arguments[0]
            given = axes(arguments)
            if x.ndim == 0 or (noop and not given):
                # No axis is reduced, but ReduceSumSquare still squares.
                return reduce(x.unsqueeze(-1), (-1,), False)
            return reduce(x, tuple(given or range(x.ndim)), keepdims)

        return run

    operator(name)(build)


def _in_float(reduce: Reduction) -> Reduction:
    """For functions that torch has for floats only; the result has the type of x."""

    def run(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
        if x.is_floating_point():
            return reduce(x, axes, keepdims)
        return reduce(x.double(), axes, keepdims).to(x.dtype)

    return run


def _prod(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdims, dtype=x.dtype)
    return x


def _max(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
    return x.amax(axes, keepdim=keepdims) if x.numel() else _extreme(x, axes, keepdims, -1)


def _min(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
    return x.amin(axes, keepdim=keepdims) if x.numel() else _extreme(x, axes, keepdims, 1)


def _extreme(x: torch.Tensor, axes: Axes, keepdims: bool, sign: int) -> torch.Tensor:
    """The neutral element of a minimum (sign 1) or maximum (-1) over nothing."""
    sums = x.sum(axes, keepdim=keepdims, dtype=x.dtype)
    if x.is_floating_point():
        return sums + sign * torch.inf
    limits = (0, 1) if x.dtype == torch.bool else _limits(x.dtype)
    return torch.full_like(sums, limits[sign > 0])


def _limits(dtype: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return int(info.min), int(info.max)


def _sum(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
    return widened(lambda t: t.sum(axes, keepdim=keepdims, dtype=t.dtype))(x)


def _l2(x: torch.Tensor, axes: Axes, keepdims: bool) -> torch.Tensor:
    # Unlike sqrt(sum(x * x)) it has a gradient, 0, at x = 0.
    norm: torch.Tensor = torch.linalg.vector_norm(x, 2, axes, keepdims)
    return norm


_reduction("ReduceSum", _sum)
_reduction("ReduceMean", _in_float(lambda x, axes, keep: x.mean(axes, keepdim=keep)))
_reduction("ReduceMax", _max)
_reduction("ReduceMin", _min)
_reduction("ReduceProd", _prod)
_reduction("ReduceL1", lambda x, axes, keep: _sum(x.abs(), axes, keep))
_reduction("ReduceL2", _in_float(_l2))
_reduction("ReduceLogSum", _in_float(lambda x, axes, keep: _sum(x, axes, keep).log()))
_reduction("ReduceLogSumExp", _in_float(lambda x, axes, keep: x.logsumexp(axes, keep)))
_reduction("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep))
