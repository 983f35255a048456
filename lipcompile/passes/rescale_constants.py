"""The pass that multiplies constants by numbers: weights, biases and their like.

Cases:
    1. A constant that one operand alone depends on is edited where it is stored, behind
       Identity, Cast and Transpose; external numbers are read, and become inline.
    2. A constant that something else reads as well stays, and the operand gets one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.linear_layers import layer_name
from lipcompile.ops import MARK
from lipcompile.weights import Weight, stored_weight

WIDE = frozenset({"float32", "float64"})
Operand = tuple[ir.Node, int]


@dataclass(frozen=True, slots=True)
class RescaleConstants:
    """Rewrites constants in place.

    Attributes:
        factors: (node, index of an input) -> what this constant operand is multiplied by;
            found with `find_constant`.
    """

    factors: Mapping[Operand, float]

    def __call__(self, model: ir.Model) -> None:
        """Applies the pass; a factor of 1 leaves every byte.

        Raises:
            ModelError: A constant overflows or vanishes.
        """
        taken = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        taken |= set(model.graph.initializers)
        for (node, index), factor in self.factors.items():
            if factor != 1.0:
                _rescale(node, index, factor, taken)


def _rescale(node: ir.Node, index: int, factor: float, taken: set[str | None]) -> None:
    # Found anew: an edit before this one may have left a shared constant to this one alone.
    weight = stored_weight(node, index)
    assert not isinstance(weight, str), "find_constant refuses such operands"
    weight.store(scaled(weight.array(), factor, layer_name(node)), _free(node, index, taken))
    stored = node.inputs[index] if weight.shared else weight.root
    assert stored is not None
    taken.add(stored.name)


def scaled(array: np.ndarray, factor: float, name: str = "") -> np.ndarray:
    """array * factor, rounded once to the type of `array`: exact for a power of two, but for
    results below the least normal number.

    Raises:
        ModelError: A number overflows, or all of them come near the least normal number.
    """
    with np.errstate(over="ignore", under="ignore"):
        result: np.ndarray = (array.astype(np.float64) * factor).astype(array.dtype)
    limits = np.finfo(array.dtype)
    before, after = (float(np.abs(part).max(initial=0.0)) for part in (array, result))
    least = float(limits.tiny) / float(limits.eps)
    if not np.array_equal(np.isfinite(result), np.isfinite(array)):
        what = "overflows"
    elif after < least <= before:
        what = "vanishes"
    else:
        return result
    raise ModelError(
        f"node '{name}' has a constant that {what} when it is multiplied by {factor:.3g}: ask "
        "--lipschitz for a bound closer to the model's own"
    )


def _free(node: ir.Node, index: int, taken: set[str | None]) -> str:
    """A name after "lipcompile/" that no value has yet."""
    base = name = f"{layer_name(node).lstrip('/')}/input_{index}"
    count = 1
    while f"{MARK}/{name}" in taken:
        count += 1
        name = f"{base}.{count}"
    return name


def find_constant(node: ir.Node, index: int) -> Weight | str:
    """The constant operand, or why it cannot be multiplied, as a clause."""
    weight = stored_weight(node, index)
    if isinstance(weight, str):
        return f"has an input {index} that {weight}"
    if weight.quantised:
        return f"has an input {index} that is quantised, and scaling would round it"
    types = {weight.as_read(part).dtype.name for part in (_sample(weight),)}
    types.add(_sample(weight).dtype.name)
    if not types <= WIDE:
        return f"has an input {index} in {', '.join(sorted(types))}, where scaling rounds"
    return weight


def _sample(weight: Weight) -> np.ndarray:
    """Of its type, with no number read."""
    tensor = ir.convenience.get_const_tensor(weight.root)
    assert tensor is not None
    return np.zeros(0, tensor.dtype.numpy())
