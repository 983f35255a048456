"""Taps: nodes that reduce every site to a few scalars, so that only those leave the session.

At each site x:
    max    ReduceMax(x)
    min    ReduceMin(x), left out where x is never negative
    sum    ReduceSum(x), which is NaN or infinite whenever x holds a NaN or an infinity
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
        nodes: The reductions to append to the graph; each one's output is a scalar.
    """

    tensor: str
    nodes: tuple[ir.Node, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(node.outputs[0].name or "" for node in self.nodes)

    def read(self, results: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        """Returns max |x|, exactly, and whether every element is known to be finite."""
        *extremes, total = (float(results[name]) for name in self.outputs)
        return max(abs(value) for value in extremes), math.isfinite(total)


def tap_absmax(sites: Sequence[Site]) -> tuple[AbsmaxTap, ...]:
    """Makes the taps of `sites`; the graph is not edited."""
    return tuple(_tap(site, index) for index, site in enumerate(sites))


def _tap(site: Site, index: int) -> AbsmaxTap:
    reductions = ["ReduceMax", "ReduceSum"] if site.nonnegative else []
    reductions = reductions or ["ReduceMax", "ReduceMin", "ReduceSum"]
    source = ir.Value(name=site.tensor)  # by name: the taps go into a copy of the graph
    return AbsmaxTap(site.tensor, tuple(_reduce(op, source, site, index) for op in reductions))


def _reduce(op_type: str, source: ir.Value, site: Site, index: int) -> ir.Node:
    name = f"{MARK}/tap/{index}/{op_type}"
    dtype = ir.DataType.from_numpy(np.dtype(site.dtype))
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([]))
    return ir.node(op_type, [source], {"keepdims": 0}, outputs=[value], name=name)
