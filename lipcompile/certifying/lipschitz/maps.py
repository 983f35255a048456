"""Linear maps between tensors: their norms, and how rows are pulled back through them.

Rows are linear functions of a map's output; pulled back, as rows * A, they are functions of
its input. Tensors have their whole shape, with a batch axis of length 1. Biases are no part of
a map: they do not change differences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from lipcompile.certifying.lipschitz.norms import matrix_norm, outwards

Shape = tuple[int, ...]


class LinearMap(ABC):
    """A linear map from tensors of `in_shape` to tensors of `out_shape`."""

    in_shape: Shape
    out_shape: Shape

    @abstractmethod
    def pull(self, rows: np.ndarray) -> np.ndarray:
        """rows * A: float64 [m, *out_shape] -> [m, *in_shape]."""

    @abstractmethod
    def norm(self) -> float:
        """An upper bound of the spectral norm."""


@dataclass(frozen=True, slots=True, eq=False)
class Scale(LinearMap):
    """Multiplies elementwise by `factors`, which broadcast to the shape."""

    in_shape: Shape
    factors: np.ndarray

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def pull(self, rows: np.ndarray) -> np.ndarray:
        pulled: np.ndarray = rows * self.factors
        return pulled

    def norm(self) -> float:
        return float(np.abs(self.factors).max(initial=0.0))

    def along(self, axis: int) -> np.ndarray | None:
        """The factors as a vector along one axis; None where others matter as well."""
        rank = len(self.in_shape)
        factors = self.factors.reshape((1,) * (rank - self.factors.ndim) + self.factors.shape)
        others = [n for i, n in enumerate(factors.shape) if i != axis]
        if any(n != 1 for n in others):
            return None
        return np.broadcast_to(factors.reshape(-1), self.in_shape[axis])


@dataclass(frozen=True, slots=True, eq=False)
class Dense(LinearMap):
    """Multiplies the vectors along one axis by a matrix [out, in]."""

    in_shape: Shape
    out_shape: Shape
    matrix: np.ndarray
    axis: int

    def pull(self, rows: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(rows, 1 + self.axis, -1) @ self.matrix
        return np.moveaxis(moved, -1, 1 + self.axis)

    def norm(self) -> float:
        return matrix_norm(self.matrix)


@dataclass(frozen=True, slots=True, eq=False)
class Reshape(LinearMap):
    """The same elements in the same order."""

    in_shape: Shape
    out_shape: Shape

    def pull(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), *self.in_shape)

    def norm(self) -> float:
        return 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Transpose(LinearMap):
    """Axis i of the output is axis order[i] of the input."""

    in_shape: Shape
    out_shape: Shape
    order: tuple[int, ...]

    def pull(self, rows: np.ndarray) -> np.ndarray:
        back = np.argsort(self.order)
        return rows.transpose(0, *(1 + back))

    def norm(self) -> float:
        return 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Selection(LinearMap):
    """Each output element is one of the input, or zero.

    Attributes:
        index: int64 of `out_shape`: positions in the flat input; -1 for zero.
    """

    in_shape: Shape
    out_shape: Shape
    index: np.ndarray

    def pull(self, rows: np.ndarray) -> np.ndarray:
        flat, chosen = rows.reshape(len(rows), -1), self.index.reshape(-1)
        kept = chosen >= 0
        pulled = np.zeros((len(rows), int(np.prod(self.in_shape))))
        np.add.at(pulled.T, chosen[kept], flat[:, kept].T)
        return pulled.reshape(len(rows), *self.in_shape)

    def norm(self) -> float:
        """sqrt of how often the most used element is used: A^T A is diagonal."""
        chosen = self.index[self.index >= 0]
        most = int(np.bincount(chosen).max()) if chosen.size else 0
        return outwards(most**0.5)

    def channels(self, axis: int) -> np.ndarray | None:
        """Which channel each output channel is (-1: zero), where nothing else changes."""
        per_axis = [
            n == m
            for i, (n, m) in enumerate(zip(self.in_shape, self.out_shape, strict=False))
            if i != axis
        ]
        if len(self.in_shape) != len(self.out_shape) or not all(per_axis):
            return None
        source = np.arange(int(np.prod(self.in_shape))).reshape(self.in_shape)
        first = np.moveaxis(self.index, axis, 0).reshape(self.out_shape[axis], -1)[:, 0]
        inside = first // int(np.prod(self.in_shape[axis + 1 :])) % self.in_shape[axis]
        picked = np.where(first >= 0, inside, -1)
        shape = [-1 if i == axis else 1 for i in range(len(self.in_shape))]
        taken = np.take(source, np.maximum(picked, 0), axis=axis)
        whole = np.where(picked.reshape(shape) >= 0, taken, -1)
        return picked if np.array_equal(whole, self.index) else None


@dataclass(frozen=True, slots=True, eq=False)
class Reduce(LinearMap):
    """Sums over some axes, times a factor."""

    in_shape: Shape
    out_shape: Shape
    axes: tuple[int, ...]
    factor: float

    def pull(self, rows: np.ndarray) -> np.ndarray:
        kept = tuple(1 if i in self.axes else n for i, n in enumerate(self.in_shape))
        spread = rows.reshape(len(rows), *kept) * self.factor
        return np.broadcast_to(spread, (len(rows), *self.in_shape))

    def norm(self) -> float:
        summed = int(np.prod([self.in_shape[axis] for axis in self.axes]))
        return outwards(abs(self.factor) * summed**0.5)
