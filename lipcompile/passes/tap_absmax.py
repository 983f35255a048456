"""Taps: nodes that reduce every site to a few scalars, so that only those leave the session.

At each site x:
    max    ReduceMax(x)
    min    ReduceMin(x), left out where x is never negative
    sum    ReduceSum(x), which is NaN or infinite whenever x holds a NaN or an infinity
In front of a convolution, GlobalMaxPool and GlobalAveragePool come first where x is never
negative: ONNX Runtime computes them in its blocked layout, which a ReduceMax of the whole
tensor would make it leave at every site. The 16-bit types are cast to float32 first, in which
a sum of ordinary activations does not overflow.
ReduceMax alone would not do: ONNX Runtime's CPU kernel ignores NaN everywhere but in the first
position (https://github.com/microsoft/onnxruntime/issues/10514). A sum of finite numbers can
overflow as well, so a bad sum is a suspicion: the scan then counts in the tensor itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lipcompile.ops import MARK
from lipcompile.sites import Site


@dataclass(frozen=True, slots=True)
class AbsmaxTap:
    """The taps of one site.

    Attributes:
        tensor: Name of the site.
        nodes: The operators to append to the graph; those that none of them reads give
            scalars.
    """

    tensor: str
    nodes: tuple[ir.Node, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """What it measures."""
        return (self.tensor,)

    @property
    def outputs(self) -> tuple[str, ...]:
        ends = [node.outputs[0] for node in self.nodes if not node.outputs[0].uses()]
        return tuple(value.name or "" for value in ends)

    def read(self, results: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        """Returns max |x|, exactly, and whether every element is known to be finite."""
        *extremes, total = (float(results[name]) for name in self.outputs)
        return max(abs(value) for value in extremes), math.isfinite(total)


def tap_absmax(sites: Sequence[Site]) -> tuple[AbsmaxTap, ...]:
    """Makes the taps of `sites`; the graph is not edited."""
    return tuple(_tap(site, index) for index, site in enumerate(sites))


def _tap(site: Site, index: int) -> AbsmaxTap:
    x = ir.Value(name=site.tensor)  # by name: the taps go into a copy of the graph
    dtype = ir.DataType.from_numpy(np.dtype(site.dtype))
    is_narrow = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    is_blocked = site.nonnegative and site.channels and dtype == ir.DataType.FLOAT
    dtype = ir.DataType.FLOAT if is_narrow else dtype
    nodes: list[ir.Node] = []

    def add(op_type: str, source: ir.Value, **attributes: int) -> ir.Value:
        name = f"{MARK}/tap/{index}/{op_type}"
        shape = ir.Shape([]) if "keepdims" in attributes else None
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
        nodes.append(ir.node(op_type, [source], attributes, outputs=[value], name=name))
        return value

    if is_narrow:
        x = add("Cast", x, to=dtype.value)
    largest = add("GlobalMaxPool", x) if is_blocked else x
    total = add("GlobalAveragePool", x) if is_blocked else x
    add("ReduceMax", largest, keepdims=0)
    if not site.nonnegative:
        add("ReduceMin", x, keepdims=0)
    add("ReduceSum", total, keepdims=0)
    return AbsmaxTap(site.tensor, tuple(nodes))
