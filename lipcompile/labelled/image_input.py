"""Which model inputs take images, and how: four axes, grey without a channel axis, or flat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lipcompile.calibration.preprocess.config import Config
from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

Dims = tuple[int, int, int]
_FLOATS = ("float32", "float16", "float64")


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A model's input, seen as a batch of images.

    Attributes:
        given: The input as the model declares it.
        image: The same with four axes, as `resolve` takes it.
        shape: As in `Normalisation`.
    """

    given: TensorSpec
    image: TensorSpec
    shape: tuple[int, ...] | None = None

    def takes(self, dims: Dims, layout: str) -> bool:
        """Whether images of (channels, height, width) fit."""
        channels, *sides = dims
        axes = [channels, *sides] if layout == "NCHW" else [*sides, channels]
        assert self.image.shape is not None
        return replace(self.image, shape=("", *self.image.shape[1:])).accepts([1, *axes])


def check_input(inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The model's only input, once it is a batch of float images.

    Raises:
        DataError: It is not, or there is not one input.
    """
    if len(inputs) != 1:
        raise DataError(
            f"the model takes {len(inputs)} inputs {[str(spec) for spec in inputs]}, and an"
            " attack changes one image: export the model with the image as its only input"
        )
    spec = inputs[0]
    if spec.dtype not in _FLOATS:
        cause = f"images are attacked as {', '.join(_FLOATS)}"
        if spec.dtype == "uint8":
            cause = "a perturbation smaller than one of 256 levels cannot be fed to it"
        raise DataError(
            f"input '{spec}' takes {spec.dtype or 'no tensor'}, but {cause}: export the model"
            " with a float input"
        )
    if spec.shape is None or len(spec.shape) not in (2, 3, 4):
        raise DataError(
            f"input '{spec}' is no batch of images (rank 4, rank 3 for grey ones, or rank 2"
            " for flat ones): an audit of LipCompile attacks image classifiers"
        )
    if len(spec.shape) == 3 and _has_channels(spec.shape):
        raise DataError(
            f"input '{spec}' takes one image without a batch axis: export the model with a"
            " batch axis, which may be fixed to 1"
        )
    return spec


def _has_channels(shape: tuple[int | str, ...]) -> bool:
    """[3, H, W] or [H, W, 3]; [1, H, W] is a batch of one grey image as well."""
    return shape[0] in (3, 4) or shape[2] in (1, 3, 4)


def image_input(
    spec: TensorSpec, layout: str | None = None, dims: Dims | None = None
) -> ImageInput:
    """A checked input as one of images.

    Args:
        spec: From `check_input`.
        layout: That of the images, where it was given.
        dims: (channels, height, width) of the data; None for image files, where a flat input
            has to be a square of grey values.

    Raises:
        DataError: A flat input does not tell which images it takes.
    """
    assert spec.shape is not None
    batch, *rest = spec.shape
    if len(rest) == 3:
        return ImageInput(spec, spec)
    if len(rest) == 2:
        height, width = rest
        sides = tuple(side for side in rest if isinstance(side, int))
        if len(sides) != 2:
            raise DataError(
                f"input '{spec}' has dynamic axes for height and width and none for channels:"
                " fix its shape when exporting the model"
            )
        axes = (1, height, width) if layout != "NHWC" else (height, width, 1)
        return ImageInput(spec, replace(spec, shape=(batch, *axes)), sides)
    length = rest[0]
    channels, *sides2 = dims or _square(spec)
    if math.prod((channels, *sides2)) != length:
        raise DataError(
            f"input '{spec}' takes {length} values per image, got images of"
            f" {channels}x{sides2[0]}x{sides2[1]} (channels x height x width): the data was"
            " prepared for another model"
        )
    if channels != 1 and layout is None:
        raise DataError(
            f"input '{spec}' is flat, so it does not tell the order of {channels} channels:"
            " pass --layout NCHW (plane by plane) or --layout NHWC (pixel by pixel)"
        )
    axes2 = (*sides2, channels) if layout == "NHWC" else (channels, *sides2)
    return ImageInput(spec, replace(spec, shape=(batch, *axes2)), (math.prod(axes2),))


def _square(spec: TensorSpec) -> Dims:
    assert spec.shape is not None
    length = spec.shape[1]
    side = math.isqrt(length) if isinstance(length, int) else 0
    if not side or side * side != length:
        raise DataError(
            f"input '{spec}' is flat and no square of grey values, so the size of its images"
            " is unknown: give the images as .npz with [N, C, H, W], and --layout"
        )
    return 1, side, side


def resolve_transform(
    target: ImageInput,
    preprocess: Preprocess | Config | None,
    flags: Mapping[str, Any],
    channels: int | None = None,
) -> Preprocess:
    """The transform for an input: as `resolve`, or `preprocess` itself.

    Args:
        target: The input.
        preprocess: A transform, a config for `resolve`, or None.
        flags: Keyword arguments of `resolve`.
        channels: Of the data; decides where the input's channel axis is dynamic.

    Raises:
        DataError: As `resolve`.
        OptionError: As `resolve`; or a transform has another dtype, or flags beside it.
    """
    if isinstance(preprocess, Preprocess):
        if flags:
            raise OptionError(
                f"{sorted(flags)} were given beside a Preprocess, which says it all: put them"
                " into it"
            )
        if preprocess.dtype != target.given.dtype:
            raise OptionError(
                f"preprocess gives {preprocess.dtype}, but input '{target.given}' takes"
                f" {target.given.dtype}: change its dtype"
            )
        return preprocess
    spec = target.image
    result = resolve(spec, preprocess, **flags)
    axis = 1 if result.layout == "NCHW" else 3
    assert spec.shape is not None
    if channels is None or isinstance(spec.shape[axis], int):
        return result
    shape = (*spec.shape[:axis], channels, *spec.shape[axis + 1 :])
    return resolve(replace(spec, shape=shape), preprocess, **flags)
