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

_SMALLEST_STEP = 2.0**-100  # below, the slope would overflow


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
        if context.target == "ort-cpu" and _steps(context):
            return _gated(context)
        if context.opset >= 10 and context.dtype in _THRESHOLDED_RELU_TYPES:
            if context.replaceable_relu:
                label, why = "Relu -> ThresholdedRelu", "one operator computes both"
                return Encoding(label, _thresholded_relu, way="relu", why=why)
            if context.nonnegative:
                return Encoding("ThresholdedRelu", _thresholded_relu, why="one operator")
        if context.target == "ort-cuda" and context.has_shrink:
            return Encoding("Shrink", _shrink, why="one kernel, for either sign")
        return _selected(context)


def _thresholded_relu(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
    """x if x > c else 0: exact on x >= 0, and on what a Relu would read."""
    return emit("ThresholdedRelu", x, attributes={"alpha": c})


def _shrink(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
    return emit("Shrink", x, attributes={"lambd": c, "bias": 0.0})


def _selected(context: EncodingContext) -> Encoding:
    """Greater and Where, which every runtime has."""
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

    why = "compares and copies: exact in every type, and known to every runtime"
    return Encoding(", ".join(operators), build, why=why)


def _steps(context: EncodingContext) -> bool:
    """Whether a HardSigmoid of slope 2^k can be a step at c: in float32, c not tiny."""
    return context.dtype == "float32" and (context.c is None or context.c >= _SMALLEST_STEP)


def _gated(context: EncodingContext) -> Encoding:
    """x * HardSigmoid(|x|) with a slope so steep that nothing lies on it.

    With c in [2^e, 2^(e+1)) and slope s = 2^(23-e), neighbouring float32 numbers around c are
    1 apart after scaling. Both s * |x| and s * c are exact, and their difference is at least 1
    for the next number above c, so that min(max(s * |x| - s * c, 0), 1) is 1 above c and 0 up
    to it.
    ONNX Runtime computes HardSigmoid and Mul in its blocked layout, and fast. A runtime that
    computes in 16 bits would overflow, so no other target has this encoding.
    """
    operators = [*([] if context.nonnegative else ["Abs"]), "HardSigmoid", "Mul"]

    def build(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
        magnitude = x if context.nonnegative else emit("Abs", x)
        slope = math.ldexp(1.0, 24 - math.frexp(c)[1])
        ramp = {"alpha": slope, "beta": -slope * c}
        return emit("Mul", x, emit("HardSigmoid", magnitude, attributes=ramp))

    why = "both stay in the blocked layout, where ThresholdedRelu and Where do not"
    if not context.nonnegative:
        why = "fast kernels; only Abs leaves the blocked layout"
    return Encoding(", ".join(operators), build, why=why)
