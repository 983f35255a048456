"""Form `soft`: everything moves towards zero by the threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from lipcompile.forged.base import Emitter, Encoding, EncodingContext, ForgedFunction


@dataclass(frozen=True, slots=True)
class Soft(ForgedFunction):
    """f_c(x) = sign(x) * max(|x| - c, 0) (soft thresholding).

    Its slope is at most 1, so that a Lipschitz bound of a network is one of the forged network
    as well. It moves large activations too, by c, and costs clean accuracy sooner than the
    other forms.

    After a Relu it is relu(z) - c cut off at zero, which is relu(z - c): where nothing but
    forged layers reads the Relu, a shift of the bias that was added to z, and no operator at
    all.
    """

    name: ClassVar[str] = "soft"
    shifts: ClassVar[bool] = True

    def __call__(self, x: np.ndarray, c: float) -> np.ndarray:
        held = np.asarray(c, dtype=x.dtype)
        result: np.ndarray = x - np.minimum(np.maximum(x, -held), held)  # clip widens bfloat16
        return result

    @property
    def slope(self) -> float:
        return 1.0

    def working_type(self, dtype: str) -> str:
        return dtype

    def constants(self, c: float) -> tuple[float, ...]:
        return (c,)

    def encoding(self, context: EncodingContext) -> Encoding:
        if context.shiftable:
            why = "relu(z) cut off at c is relu(z - c): no operator is left"
            return Encoding("bias - c", None, way="bias", why=why)
        if context.target == "ort-cuda" and context.has_shrink:
            return Encoding("Shrink", _shrink, why="one kernel, for either sign")
        # Clip, Relu and Sub know bfloat16 only from opset 14 on; float32 holds it exactly.
        through = "float32" if context.dtype == "bfloat16" else context.dtype
        operators, why, compute = _recipe(context, through)
        if through == context.dtype:
            return Encoding(", ".join(operators), compute, why=why)

        def build(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
            return emit.cast(compute(emit, emit.cast(x, through), c), context.dtype)

        return Encoding(", ".join(["Cast", *operators, "Cast"]), build, why=why)


def _recipe(
    context: EncodingContext, dtype: str
) -> tuple[list[str], str, Callable[[Emitter, ir.Value, float], ir.Value]]:
    """Operators of every runtime, why these, and what emits them, for x in `dtype`."""
    channels = context.blocked

    def below(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
        if channels is not None:
            return emit("Relu", emit.affine(x, 1.0, -c, dtype, channels))
        return emit("Relu", emit("Sub", x, emit.constant(c, dtype)))

    def of_either_sign(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
        return emit("Sub", x, _clipped(emit, x, c, dtype, context.opset))

    def by_halves(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
        positive = emit("Relu", emit("Sub", x, emit.constant(c, dtype)))
        negative = emit("Relu", emit("Sub", emit.constant(-c, dtype), x))
        return emit("Sub", positive, negative)

    if context.nonnegative and channels is not None:
        why = "becomes one depthwise convolution with a fused Relu, in the blocked layout"
        return ["BatchNormalization", "Relu"], why, below
    if context.nonnegative:
        return ["Sub", "Relu"], "two elementwise operators", below
    if dtype == "float64" and context.opset < 12:
        # ONNX Runtime has no Clip of doubles before, and the attributes are float32.
        why = "relu(x - c) - relu(-c - x), exact in float64"
        return ["Sub", "Relu", "Sub", "Relu", "Sub"], why, by_halves
    return ["Clip", "Sub"], "x - clip(x, -c, c) is the definition", of_either_sign


def _clipped(emit: Emitter, x: ir.Value, c: float, dtype: str, opset: int) -> ir.Value:
    if opset < 11:
        return emit("Clip", x, attributes={"min": -c, "max": c})
    return emit("Clip", x, emit.constant(-c, dtype), emit.constant(c, dtype))


def _shrink(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
    return emit("Shrink", x, attributes={"lambd": c, "bias": c})
