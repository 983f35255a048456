"""How an image becomes a model input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from PIL import Image

from lipcompile.calibration.preprocess.pixels import (
    INTERPOLATIONS,
    Pair,
    centre_crop,
    resized_shape,
    to_color,
)
from lipcompile.errors import DataError, OptionError

DTYPES: Final = ("float32", "float16", "float64", "uint8")
_LEGAL: Final = {
    "interpolation": tuple(INTERPOLATIONS),
    "color": ("RGB", "BGR", "L"),
    "layout": ("NCHW", "NHWC"),
    "dtype": DTYPES,
}
_MAX_SIDE = 65_536
_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Turns an image into one model input without the batch axis.

    Steps: colour, resize, centre crop, then (x * rescale - mean) / std in float32 on values
    0..255, then layout and cast.

    Attributes:
        resize: New short side (aspect kept), or (height, width), or None.
        crop: (height, width) of the centre crop, or None; smaller images are padded with 0
            before normalisation.
        interpolation: Pillow's filter of the resize.
        color: "RGB", "BGR" or "L".
        rescale: Factor on the image values 0..255.
        mean: One value, or one per channel in the order of `color`.
        std: As `mean`; all above 0.
        layout: "NCHW" gives [C, H, W], "NHWC" gives [H, W, C].
        dtype: NumPy name of the result's dtype; "uint8" takes the values unscaled.
        cover: With a `resize` pair, keep the aspect and cover (height, width).
    """

    resize: int | Pair | None = None
    crop: Pair | None = None
    interpolation: str = "bilinear"
    color: str = "RGB"
    rescale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    dtype: str = "float32"
    cover: bool = False

    def __post_init__(self) -> None:
        for key, legal in _LEGAL.items():
            got = getattr(self, key)
            if got not in legal:
                raise OptionError(
                    f"{key} '{got}' is not known: take one of {', '.join(legal)}"
                )
        self._check_sizes()
        self._check_numbers()

    def _check_sizes(self) -> None:
        for key, size in (("resize", self.resize), ("crop", self.crop)):
            sides = size if isinstance(size, tuple) else (size,) if size is not None else ()
            whole = all(isinstance(s, int) and not isinstance(s, bool) for s in sides)
            if not whole or any(not 0 < s <= _MAX_SIDE for s in sides):
                raise OptionError(f"{key} is {size}: take whole pixels from 1 to {_MAX_SIDE}")
            if isinstance(size, tuple) and len(size) != 2:
                raise OptionError(f"{key} is {size}: take (height, width)")
            most = Image.MAX_IMAGE_PIXELS or math.inf
            if len(sides) == 2 and sides[0] * sides[1] > most:
                raise OptionError(
                    f"{key} is {size}, above Pillow's limit of {most} pixels: take less"
                )
        if self.cover and not isinstance(self.resize, tuple):
            raise OptionError(f"cover needs resize as (height, width), got {self.resize}")

    def _check_numbers(self) -> None:
        channels = 1 if self.color == "L" else 3
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise OptionError(
                    f"{key} has {len(values)} values, but color '{self.color}' has {channels}"
                    f" channels: give 1 or {channels} values"
                )
        numbers = (self.rescale, *self.mean, *self.std)
        if not all(abs(x) <= _MOST for x in numbers):  # NaN as well
            raise OptionError(
                "rescale, mean and std must be finite: NaN or Inf was given, or what is Inf in"
                " float32"
            )
        if self.rescale <= 0 or float(np.float32(min(self.std))) <= 0:
            raise OptionError(
                f"rescale is {self.rescale} and std is {list(self.std)}: both must be above 0"
            )
        plain = self.rescale == 1 and not any(self.mean) and all(s == 1 for s in self.std)
        if self.dtype == "uint8" and not plain:
            raise OptionError(
                f"a uint8 input takes raw values, got rescale {self.rescale:g}, mean"
                f" {list(self.mean)}, std {list(self.std)}: pass --rescale 1 --mean 0 --std 1"
            )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """One sample: [C, H, W] or [H, W, C] of `dtype`.

        Raises:
            DataError: The image's mode cannot be converted without loss, or the resized image
                would exceed Pillow's limit on pixels.
        """
        pixels = self.pixels(image)
        if self.color == "BGR":
            pixels = pixels[:, :, ::-1]
        # What the type cannot hold becomes Inf, which the source reports with the file's name.
        with np.errstate(over="ignore", invalid="ignore"):
            # Planes, worked on in place: seven times as fast as whole pixels with temporaries.
            planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
            planes *= np.float32(self.rescale)
            planes -= np.array(self.mean, np.float32)[:, None, None]
            planes /= np.array(self.std, np.float32)[:, None, None]
            normal = planes if self.layout == "NCHW" else planes.transpose(1, 2, 0)
            return np.ascontiguousarray(normal, dtype=self.dtype)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The image's uint8 values [H, W, C] before any arithmetic: RGB, or L.

        Raises:
            DataError: As in `__call__`.
        """
        pixels = np.asarray(self._sized(to_color(image, self.color)))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def _sized(self, image: Image.Image) -> Image.Image:
        height, width = resized_shape(image.height, image.width, self.resize, self.cover)
        if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
            raise DataError(
                f"an image of {image.height}x{image.width} (height x width) would be resized"
                f" to {height}x{width}, above Pillow's limit of {Image.MAX_IMAGE_PIXELS}"
                " pixels: leave this image out, or pass --crop-mode squash"
            )
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        return centre_crop(image, *self.crop) if self.crop else image

    @property
    def output_size(self) -> Pair | None:
        """(height, width) of every result, or None where it depends on the image."""
        if self.crop is None and isinstance(self.resize, tuple) and not self.cover:
            return self.resize
        return self.crop

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; `from_json` gives an equal value back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """The value that `to_json` wrote.

        Raises:
            DataError: A key is missing, unknown, or holds a value of the wrong type.
        """
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise DataError(
                f"stored preprocessing has keys {sorted(data)}, expected {sorted(names)}: it"
                " was written by another version or edited; calibrate again"
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        try:
            return cls(**values)
        except TypeError as err:
            raise DataError(
                f"stored preprocessing holds a wrong type ({err}): calibrate again"
            ) from err

    def __str__(self) -> str:
        steps = []
        if self.resize is not None:
            kind = "" if isinstance(self.resize, tuple) else "short side "
            kind = "to cover " if self.cover else kind
            steps.append(f"resize {kind}{_by(self.resize)} {self.interpolation}")
        if self.crop is not None:
            steps.append(f"centre crop {_by(self.crop)}")
        steps.append(self.color)
        if self.rescale != 1:
            factor = "1/255" if self.rescale == 1 / 255 else f"{self.rescale:g}"
            steps.append(f"x * {factor}")
        if any(self.mean) or any(s != 1 for s in self.std):
            steps.append(f"(x - {_row(self.mean)}) / {_row(self.std)}")
        return ", ".join([*steps, f"{self.layout} {self.dtype}"])


def _by(size: int | Pair) -> str:
    return f"{size[0]}x{size[1]}" if isinstance(size, tuple) else str(size)


def _row(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in values) + "]"
