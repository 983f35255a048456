"""What a rewrite costs ONNX Runtime's optimiser, read from the graphs that it really runs.

ONNX Runtime fuses activations and sums into convolutions and matrix products, and on the CPU
runs convolutions on a layout blocked by channels (NCHWc). An operator in between can prevent
both. `open_session(..., optimized=path)` writes the graph after optimisation; two of those
are compared here.
https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

_BLOCKED_DOMAIN = "com.microsoft.nchwc"
_REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
# Operators -> the input that a fused residual sum takes.
_SUM_INPUT = {"Conv": 3, "FusedConv": 3}
# ONNX's own operators that a QDQ model does not hold, and gets by fusion.
_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})


@dataclass(frozen=True, slots=True)
class LostFusions:
    """Operators of an optimised graph, before and after a rewrite.

    An operator is named by its type, the activation fused into it, and "+sum" where it adds a
    residual as well: "Conv/Relu+sum". "blocked" in front says that it runs on the layout
    blocked by channels.

    Attributes:
        before: How many of each operator the original's optimised graph has.
        after: The same of the rewritten model's.
        made: Those of them that come from fusion or from the blocked layout: operators of ONNX
            Runtime's own, and integer operators.
    """

    before: Mapping[str, int]
    after: Mapping[str, int]
    made: frozenset[str]

    @property
    def lost(self) -> dict[str, int]:
        """Fused or blocked operators that are fewer now, and by how many."""
        return {name: -n for name, n in self._changes().items() if n < 0 and name in self.made}

    @property
    def added(self) -> dict[str, int]:
        """Operators that are more now, and by how many."""
        return {name: n for name, n in self._changes().items() if n > 0}

    def _changes(self) -> dict[str, int]:
        names = sorted({*self.before, *self.after})
        changes = {n: self.after.get(n, 0) - self.before.get(n, 0) for n in names}
        return {name: change for name, change in changes.items() if change}

    def to_json(self) -> dict[str, Any]:
        return {
            "before": dict(sorted(self.before.items())),
            "after": dict(sorted(self.after.items())),
            "lost": self.lost,
            "added": self.added,
        }

    def __str__(self) -> str:
        """ "+16 Mul, -1 Relu, blocked Conv/Relu 33 -> 17": first what came, then what went."""
        changes = self._changes()
        if not changes:
            return "the same operators"
        plain = {name: n for name, n in changes.items() if n > 0 or name not in self.made}
        parts = [f"{n:+d} {name}" for name, n in sorted(plain.items(), key=lambda i: -i[1])]
        parts += [
            f"{name} {self.before[name]} -> {self.after.get(name, 0)}" for name in self.lost
        ]
        return ", ".join(parts)


def lost_fusions(before: ir.Model, after: ir.Model) -> LostFusions:
    """Compares two graphs that ONNX Runtime optimised, subgraphs included.

    Args:
        before: The original's optimised graph.
        after: The rewritten model's, optimised by the same build on the same machine.
    """
    described = [[_describe(n) for n in _operators(model)] for model in (before, after)]
    old, new = (Counter(name for name, _ in one) for one in described)
    return LostFusions(
        old, new, frozenset(name for one in described for name, made in one if made)
    )


def _operators(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph.all_nodes() if node.op_type != "Constant"]


def _describe(node: ir.Node) -> tuple[str, bool]:
    """The node's name here, and whether fusion or the blocked layout made it."""
    name = node.op_type
    activation = node.attributes.get("activation")
    if activation is not None and activation.type == ir.AttributeType.STRING:
        name += f"/{activation.as_string()}"
    is_own = node.domain not in ("", "ai.onnx", "ai.onnx.ml")
    position = _SUM_INPUT.get(node.op_type)
    if is_own and position is not None and any(node.inputs[position:]):
        name += "+sum"
    if node.domain == _BLOCKED_DOMAIN and node.op_type not in _REORDERS:
        name = f"blocked {name}"
    return name, is_own or node.op_type in _INTEGER
