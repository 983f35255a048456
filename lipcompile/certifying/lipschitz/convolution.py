"""Convolutions: pulled back exactly, and bounded on a torus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.certifying.lipschitz.maps import LinearMap, Shape
from lipcompile.certifying.lipschitz.norms import gram, largest_norm
from lipcompile.certifying.lipschitz.one_thread import on_one_thread

_BLOCK = 1 << 22  # complex numbers of symbols that are held at a time


@dataclass(frozen=True, slots=True, eq=False)
class Convolution(LinearMap):
    """y[o, j] = sum over i, t of weight[o, i, t] * x[i, stride * j + dilation * t - pad].

    x is zero outside of its size; a negative pad crops. Average pooling, strided slices and
    zero padding are convolutions as well.

    Attributes:
        in_shape: (B, channels, *size); B is 1, or the views of an ensemble in one batch.
        out_shape: Likewise.
        weight: float64 [out, in / groups, *kernel].
        strides: Per spatial axis, like the two below.
        pads: Zeros in front of each axis; what stands behind follows from `out_shape`.
        dilations: Distances between the kernel's elements.
        groups: Of channels.
    """

    in_shape: Shape
    out_shape: Shape
    weight: np.ndarray
    strides: Shape
    pads: Shape
    dilations: Shape
    groups: int = 1

    @property
    def size(self) -> Shape:
        """Of the input."""
        return self.in_shape[2:]

    @property
    def out_size(self) -> Shape:
        return self.out_shape[2:]

    @property
    def kernel(self) -> Shape:
        return tuple(self.weight.shape[2:])

    @property
    def reads_outside(self) -> bool:
        """Whether an output reads a zero beside the input."""
        return any(
            pad > 0 or last >= n
            for pad, last, n in zip(self.pads, self.last(), self.size, strict=True)
        )

    def last(self) -> list[int]:
        """The last position that is read along each axis."""
        extents = zip(
            self.strides, self.out_size, self.kernel, self.dilations, self.pads, strict=True
        )
        return [s * (n - 1) + (k - 1) * d - p for s, n, k, d, p in extents]

    def least_torus(self) -> Shape:
        """The smallest torus on which a circular convolution gives the same output.

        No position that is read may wrap around to an element of the input: at least n + pad,
        and beyond the last position that is read. (n + k - 1 is always enough.)
        """
        return tuple(
            max(n + max(pad, 0), last + 1, n)
            for n, pad, last in zip(self.size, self.pads, self.last(), strict=True)
        )

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """The transposed convolution, one product per element of the kernel."""
        count, groups = len(rows) * self.in_shape[0], self.groups
        out, inner = self.weight.shape[0] // groups, self.weight.shape[1]
        grouped = rows.reshape(count, groups, out, *self.out_size)
        pulled = np.zeros((count, groups, inner, *self.size))
        for tap in itertools.product(*map(range, self.kernel)):
            spans = [self._span(axis, t) for axis, t in enumerate(tap)]
            if any(first >= last for first, last, _ in spans):
                continue
            at: Any = (slice(None), slice(None), *tap)
            weight = self.weight[at].reshape(groups, out, inner).swapaxes(1, 2)
            seen: Any = (..., *(slice(first, last) for first, last, _ in spans))
            read = grouped[seen]
            part = weight @ read.reshape(count, groups, out, -1)
            places = tuple(
                slice(start, start + s * (last - first), s)
                for (first, last, start), s in zip(spans, self.strides, strict=True)
            )
            placed: Any = (..., *places)
            pulled[placed] += part.reshape(count, groups, inner, *read.shape[3:])
        return pulled.reshape(len(rows), *self.in_shape)

    def _span(self, axis: int, tap: int) -> tuple[int, int, int]:
        """Outputs [first, last) whose tap falls into the input, and where the first falls."""
        stride, n = self.strides[axis], self.size[axis]
        offset = tap * self.dilations[axis] - self.pads[axis]
        first = max(0, -(offset // stride))
        last = min(self.out_size[axis], (n - 1 - offset) // stride + 1)
        return first, last, stride * first + offset

    def symbol(self, frequencies: np.ndarray, torus: Shape) -> np.ndarray:
        """The map's matrix at frequencies of the torus, before its outputs are thinned out.

        Args:
            frequencies: int [..., d].
            torus: Length of each axis at the input.

        Returns:
            complex128 [..., groups, out / groups, in / groups].
        """
        taps = np.array(list(itertools.product(*map(range, self.kernel))))
        places = taps * np.array(self.dilations) - np.array(self.pads)
        turns = (frequencies / np.array(torus)) @ places.T
        weight = np.moveaxis(self.weight.reshape(*self.weight.shape[:2], -1), -1, 0)
        result = np.exp(2j * np.pi * turns) @ weight.reshape(len(taps), -1)
        out, inner = self.weight.shape[:2]
        shape = (*turns.shape[:-1], self.groups, out // self.groups, inner)
        matrices: np.ndarray = result.reshape(shape)
        return matrices

    def norm(self) -> float:
        """On the smallest torus whose length is a multiple of the stride."""
        least = zip(self.least_torus(), self.strides, self.out_size, strict=True)
        return self.torus_norm(tuple(s * max(-(-n // s), out) for n, s, out in least))

    @on_one_thread
    def torus_norm(self, torus: Shape) -> float:
        """An upper bound of the norm: that of the circular convolution.

        Thinning by the stride s adds up the s^d frequencies that look alike on the coarse
        grid: with unitary transforms the matrix at a coarse frequency is

            [C(w_1), C(w_2), ...] / sqrt(s^d).

        Args:
            torus: Length of each axis at the input: at least `least_torus`, and a multiple
                of the stride.
        """
        if set(self.kernel) == {1}:  # the same matrix at every frequency, up to phases
            shape = (self.groups, -1, self.weight.shape[1])
            return largest_norm(gram(self.weight.reshape(shape)))
        coarse = tuple(n // s for n, s in zip(torus, self.strides, strict=True))
        alike = aliases(self.strides) * np.array(coarse)
        per = self.weight.size // int(np.prod(self.kernel)) * len(alike)
        best = 0.0
        for block in half_grid(coarse, max(1, _BLOCK // per)):
            parts = self.symbol(block[:, None] + alike, torus)
            parts = np.moveaxis(parts, 1, -2)  # [F, groups, out, aliases, in]
            whole = parts.reshape(len(parts) * self.groups, parts.shape[2], -1)
            best = largest_norm(gram(whole) / len(alike), best)
        return best


def aliases(ratio: Sequence[int]) -> np.ndarray:
    """int [prod(ratio), d]: all multi-indices below `ratio`, the last axis fastest."""
    return np.array(list(itertools.product(*map(range, ratio)))).reshape(-1, len(ratio))


def half_grid(size: Shape, most: int) -> Iterator[np.ndarray]:
    """Frequencies of a torus in blocks of at most `most`: int [F, d].

    Of a real map only half of them, since the matrices at w and -w are conjugate.
    """
    halves = (*size[:-1], size[-1] // 2 + 1)
    whole = np.array(list(np.ndindex(*halves))).reshape(-1, len(size))
    for start in range(0, len(whole), most):
        yield whole[start : start + most]
