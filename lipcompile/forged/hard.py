"""Form `hard`: zero up to the threshold, unchanged above it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from lipcompile.forged.base import Emitter, Encoding, EncodingContext, ForgedFunction

# ONNX Runtime's CPU provider has a ThresholdedRelu kernel for these types alone (float16
# through a Cast that it inserts itself).
_THRESHOLDED_RELU_TYPES = frozenset({"float16", "float32"})


@dataclass(frozen=True, slots=True)
class Hard(ForgedFunction):
    """f_c(x) = x if |x| > c else 0 (hard thresholding, arXiv 2406.19622).

    The function jumps by c at |x| = c, so no Lipschitz constant exists and no certificate
    holds. Where the site is never negative, ThresholdedRelu with alpha = c is the same
    function.
    """

    name: ClassVar[str] = "hard"

    def __call__(self, x: np.ndarray, c: float) -> np.ndarray:
        return np.where(np.abs(x) > np.asarray(c, dtype=x.dtype), x, np.zeros_like(x))

    @property
    def slope(self) -> float:
        return math.inf

    def working_type(self, dtype: str) -> str:
        return dtype

    def constants(self, c: float) -> tuple[float, ...]:
        return (c,)

    def encoding(self, context: EncodingContext) -> Encoding:
        if context.opset >= 10 and context.dtype in _THRESHOLDED_RELU_TYPES:
            if context.replaceable_relu:
                return Encoding(
                    "Relu -> ThresholdedRelu", _thresholded_relu, replaces_relu=True
                )
            if context.nonnegative:
                return Encoding("ThresholdedRelu", _thresholded_relu)
        # Relu and Where know bfloat16 only from opset 14 and 16 on; float32 holds it exactly.
        through = "float32" if context.dtype == "bfloat16" else context.dtype
        operators = [] if context.nonnegative else ["Abs"]
        operators += ["Greater", "Where"] if context.opset >= 9 else ["Greater", "Cast", "Mul"]
        if through != context.dtype:
            operators = ["Cast", *operators, "Cast"]

        def build(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
            wide = x if through == context.dtype else emit.cast(x, through)
            magnitude = wide if context.nonnegative else emit("Abs", wide)
            keep = emit("Greater", magnitude, emit.constant(c, through))
            if context.opset >= 9:
                kept = emit("Where", keep, wide, emit.constant(0.0, through))
            else:
                kept = emit("Mul", wide, emit.cast(keep, through))
            return kept if through == context.dtype else emit.cast(kept, context.dtype)

        return Encoding(", ".join(operators), build)


def _thresholded_relu(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
    """x if x > c else 0: exact on x >= 0, and on what a Relu would read."""
    return emit("ThresholdedRelu", x, attributes={"alpha": c})
