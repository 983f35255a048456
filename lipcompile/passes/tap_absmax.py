"""Taps: nodes that reduce every site to a few scalars, so that only those leave the session.

At each site x:
    max    ReduceMax(x)
    min    ReduceMin(x), left out where x is never negative
    sum    ReduceSum(x), which is NaN or infinite whenever x holds a NaN or an infinity
In front of a convolution, GlobalMaxPool and GlobalAveragePool come first where x is never
negative: ONNX Runtime computes them in its blocked layout, which a ReduceMax of the whole
tensor would make it leave at every site.
ReduceMax alone would not do: ONNX Runtime's CPU kernel ignores NaN everywhere but in the first
position (https://github.com/microsoft/onnxruntime/issues/10514). A sum of finite numbers can
overflow as well, so a bad sum is a suspicion: the scan then counts in the tensor itself.
"""

from __future__ import annotations

import functools
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
    reduce = functools.partial(_reduce, site, index)
    if not site.nonnegative:
        chains = [[reduce(op, x)] for op in ("ReduceMax", "ReduceMin", "ReduceSum")]
    elif site.channels is None or site.dtype != "float32":
        chains = [[reduce(op, x)] for op in ("ReduceMax", "ReduceSum")]
    else:
        pools = [_node(site, index, op, x) for op in ("GlobalMaxPool", "GlobalAveragePool")]
        ends = [
            reduce("ReduceMax", pools[0].outputs[0]),
            reduce("ReduceSum", pools[1].outputs[0]),
        ]
        chains = [list(chain) for chain in zip(pools, ends, strict=True)]
    return AbsmaxTap(site.tensor, tuple(node for chain in chains for node in chain))


def _reduce(site: Site, index: int, op_type: str, source: ir.Value) -> ir.Node:
    node = _node(site, index, op_type, source, {"keepdims": 0})
    node.outputs[0].shape = ir.Shape([])
    return node


def _node(
    site: Site,
    index: int,
    op_type: str,
    source: ir.Value,
    attributes: Mapping[str, int] | None = None,
) -> ir.Node:
    name = f"{MARK}/tap/{index}/{op_type}"
    value = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.from_numpy(np.dtype(site.dtype)))
    )
    return ir.node(op_type, [source], attributes, outputs=[value], name=name)
