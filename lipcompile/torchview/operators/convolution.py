"""Convolutions, in one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.operators.windows import Pads, Windows, halves, pad, read_windows
from lipcompile.torchview.registry import Operation, operator

# By the rank of the input.
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


@operator("Conv")
def convolution(node: NodeView) -> Operation:
    windows = read_windows(node)
    groups = node.attribute("group", 1)
    strides, dilations = windows.strides or 1, windows.dilations or 1
    even = windows.even_pads
    if even is not None:
        padding = even or 0

        def run(
            x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            convolve = _CONVOLUTIONS[_rank(x)]
            return convolve(x, weight, bias, strides, padding, dilations, groups)

        return run

    def run_padded(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        pads = windows.pads_for(x.shape[2:], weight.shape[2:])
        convolve = _CONVOLUTIONS[_rank(x)]
        if all(begin == end >= 0 for begin, end in pads):
            inside = tuple(begin for begin, _ in pads)
            return convolve(x, weight, bias, strides, inside, dilations, groups)
        return convolve(pad(x, pads), weight, bias, strides, 0, dilations, groups)

    return run_padded


@operator("ConvTranspose")
def transposed_convolution(node: NodeView) -> Operation:
    """torch pads both sides alike; what that cannot say is cropped from the full output."""
    windows = read_windows(node)
    groups = node.attribute("group", 1)
    extra = node.attribute("output_padding") or ()
    target = node.attribute("output_shape")
    upper = node.attribute("auto_pad", "NOTSET") == "SAME_UPPER"

    def run(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        rank = _rank(x) - 2
        extras = extra or [0] * rank
        natural = _full_sizes(windows, x.shape[2:], weight.shape[2:], extras)
        wanted = target[-rank:] if target else _same_sizes(windows, x.shape[2:])
        pads: Pads = windows.pads or ((0, 0),) * rank
        if wanted:
            excess = [n - w for n, w in zip(natural, wanted, strict=True)]
            pads = tuple(halves(max(e, 0), upper) for e in excess)
            if target:  # the end of a larger output is empty
                extras = [e + max(-n, 0) for e, n in zip(extras, excess, strict=True)]
        # torch's output_padding takes from the end's crop.
        ends = [e + begin - end for e, (begin, end) in zip(extras, pads, strict=True)]
        steps = [max(windows.step(axis)) for axis in range(rank)]
        strides, dilations = windows.strides or 1, windows.dilations or 1
        convolve = _TRANSPOSED[rank + 2]
        if all(0 <= e < s for e, s in zip(ends, steps, strict=True)):
            begins = [begin for begin, _ in pads]
            return convolve(x, weight, bias, strides, begins, ends, groups, dilations)
        full = convolve(x, weight, None, strides, 0, 0, groups, dilations)
        crop = [(-begin, e - end) for e, (begin, end) in zip(extras, pads, strict=True)]
        result = pad(full, tuple(crop))
        return result if bias is None else result + bias.reshape(-1, *[1] * rank)

    return run


def _full_sizes(
    windows: Windows, sizes: Sequence[int], kernel: Sequence[int], extras: Sequence[int]
) -> list[int]:
    """Spatial sizes of a transposed convolution's output before it is cropped."""
    full = []
    for axis, (size, width, extra) in enumerate(zip(sizes, kernel, extras, strict=True)):
        stride, dilation = windows.step(axis)
        full.append(stride * (size - 1) + extra + (width - 1) * dilation + 1)
    return full


def _same_sizes(windows: Windows, sizes: Sequence[int]) -> list[int]:
    if not windows.same:
        return []
    return [size * windows.step(axis)[0] for axis, size in enumerate(sizes)]


def _rank(x: torch.Tensor) -> int:
    if not 3 <= x.dim() <= 5:
        raise ValueError(f"torch convolves 1 to 3 spatial dimensions, not {x.dim() - 2}")
    return x.dim()
