"""Where Resize reads its input, and with which weights: ONNX's definitions, axis by axis.

Coordinates are computed in float32, as ONNX Runtime does: which element is nearest depends on
the rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

COORDINATES = frozenset(
    {
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    }
)
NEAREST = frozenset({"round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"})


@dataclass(frozen=True, slots=True)
class Rule:
    """Attributes of a Resize node, by ONNX's names; "simple" is opset 10's nearest mode."""

    mode: str
    coordinates: str
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation_value: float = 0.0


@dataclass(frozen=True, slots=True)
class Axis:
    """What happens to one axis.

    Attributes:
        size: Of the input.
        target: Size of the output.
        scale: Output over input, which need not be `target / size` exactly.
        start, end: Part of the axis that "tf_crop_and_resize" reads, as a share of it.
    """

    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    @property
    def exact(self) -> bool:
        """Whether the scale is that of the sizes."""
        return math.isclose(self.scale * self.size, self.target, rel_tol=1e-6)

    @property
    def changes(self) -> bool:
        same = self.size == self.target and self.exact
        return not same or (self.start, self.end) != (0.0, 1.0)


def places(rule: Rule, axis: Axis) -> Array:
    """Coordinates in the input that the elements of the output stand for."""
    x = np.arange(axis.target, dtype=np.float32)
    one, half, scale = np.float32(1), np.float32(0.5), np.float32(axis.scale)
    last, steps = np.float32(axis.size - 1), np.float32(max(axis.target - 1, 1))
    name = rule.coordinates
    if name == "asymmetric":
        found = x / scale
    elif name == "align_corners":
        found = x * last / steps
    elif name == "tf_half_pixel_for_nn":
        found = (x + half) / scale
    elif name == "pytorch_half_pixel" and axis.target == 1:
        found = x * 0
    elif name == "tf_crop_and_resize":
        start, end = np.float32(axis.start), np.float32(axis.end)
        if axis.target > 1:
            found = start * last + x * (end - start) * last / steps
        else:
            found = half * (start + end) * last + x
    else:
        found = (x + half) / scale - half
        if name == "half_pixel_symmetric":
            adjustment = np.float32(axis.target) / (scale * np.float32(axis.size))
            found = found + np.float32(axis.size) * half * (one - adjustment)
    return np.asarray(found, dtype=np.float32)


@lru_cache(maxsize=256)
def nearest(rule: Rule, axis: Axis) -> Array:
    """Index of the input's element for each of the output's, int64 of shape (target,)."""
    x = places(rule, axis)
    how = rule.nearest_mode
    if how == "simple":  # as ONNX Runtime runs models before opset 11
        how = "ceil" if axis.scale < 1 else "floor"
    if how == "round_prefer_floor":
        x = np.ceil(x - np.float32(0.5))
    elif how == "round_prefer_ceil":
        x = np.floor(x + np.float32(0.5))
    else:
        x = np.floor(x) if how == "floor" else np.ceil(x)
    return np.clip(x, 0, axis.size - 1).astype(np.int64)


@lru_cache(maxsize=64)
def weights(rule: Rule, axis: Axis) -> Array:
    """The linear map from the input's elements to the output's, (target, size) in float64.

    A row holds w((i - x) / stretch) for the input's elements i; those outside are the border's
    element, or left out.
    """
    x = places(rule, axis).astype(np.float64)
    stretch = max(1.0, 1.0 / axis.scale) if rule.antialias else 1.0
    reach = math.ceil((2 if rule.mode == "cubic" else 1) * stretch)
    taps = np.floor(x)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(taps - x[:, None]) / stretch
    kernel = _cubic(distance, rule.cubic_coeff_a) if rule.mode == "cubic" else 1 - distance
    if rule.mode == "linear":
        kernel = np.maximum(kernel, 0)
    if rule.exclude_outside:
        kernel = np.where((taps < 0) | (taps >= axis.size), 0.0, kernel)
    if rule.exclude_outside or rule.antialias:
        total = kernel.sum(axis=1, keepdims=True)
        kernel = kernel / np.where(total == 0, 1.0, total)
    matrix = np.zeros((axis.target, axis.size))
    rows = np.arange(axis.target)[:, None].repeat(taps.shape[1], axis=1)
    np.add.at(matrix, (rows, np.clip(taps, 0, axis.size - 1).astype(np.int64)), kernel)
    return matrix


def _cubic(distance: Array, a: float) -> Array:
    """Keys' kernel (1981, equation 4) of distances that are not negative."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def outside(rule: Rule, axis: Axis) -> Array | None:
    """Which of the output's elements get `extrapolation_value`; None for none."""
    if rule.coordinates != "tf_crop_and_resize":
        return None
    x = places(rule, axis)
    found = (x < 0) | (x > axis.size - 1)
    return found if found.any() else None
