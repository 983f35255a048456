"""What a model takes and gives: the names, dtypes and shapes of its inputs or outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One graph input or output.

    Attributes:
        name: Name of the tensor in the graph.
        dtype: NumPy name of the element type ("float32", "bfloat16", "int64", ...), or None
            for strings, sequences, maps and optionals.
        shape: One entry per axis: an int where it is fixed, a str (possibly empty) where it is
            dynamic; None when the rank itself is unknown.
    """

    name: str
    dtype: str | None
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(str(d or "?") for d in self.shape)
        return f"{self.name}: {self.dtype or 'non-tensor'} [{dims}]"

    @property
    def fixed_batch(self) -> int | None:
        """Length of axis 0 where it is fixed, else None."""
        first = self.shape[0] if self.shape else None
        return first if isinstance(first, int) else None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether `shape` has the rank and the fixed dimensions of this spec."""
        if self.shape is None:
            return True
        return len(self.shape) == len(shape) and all(
            isinstance(want, str) or want == got
            for want, got in zip(self.shape, shape, strict=True)
        )
