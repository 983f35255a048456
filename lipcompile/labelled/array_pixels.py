"""Image arrays as pixels: which axis is which, and what their values mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.calibration.preprocess.config import Config
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import DataError
from lipcompile.labelled.image_input import (
    Dims,
    ImageInput,
    image_input,
    resolve_transform,
)
from lipcompile.labelled.image_pixels import check_memory
from lipcompile.signature import TensorSpec

_ROUNDING = 1e-6  # of values that were normalised and brought back


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read an array as images.

    Attributes:
        dims: (channels, height, width).
        last: Whether the channels are the last axis of four.
    """

    dims: Dims
    last: bool = False

    def images(self, rows: np.ndarray) -> np.ndarray:
        """[N, C, H, W] of rows of the array."""
        if self.last:
            return rows.transpose(0, 3, 1, 2)
        return rows.reshape(len(rows), *self.dims)


def readings(shape: Sequence[int]) -> list[Reading]:
    """All ways to read an array of this shape: grey, flat and square, or with channels."""
    if len(shape) == 2:
        side = math.isqrt(shape[1])
        return [Reading((1, side, side))] if side and side * side == shape[1] else []
    if len(shape) == 3:
        return [Reading((1, shape[1], shape[2]))]
    if len(shape) != 4:
        return []
    first = Reading((shape[1], shape[2], shape[3]))
    last = Reading((shape[3], shape[1], shape[2]), last=True)
    return [reading for reading in (first, last) if reading.dims[0] in (1, 3)]


def array_images(
    label: str,
    images: np.ndarray,
    spec: TensorSpec,
    preprocess: Preprocess | Config | None,
    flags: Mapping[str, Any],
) -> tuple[Reading, ImageInput, Preprocess]:
    """How an array is read as images that have the size of the model's input already.

    Args:
        label: Name of the data, for messages.
        images: [N, H, W], [N, C, H, W], [N, H, W, C], or [N, K] for grey squares; RGB.
        spec: From `check_input`.
        preprocess: As in `resolve_transform`; its resize and crop must not change the size.
        flags: Likewise.

    Raises:
        DataError: The array does not fit, or its axes can be read in several ways.
        OptionError: A flag is not legal.
    """
    given = preprocess.layout if isinstance(preprocess, Preprocess) else flags.get("layout")
    layout = given
    flat = len(spec.shape or ()) == 2
    if not flat:
        layout = resolve_transform(image_input(spec, given), preprocess, flags).layout
    reading = _only_reading(label, images.shape, spec, layout)
    channels, height, width = reading.dims
    target = image_input(spec, given, reading.dims)
    transform = resolve_transform(target, preprocess, flags, channels)
    if transform.output_size not in (None, (height, width)):
        want = "x".join(map(str, transform.output_size or ()))
        raise DataError(
            f"'{label}' holds images of {height}x{width} (height x width), but preprocessing"
            f" gives {want}, and arrays are not resized: give image files, or arrays of the"
            " right size"
        )
    return reading, target, transform


def _only_reading(
    label: str, shape: Sequence[int], spec: TensorSpec, layout: str | None
) -> Reading:
    fitting = [r for r in readings(shape) if _fits(spec, r.dims, layout)]
    if not fitting:
        raise DataError(
            f"images of '{label}' have shape {list(shape)}, which does not fit input"
            f" '{spec}': give [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels, at"
            " the model's size"
        )
    if len(fitting) > 1:
        raise DataError(
            f"images of '{label}' have shape {list(shape)}, where the channels may be the"
            f" second axis or the last, and input '{spec}' takes both: give an array that"
            " tells, for example [N, H, W] for grey images"
        )
    return fitting[0]


def _fits(spec: TensorSpec, dims: Dims, layout: str | None) -> bool:
    assert spec.shape is not None
    if len(spec.shape) == 2:
        return math.prod(dims) == spec.shape[1]
    assert layout is not None
    return image_input(spec, layout).takes(dims, layout)


def array_pixels(
    label: str, images: np.ndarray, rows: Sequence[int], reading: Reading, levels: np.ndarray
) -> np.ndarray:
    """float32 [N, C, H, W] in [0, 1] of some rows of an array.

    Args:
        label: Name of the data, for messages.
        images: uint8, or floats in [0, 1].
        rows: Which images.
        reading: From `array_images`.
        levels: From `pixel_levels`.

    Raises:
        DataError: Values are of another type or out of range, or they are too many.
    """
    check_memory(len(rows), reading.dims)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(
            f"images of '{label}' are {images.dtype}: give uint8 levels from 0 to 255, or"
            " floats from 0 to 1"
        )
    picked = reading.images(np.asarray(images[np.asarray(rows)]))
    if images.dtype == np.uint8:
        return np.ascontiguousarray(levels[picked])
    _check_values(label, picked, rows)
    return np.ascontiguousarray(np.clip(picked.astype(np.float32), 0.0, 1.0))


def _check_values(label: str, picked: np.ndarray, rows: Sequence[int]) -> None:
    finite = np.isfinite(picked).all(axis=(1, 2, 3))
    if not finite.all():
        raise DataError(
            f"image '{label}[{rows[int(finite.argmin())]}]' holds NaN or Inf"
            f" ({(~finite).sum()} of {len(finite)} images do): repair the data"
        )
    low, high = float(picked.min()), float(picked.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise DataError(
            f"images of '{label}' hold values from {low:.4g} to {high:.4g}, expected 0 to 1:"
            " divide by 255, or undo the normalisation and pass --mean/--std"
        )
