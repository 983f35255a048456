"""What a forged function is: a definition, a stated slope, and encodings as ONNX operators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, final

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import onnx_ir as ir

from lipcompile.errors import DataError
from lipcompile.forged.targets import Target
from lipcompile.ops import MARK

Way = Literal["insert", "relu", "bias"]
# Targets that compute convolutions in a blocked layout, which arithmetic with scalars leaves.
_BLOCKED = frozenset({"portable", "ort-cpu"})


@dataclass(frozen=True, slots=True)
class EncodingContext:
    """What an encoding may rely on at one site.

    Attributes:
        dtype: NumPy name of the site's element type.
        opset: Version of the default operator set.
        nonnegative: The site holds no negative value.
        channels: Length of axis 1, where it is known to be that of a convolution's input; the
            site then has three axes or more.
        replaceable_relu: The site is the output of a Relu that nothing but forged layers
            reads.
        shiftable: The same of a Relu, or of a Clip from 0, and a bias that can be edited is
            added to what it reads.
        target: Where the model will run.
        c: The threshold, where it is known.
    """

    dtype: str
    opset: int
    nonnegative: bool = False
    channels: int | None = None
    replaceable_relu: bool = False
    shiftable: bool = False
    target: Target = "portable"
    c: float | None = None

    @property
    def blocked(self) -> int | None:
        """`channels`, where the target keeps such a tensor in a blocked layout."""
        return self.channels if self.target in _BLOCKED else None

    @property
    def has_shrink(self) -> bool:
        """Whether ONNX's Shrink takes the site's type, and its float32 attributes hold c."""
        return self.opset >= 9 and self.dtype in ("float16", "float32")


class Emitter:
    """Builds nodes that share a prefix: for a forged function, its first layer's name."""

    def __init__(self, prefix: str, root: str = MARK) -> None:
        self.prefix = prefix
        self.root = root
        self.nodes: list[ir.Node] = []
        self._taken: dict[str, int] = {}

    def __call__(
        self, op_type: str, *inputs: ir.Value, attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Adds a node and returns its output."""
        name = self._name(op_type)
        value = ir.Value(name=f"{name}:0")
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=[value], name=name))
        return value

    def constant(self, number: float, dtype: str, length: int | None = None) -> ir.Value:
        """Adds a Constant node, scalar or [length]; initializers would need IR version 4."""
        array = np.full(() if length is None else length, number, dtype=dtype)
        return self("Constant", attributes={"value": ir.AttrTensor("value", ir.tensor(array))})

    def affine(
        self, x: ir.Value, scale: float, shift: float, dtype: str, channels: int
    ) -> ir.Value:
        """scale * x + shift as one BatchNormalization with the same row in every channel.

        ONNX Runtime computes it, unlike Mul and Add with a scalar, in its blocked layout: as a
        depthwise convolution, with the activation behind it fused in.
        """
        rows = (self.constant(value, dtype, channels) for value in (scale, shift, 0.0, 1.0))
        return self("BatchNormalization", x, *rows, attributes={"epsilon": 0.0})

    def cast(self, value: ir.Value, dtype: str) -> ir.Value:
        to = ir.DataType.from_numpy(np.dtype(dtype)).value
        return self("Cast", value, attributes={"to": to})

    def _name(self, op_type: str) -> str:
        self._taken[op_type] = count = self._taken.get(op_type, 0) + 1
        suffix = f"_{count}" if count > 1 else ""
        return f"{self.root}/{self.prefix.lstrip('/')}/{op_type}{suffix}"


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to write a forged function in ONNX.

    Attributes:
        label: The operators, as shown to the user: "Abs, Greater, Where".
        build: Emits the nodes for (emitter, x, c) and returns the forged value, where x is
            the site's value, or what the Relu reads; None for way "bias".
        way: "insert" nodes behind the site, write one in place of its "relu", or shift the
            "bias" that is added in front of it by -c, with no node at all.
        why: Why these operators, in one clause; for the table of the docs.
    """

    label: str
    build: Callable[[Emitter, ir.Value, float], ir.Value] | None
    way: Way = "insert"
    why: str = ""


@dataclass(frozen=True, slots=True)
class ForgedFunction(ABC):
    """A function f_c that shrinks small activations: |f_c(x)| <= |x|, and f_c(x) -> x for c
    -> 0.

    A form is one subclass in one file, plus its line in `lipcompile.forged.FORMS`. Its fields
    are its hyper-parameters. `tests/laws` runs every registered form through the same checks.
    """

    name: ClassVar[str]
    # Whether f_c(x) = max(x - c, 0) for x >= 0: behind a Relu, a shift of the bias before it.
    shifts: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: np.ndarray, c: float) -> np.ndarray:
        """The definition.

        Args:
            x: Activations, any shape, float16, bfloat16, float32 or float64.
            c: Threshold, > 0, in the unit of x, as `threshold` returned it.

        Returns:
            f_c(x), in the shape and dtype of x.
        """

    @property
    @abstractmethod
    def slope(self) -> float:
        """An upper bound of |f_c(x) - f_c(y)| / |x - y|; infinite where f_c jumps."""

    @abstractmethod
    def encoding(self, context: EncodingContext) -> Encoding:
        """The cheapest encoding that computes the definition in this context."""

    @abstractmethod
    def working_type(self, dtype: str) -> str:
        """NumPy name of the type in which f_c is computed at a site of type `dtype`."""

    @abstractmethod
    def constants(self, c: float) -> tuple[float, ...]:
        """The numbers depending on c that the encoding holds, in the working type."""

    @final
    def parameters(self) -> dict[str, float]:
        """Hyper-parameters by name, for provenance: the fields of the form."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @final
    def threshold(self, c: float, dtype: str) -> float:
        """c rounded to the type that f_c is computed in.

        Raises:
            DataError: c, or a constant made from it, becomes 0 or infinite in that type.
        """
        working = self.working_type(dtype)
        with np.errstate(over="ignore", divide="ignore"):
            held = float(np.asarray(c, dtype=working))
            numbers = np.asarray([held, *self.constants(held)] if held else [held], working)
        if not (np.isfinite(numbers).all() and numbers.all()):
            raise DataError(
                f"threshold {c:.3g} is too small for {working}, in which {self.name} is "
                "computed: raise --cr, or leave the layer out with --exclude"
            )
        return held
