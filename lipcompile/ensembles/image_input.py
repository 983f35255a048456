"""Which input of a model is the image, and where its height and width are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lipcompile.calibration.preprocess.resolve import layout_of
from lipcompile.errors import DataError, ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.signature import TensorSpec

_LEAST, _LONGEST = 8, 4  # pixels of a side; times the other side
_TYPES = ("float32", "float16", "float64", "bfloat16", "uint8")
_ADVICE = "if it is one all the same, say so with --image-input"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A graph input that takes images.

    Attributes:
        spec: The input as the model declares it.
        layout: "NCHW" or "NHWC"; of an input without channels, or of a flat one, the order
            that its values have.
        planes: (channels, height, width) of an input that is flat, else None.
    """

    spec: TensorSpec
    layout: str
    planes: tuple[int, int, int] | None = None

    @property
    def shape(self) -> tuple[int | str, ...]:
        """With axes for height and width, the batch first."""
        shape = self.spec.shape
        assert shape is not None
        if self.planes is None:
            return shape
        channels, height, width = self.planes
        rest = (
            (channels, height, width) if self.layout == "NCHW" else (height, width, channels)
        )
        return (shape[0], *rest)

    @property
    def axes(self) -> tuple[int, int]:
        """Those of height and width in `shape`."""
        return (2, 3) if len(self.shape) == 4 and self.layout == "NCHW" else (1, 2)

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """Height and width; None where it is dynamic."""
        height, width = (self.shape[axis] for axis in self.axes)
        return (
            height if isinstance(height, int) else None,
            width if isinstance(width, int) else None,
        )

    def unfolded(self, batch: np.ndarray) -> np.ndarray:
        """A batch as the model takes it, with axes for height and width."""
        if self.planes is None:
            return batch
        return batch.reshape(len(batch), *(int(length) for length in self.shape[1:]))


def find_image_input(model: LoadedModel, name: str | None, layout: str | None) -> ImageInput:
    """The input that takes images: the one that looks like it, or the one that is named.

    Args:
        model: The model.
        name: The user's word; such an input may be flat, or have no channels.
        layout: "NCHW" or "NHWC" where it was given.

    Raises:
        ModelError: There is none, or several.
        DataError: The layout cannot be decided.
    """
    if name is not None:
        return _as_image(_named(model, name), layout)
    reasons = {spec: _no_image(spec, layout) for spec in model.inputs}
    images = [spec for spec, reason in reasons.items() if reason is None]
    if len(images) == 1:
        return _as_image(images[0], layout)
    if images:
        listed = ", ".join(f"'{spec}'" for spec in images)
        raise ModelError(
            f"'{model.name}' has {len(images)} inputs that may be the image ({listed}): name "
            "one with --image-input"
        )
    told = "; ".join(f"'{spec}' {reason}" for spec, reason in reasons.items())
    raise ModelError(
        f"'{model.name}' has no image input, which an ensemble over views of an image needs: "
        f"{told or 'it has no inputs'}; {_ADVICE}"
    )


def _named(model: LoadedModel, name: str) -> TensorSpec:
    for spec in model.inputs:
        if spec.name == name:
            return spec
    listed = ", ".join(f"'{spec}'" for spec in model.inputs)
    raise ModelError(f"'{model.name}' has no input '{name}': it takes {listed}")


def _no_image(spec: TensorSpec, layout: str | None) -> str | None:
    """Why the shape is no image's; None if it is."""
    if spec.dtype not in _TYPES:
        return f"takes {spec.dtype or 'no tensor'}, and images are float or uint8"
    if spec.shape is None or len(spec.shape) != 4:
        return "has not the four axes of images"
    try:
        image = ImageInput(spec, layout or layout_of(spec))
    except DataError:
        return "does not tell which axis holds the channels: pass --layout NCHW or NHWC"
    channels = spec.shape[1 if image.layout == "NCHW" else 3]
    if channels not in (1, 3, 4) and isinstance(channels, int):
        return f"has {channels} channels, and images have 1, 3 or 4"
    sides = [side for side in image.sides if side is not None]
    if sides and min(sides) < _LEAST:
        return f"is {min(sides)} pixels wide or high, and images have {_LEAST} or more"
    if len(sides) == 2 and max(sides) > _LONGEST * min(sides):
        return (
            f"is {sides[0]} by {sides[1]}, longer than images are (a spectrogram, a text line "
            "or a table of numbers has no mirror image)"
        )
    return None


def _as_image(spec: TensorSpec, layout: str | None) -> ImageInput:
    if spec.dtype not in _TYPES:
        raise ModelError(
            f"input '{spec}' takes {spec.dtype or 'no tensor'}, and images are "
            f"{', '.join(_TYPES)}: no view of it can be made"
        )
    rank = None if spec.shape is None else len(spec.shape)
    if rank == 4:
        return ImageInput(spec, layout or layout_of(spec))
    if rank == 3 and not _has_channels(spec):
        return ImageInput(spec, "NCHW")
    if rank == 2:
        return _flat(spec, layout)
    raise ModelError(
        f"input '{spec}' has not the axes of a batch of images: four, three (grey, without "
        "channels), or two (flat); export the model with a batch axis, which may be 1"
    )


def _has_channels(spec: TensorSpec) -> bool:
    """[3, H, W] or [H, W, 3], one image without a batch; [1, H, W] is a batch of one."""
    first, *_, last = spec.shape or (0,)
    return first in (3, 4) or last in (1, 3, 4)


def _flat(spec: TensorSpec, layout: str | None) -> ImageInput:
    assert spec.shape is not None
    length = spec.shape[1]
    if isinstance(spec.shape[0], int) and spec.shape[0] > 1:
        raise ModelError(
            f"input '{spec}' may be one image without a batch axis, or a batch of flat ones: "
            "export the model with a dynamic batch, or with one of 1"
        )
    if isinstance(length, int):
        for channels in (1, 3):
            side = math.isqrt(length // channels)
            if side >= _LEAST and channels * side * side == length:
                if channels == 3 and layout is None:
                    raise ModelError(
                        f"input '{spec}' is flat and does not tell the order of its colours: "
                        "pass --layout NCHW (plane by plane) or --layout NHWC (pixel by pixel)"
                    )
                return ImageInput(spec, layout or "NCHW", (channels, side, side))
    raise ModelError(
        f"input '{spec}' is flat, and no square image of 1 or 3 channels has {length or '?'} "
        "values: export the model with four axes"
    )
