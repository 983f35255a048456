"""Form `smooth`: a sigmoid gate that fades small activations out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from lipcompile.errors import OptionError
from lipcompile.forged.base import Emitter, Encoding, EncodingContext, ForgedFunction


@dataclass(frozen=True, slots=True)
class Smooth(ForgedFunction):
    """f_c(x) = x * sigmoid(a * (|x| / c - b)), the smooth form of arXiv 2406.19622.

    The paper names a and b without giving their values; a = 10 and b = 1 are ours. At |x| = b
    * c half of the activation is left. The gate is computed in float32 for the 16-bit types,
    whose own resolution near a * b would move it by several percent.

    In front of a convolution the gate's argument is one BatchNormalization with scale a / c
    and shift -a * b (`Emitter.affine`), so that no reordering surrounds the form.

    Attributes:
        a: Steepness of the gate, > 0, no unit.
        b: Where the gate opens, in units of c, > 0.
    """

    name: ClassVar[str] = "smooth"

    a: float = 10.0
    b: float = 1.0

    def __post_init__(self) -> None:
        for symbol, value in (("a", self.a), ("b", self.b)):
            if not (math.isfinite(value) and 0 < value <= 1e4):
                raise OptionError(
                    f"{symbol} = {value} is out of range: it must be > 0 and at most 1e4"
                )

    def __call__(self, x: np.ndarray, c: float) -> np.ndarray:
        wide = x.astype(np.float64)
        with np.errstate(over="ignore"):
            gate = 1.0 / (1.0 + np.exp(-self.a * (np.abs(wide) / c - self.b)))
        return (wide * gate).astype(x.dtype)

    @property
    def slope(self) -> float:
        """max over u = |x| / c of s + a * u * s * (1 - s), with s = sigmoid(a * (u - b)).

        The maximum lies within 40 / a of b, where s * (1 - s) has not vanished; the grid's
        step there bounds what it can miss, and the result is rounded up by that much.
        """
        u = np.linspace(max(self.b - 40 / self.a, 0.0), self.b + 40 / self.a, 200_001)
        s = 1.0 / (1.0 + np.exp(-self.a * (u - self.b)))
        return float((s + self.a * u * s * (1.0 - s)).max() * (1 + 1e-6))

    def working_type(self, dtype: str) -> str:
        return "float32" if dtype in ("float16", "bfloat16") else dtype

    def constants(self, c: float) -> tuple[float, ...]:
        return (self.a / c,)

    def encoding(self, context: EncodingContext) -> Encoding:
        through = self.working_type(context.dtype)
        affine = ["BatchNormalization"] if context.blocked else ["Mul", "Sub"]
        operators = [*([] if context.nonnegative else ["Abs"]), *affine, "Sigmoid", "Mul"]
        if through != context.dtype:
            operators = ["Cast", *operators, "Cast"]

        def build(emit: Emitter, x: ir.Value, c: float) -> ir.Value:
            wide = x if through == context.dtype else emit.cast(x, through)
            magnitude = wide if context.nonnegative else emit("Abs", wide)
            argument = self._argument(emit, magnitude, c, through, context.blocked)
            forged = emit("Mul", wide, emit("Sigmoid", argument))
            return forged if through == context.dtype else emit.cast(forged, context.dtype)

        why = "elementwise operators, which compilers fuse into one kernel"
        if context.blocked:
            why = (
                "an affine map and Sigmoid as one depthwise convolution, in the blocked layout"
            )
        return Encoding(", ".join(operators), build, why=why)

    def _argument(
        self, emit: Emitter, magnitude: ir.Value, c: float, dtype: str, channels: int | None
    ) -> ir.Value:
        """a * |x| / c - a * b."""
        (scale,), shift = self.constants(c), self.a * self.b
        if channels is None:
            scaled = emit("Mul", magnitude, emit.constant(scale, dtype))
            return emit("Sub", scaled, emit.constant(shift, dtype))
        return emit.affine(magnitude, scale, -shift, dtype, channels)
