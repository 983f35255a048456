"""Pooling: maxima, means and norms over windows, or over all spatial dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.operators.windows import Pads, Windows, pad, read_windows
from lipcompile.torchview.registry import Operation, operator, pointwise

# By the rank of the input.
_MAXIMA: dict[int, Callable[..., torch.Tensor]] = {
    3: torch.max_pool1d,
    4: torch.max_pool2d,
    5: torch.max_pool3d,
}
_POSITIONS: dict[int, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    3: F.max_pool1d_with_indices,
    4: F.max_pool2d_with_indices,
    5: F.max_pool3d_with_indices,
}
_MEANS: dict[int, Callable[..., torch.Tensor]] = {
    3: F.avg_pool1d,
    4: F.avg_pool2d,
    5: F.avg_pool3d,
}


def _spatial(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


pointwise("GlobalAveragePool", lambda x: x.mean(_spatial(x), keepdim=True))
pointwise("GlobalMaxPool", lambda x: x.amax(_spatial(x), keepdim=True))


@operator("GlobalLpPool")
def global_lp_pool(node: NodeView) -> Operation:
    p = node.attribute("p", 2)
    return lambda x: torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)


@operator("MaxPool")
def max_pool(node: NodeView) -> Operation:
    windows = _windows(node)
    if node.wants_output(1):
        column_major = bool(node.attribute("storage_order", 0))
        return lambda x: _max_with_indices(x, windows, column_major)
    kernel, strides = windows.kernel, windows.strides or 1
    dilations, even = windows.dilations or 1, _torch_pads(windows)

    def run(x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return _max_of_integers(x, windows)
        maximum = _MAXIMA[x.dim()]
        if even is not None:
            return maximum(x, kernel, strides, even or 0, dilations, windows.ceil_mode)
        padded = pad(x, windows.covering_pads(x.shape[2:]), -math.inf)
        return maximum(padded, kernel, strides, 0, dilations)

    return run


def _max_of_integers(x: torch.Tensor, windows: Windows) -> torch.Tensor:
    """torch pools few integer types; float64 holds the 8-bit ones that ONNX allows."""
    padded = pad(x.double(), windows.covering_pads(x.shape[2:]), -math.inf)
    pooled = _MAXIMA[x.dim()](
        padded, windows.kernel, windows.strides or 1, 0, windows.dilations or 1
    )
    return pooled.to(x.dtype)


def _max_with_indices(
    x: torch.Tensor, windows: Windows, column_major: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maxima, and where in the whole of `x` they are."""
    sizes = x.shape[2:]
    pads = windows.covering_pads(sizes)
    padded = pad(x if x.is_floating_point() else x.double(), pads, -math.inf)
    maxima, places = _POSITIONS[x.dim()](
        padded, windows.kernel, windows.strides or 1, 0, windows.dilations or 1
    )
    flat = torch.zeros_like(places)
    step = math.prod(sizes)
    for axis, (begin, _) in enumerate(pads):  # places are in a plane of `padded`
        below = math.prod(padded.shape[axis + 3 :])
        step = step // sizes[axis] if not column_major else math.prod(sizes[:axis])
        flat = flat + (torch.div(places, below, rounding_mode="floor") - begin) * step
        places = places % below
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * math.prod(sizes)
    offset = planes.reshape(*x.shape[:2], *[1] * len(sizes))
    return maxima.to(x.dtype), flat + offset


@operator("AveragePool")
def average_pool(node: NodeView) -> Operation:
    windows = _windows(node)
    count_pads = bool(node.attribute("count_include_pad", 0))
    even = _torch_pads(windows)
    kernel, strides = windows.kernel, windows.strides or 1
    if even is not None and not _dilated(windows):
        padding, ceil_mode = even or 0, windows.ceil_mode
        return lambda x: _MEANS[x.dim()](x, kernel, strides, padding, ceil_mode, count_pads)

    def run(x: torch.Tensor) -> torch.Tensor:
        """Sums over how many elements each window has: those over the end never count."""
        sizes = x.shape[2:]
        covering = windows.covering_pads(sizes)
        own = windows.pads_for(sizes, windows.kernel) if count_pads else _none(len(sizes))
        counted = pad(x.new_ones(1, 1, *sizes), own, 1)
        rest = tuple((a - c, b - d) for (a, b), (c, d) in zip(covering, own, strict=True))
        counts = _sums(pad(counted, rest), windows)
        return _sums(pad(x, covering), windows) / counts.clamp(min=1)

    return run


@operator("LpPool")
def lp_pool(node: NodeView) -> Operation:
    """(sum |x|^p)^(1/p)."""
    windows = _windows(node)
    p = node.attribute("p", 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        padded = pad(x.abs().pow(p), windows.covering_pads(x.shape[2:]))
        sums = _sums(padded, windows)
        empty = sums == 0  # where the root has no gradient
        root = sums.masked_fill(empty, 1).pow(1 / p)
        return root.masked_fill(empty, 0)

    return run


def _sums(padded: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Sum over each window inside `padded`."""
    kernel = windows.kernel
    if not _dilated(windows):
        mean = _MEANS[padded.dim()](padded, kernel, windows.strides or 1)
        return mean * math.prod(kernel)
    steps = [windows.step(axis) for axis in range(len(kernel))]
    counts = [
        (size - (width - 1) * dilation - 1) // stride + 1
        for size, width, (stride, dilation) in zip(
            padded.shape[2:], kernel, steps, strict=True
        )
    ]
    total = None
    for place in itertools.product(*map(range, kernel)):
        cut = tuple(
            slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
            for at, count, (stride, dilation) in zip(place, counts, steps, strict=True)
        )
        part = padded[(slice(None), slice(None), *cut)]
        total = part if total is None else total + part
    assert total is not None
    return total


def _windows(node: NodeView) -> Windows:
    windows = read_windows(node)
    if not windows.kernel:
        raise node.refuse("has no kernel_shape")
    if len(windows.kernel) > 3:
        raise node.refuse(f"pools {len(windows.kernel)} dimensions; torch pools up to 3")
    return windows


def _torch_pads(windows: Windows) -> tuple[int, ...] | None:
    """Pads that torch accepts as its own, or None."""
    even = windows.even_pads
    if even is None or any(2 * p > k for p, k in zip(even, windows.kernel, strict=False)):
        return None
    return even


def _dilated(windows: Windows) -> bool:
    return any(d != 1 for d in windows.dilations)


def _none(rank: int) -> Pads:
    return ((0, 0),) * rank
