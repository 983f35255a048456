"""Form `soft`: everything moves towards zero by the threshold."""

from __future__ import annotations

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

    def __call__(self, x: np.ndarray, c: float) -> np.ndarray:
        held = np.asarray(c, dtype=x.dtype)
        result: np.ndarray = x - np.clip(x, -held, held)
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
            return Encoding("bias - c", None, way="bias")
        if context.target == "ort-cuda" and context.has_shrink:
            return Encoding("Shrink", _shrink)
        # Clip, Relu and Sub know bfloat16 only from opset 14 on; float32 holds it exactly.
        through = "float32" if context.dtype == "bfloat16" else context.dtype
        if not context.nonnegative:
            operators = ["Clip", "Sub"]
        elif context.blocked:
            operators = ["BatchNormalization", "Relu"]
        else:
            operators = ["Sub", "Relu"]
        if through != context.dtype:
            operators = ["Cast", *operators, "Cast"]

        def build(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
            wide = x if through == context.dtype else emit.cast(x, through)
            if not context.nonnegative:
                forged = emit("Sub", wide, _clipped(emit, wide, c, through, context.opset))
            elif context.blocked:
                forged = emit("Relu", emit.affine(wide, 1.0, -c, through, context.blocked))
            else:
                forged = emit("Relu", emit("Sub", wide, emit.constant(c, through)))
            return forged if through == context.dtype else emit.cast(forged, context.dtype)

        return Encoding(", ".join(operators), build)


def _clipped(emit: Emitter, x: ir.Value, c: float, dtype: str, opset: int) -> ir.Value:
    if opset < 11:
        return emit("Clip", x, attributes={"min": -c, "max": c})
    return emit("Clip", x, emit.constant(-c, dtype), emit.constant(c, dtype))


def _shrink(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
    return emit("Shrink", x, attributes={"lambd": c, "bias": c})
