"""Windows that slide over spatial axes: what convolution and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lipcompile.torchview.node import NodeView

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """Attributes of a node with windows; () stands for what the node leaves out.

    Attributes:
        kernel: Sizes of the window.
        strides: Steps between windows.
        dilations: Steps between the elements of a window.
        pads: (begin, end) per axis.
        same: "SAME_UPPER" or "SAME_LOWER" where the pads follow from the input's sizes.
        ceil_mode: Whether a last window may hang over the end.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    same: str
    ceil_mode: bool

    @property
    def even_pads(self) -> tuple[int, ...] | None:
        """Pads per axis where both sides have the same and it is known; () for none."""
        if self.same or any(begin != end or begin < 0 for begin, end in self.pads):
            return None
        return tuple(begin for begin, _ in self.pads)

    def pads_for(self, sizes: Sequence[int], kernel: Sequence[int]) -> Pads:
        """The pads of an input with the spatial `sizes`."""
        if not self.same:
            return self.pads or ((0, 0),) * len(sizes)
        pads = []
        for axis, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
            stride, dilation = self.step(axis)
            extent = (width - 1) * dilation + 1
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            pads.append(halves(total, self.same == "SAME_UPPER"))
        return tuple(pads)

    def covering_pads(self, sizes: Sequence[int]) -> Pads:
        """The pads with which windows that must fit inside are those of `ceil_mode` too."""
        pads = self.pads_for(sizes, self.kernel)
        if not self.ceil_mode or self.same:
            return pads
        covering = []
        for axis, (size, (begin, end)) in enumerate(zip(sizes, pads, strict=True)):
            stride, dilation = self.step(axis)
            extent = (self.kernel[axis] - 1) * dilation + 1
            count = -(-(size + begin + end - extent) // stride) + 1
            if (count - 1) * stride >= size + begin:  # it would start behind the input
                count -= 1
            covering.append((begin, max((count - 1) * stride + extent - size - begin, end)))
        return tuple(covering)

    def step(self, axis: int) -> tuple[int, int]:
        """Stride and dilation of an axis."""
        return (
            self.strides[axis] if self.strides else 1,
            self.dilations[axis] if self.dilations else 1,
        )


def read_windows(node: NodeView) -> Windows:
    """The windows of a convolution or pooling node."""

    def numbers(name: str) -> tuple[int, ...]:
        return tuple(node.attribute(name) or ())

    auto_pad = node.attribute("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"has auto_pad = '{auto_pad}', which ONNX does not define")
    pads = numbers("pads") if auto_pad == "NOTSET" else ()
    rank = len(pads) // 2
    return Windows(
        numbers("kernel_shape"),
        numbers("strides"),
        numbers("dilations"),
        tuple(zip(pads[:rank], pads[rank:], strict=True)) if any(pads) else (),
        auto_pad if auto_pad.startswith("SAME") else "",
        bool(node.attribute("ceil_mode", 0)),  # ONNX Runtime's VALID heeds it too
    )


def halves(total: int, upper: bool) -> tuple[int, int]:
    """`total` as (begin, end); the odd one goes to the end where `upper`."""
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def pad(x: torch.Tensor, pads: Pads, value: float = 0) -> torch.Tensor:
    """`x` with its last axes padded by (begin, end), or cropped where that is negative."""
    if not any(begin or end for begin, end in pads):
        return x
    return F.pad(x, [amount for pair in reversed(pads) for amount in pair], value=value)
