"""Taps that count: how many elements of each input feature stay above each threshold.

At each site x, for one axis of input features and every threshold c:
    size    Size(x)
    kept    ReduceSum(Cast(Greater(|x|, c))) over every axis but that of the features, as int32
Both are exact and add up over samples. What form `hard` with the same c sets to 0 is the rest:
suppressed = size / features - kept. A NaN counts as suppressed, as `hard` would have it; the
scan refuses or leaves out samples that hold one.
Cases, for the axis that `Columns.data_axis` names:
    1. The last one (1 of a Gemm, -1 of a MatMul, whose rank may be unknown): x becomes
       [-1, features], and axis 0 is summed.
    2. Another one (a convolution, 0 of a Gemm, -2 of a MatMul): the last axis is summed first,
       in float32, of which ONNX Runtime's sums are about ten times quicker; exact along an
       axis of up to 2^24 elements. The rest is summed in int32.
The 16-bit types are cast to float32, which holds x and c exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lipcompile.ops import MARK
from lipcompile.sites import Site
from lipcompile.weights import Columns, layer_columns

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_INT = ir.DataType.INT32.value
_Declared = tuple[ir.DataType, list[int]]  # element type and shape


@dataclass(frozen=True, slots=True)
class CountTap:
    """The taps of one site and one axis.

    Attributes:
        tensor: Name of the site.
        axis: Its axis of input features, as in `Columns.data_axis`.
        thresholds: Each c, in the unit of x.
        nodes: The operators to append to the graph; those that none of them reads give the
            size, int64 [], and for each c what it keeps, int32 [features].
    """

    tensor: str
    axis: int
    thresholds: tuple[float, ...]
    nodes: tuple[ir.Node, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """What it measures."""
        return self.tensor, self.axis, self.thresholds

    @property
    def outputs(self) -> tuple[str, ...]:
        ends = [node.outputs[0] for node in self.nodes if not node.outputs[0].uses()]
        return tuple(value.name or "" for value in ends)

    def read(self, results: Mapping[str, np.ndarray]) -> tuple[int, list[np.ndarray]]:
        """Returns what `results`, of one run or the sum of several, tell.

        Returns:
            How often each feature occurred, and for each c how many elements of each feature
            were suppressed: int64 [features].
        """
        size, *kept = (results[name] for name in self.outputs)
        seen = int(size) // len(kept[0])
        return seen, [seen - counts.astype(np.int64) for counts in kept]


def tap_suppressed(
    sites: Iterable[Site], thresholds: Mapping[str, Sequence[float]], opset: int
) -> tuple[CountTap, ...]:
    """Makes the taps of `sites`; the graph is not edited.

    A layer whose weight cannot be edited asks for no count.

    Args:
        sites: The sites.
        thresholds: Each c of a site, by its tensor, rounded to its dtype; sites without any
            are left out.
        opset: Version of the default operator set.
    """
    wanted: dict[tuple[str, int], tuple[Site, Columns]] = {}
    for site in sites:
        for layer in site.layers if thresholds.get(site.tensor) else ():
            columns = layer_columns(layer)
            if isinstance(columns, Columns):
                wanted.setdefault((site.tensor, columns.data_axis), (site, columns))
    taps: list[CountTap] = []
    for site, columns in wanted.values():
        build = _Builder(f"{MARK}/count/{len(taps)}", site, columns, opset)
        taps.append(build.tap(tuple(thresholds[site.tensor])))
    return tuple(taps)


class _Builder:
    """Builds the nodes of one tap."""

    def __init__(self, prefix: str, site: Site, columns: Columns, opset: int) -> None:
        self._prefix = prefix
        self._site = site
        self._columns = columns
        self._opset = opset
        self._nodes: list[ir.Node] = []

    def tap(self, thresholds: tuple[float, ...]) -> CountTap:
        x = ir.Value(name=self._site.tensor)  # by name: the taps go into a copy of the graph
        self._add("Size", x, ends=(ir.DataType.INT64, []))
        dtype = ir.DataType.from_numpy(np.dtype(self._site.dtype))
        if dtype in _NARROW:
            dtype = ir.DataType.FLOAT
            x = self._add("Cast", x, to=dtype.value)
        if not self._site.nonnegative:
            x = self._add("Abs", x)
        is_last = self._is_last()
        x = self._rows(x) if is_last and self._axis < 0 else x
        for c in thresholds:
            above = self._add("Greater", x, self._constant(np.asarray(c, dtype.numpy())))
            if is_last:  # Case 1
                self._sum(self._add("Cast", above, to=_INT), [0], end=True)
            else:
                self._sum_in_two_steps(above)
        return CountTap(self._site.tensor, self._axis, thresholds, tuple(self._nodes))

    def _is_last(self) -> bool:
        shape = self._site.value.shape
        is_vector = shape is not None and len(shape) == 1  # MatMul reads its only axis
        is_gemm = len(self._columns.shape) == 2 and self._axis == 1
        return self._axis == -1 or is_gemm or (self._axis == -2 and is_vector)

    def _sum_in_two_steps(self, above: ir.Value) -> None:
        """Case 2."""
        rank = len(self._columns.shape)  # which is that of the data, but for MatMul
        last = -1 if self._axis < 0 else rank - 1
        line = self._sum(self._add("Cast", above, to=ir.DataType.FLOAT.value), [last])
        if self._axis < 0:
            self._sum(self._rows(self._add("Cast", line, to=_INT)), [0], end=True)
        elif rank == 2:
            self._add("Cast", line, to=_INT, ends=self._counts)
        else:
            others = [axis for axis in range(rank - 1) if axis != self._axis]
            self._sum(self._add("Cast", line, to=_INT), others, end=True)

    @property
    def _axis(self) -> int:
        return self._columns.data_axis

    @property
    def _counts(self) -> _Declared:
        return ir.DataType.INT32, [self._columns.count]

    def _rows(self, x: ir.Value) -> ir.Value:
        shape = np.array([-1, self._columns.count])
        if self._opset >= 9:
            return self._add("Reshape", x, self._constant(shape))
        listed = self._constant(shape.astype(np.float64))  # Constant knew no integers before
        return self._add("Reshape", x, self._add("Cast", listed, to=ir.DataType.INT64.value))

    def _sum(self, x: ir.Value, axes: list[int], *, end: bool = False) -> ir.Value:
        ends = self._counts if end else None
        if self._opset >= 13:
            listed = self._constant(np.array(axes))
            return self._add("ReduceSum", x, listed, ends=ends, keepdims=0)
        return self._add("ReduceSum", x, ends=ends, keepdims=0, axes=axes)

    def _constant(self, array: np.ndarray) -> ir.Value:
        return self._add("Constant", value=ir.tensor(array))

    def _add(
        self,
        op_type: str,
        *inputs: ir.Value,
        ends: _Declared | None = None,
        **attributes: int | list[int] | ir.TensorProtocol,
    ) -> ir.Value:
        """Adds a node; `ends` declares a value that leaves the graph."""
        name = f"{self._prefix}/{op_type}_{len(self._nodes)}"
        value = ir.Value(name=name)
        if ends is not None:
            value.type, value.shape = ir.TensorType(ends[0]), ir.Shape(ends[1])
        self._nodes.append(ir.node(op_type, inputs, attributes, outputs=[value], name=name))
        return value
