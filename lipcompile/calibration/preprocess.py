"""How an image becomes a model input: the resolved transform, and how it is resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image

from lipcompile.calibration.image_files import centre_crop, resized_shape, to_color
from lipcompile.calibration.preprocess_config import (
    INTERPOLATIONS,
    Config,
    Pair,
    Recipe,
    read_recipe,
)
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

_LEGAL: Final = {
    "interpolation": tuple(INTERPOLATIONS),
    "color": ("RGB", "BGR", "L"),
    "layout": ("NCHW", "NHWC"),
    "dtype": ("float32", "float16", "float64", "uint8"),
}
_MAX_SIDE = 65_536
T = TypeVar("T")


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
        if not all(map(math.isfinite, (self.rescale, *self.mean, *self.std))):
            raise OptionError("rescale, mean and std must be finite: NaN or Inf was given")
        if self.rescale <= 0 or min(self.std) <= 0:
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
        pixels = np.asarray(self._sized(to_color(image, self.color)), dtype=np.float32)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.color == "BGR":
            pixels = pixels[:, :, ::-1]
        scaled = pixels * np.float32(self.rescale)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        normal = (scaled - mean) / std
        if self.layout == "NCHW":
            normal = normal.transpose(2, 0, 1)
        # What float16 cannot hold becomes Inf, which the source reports with the file's name.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(normal, dtype=self.dtype)

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


def resolve(
    spec: TensorSpec,
    config: Config | None = None,
    *,
    input_size: int | Pair | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    rescale: float | None = None,
    layout: str | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    color: str | None = None,
) -> Preprocess:
    """The transform for a model input: flags over config over what the input itself tells.

    A flag on the geometry (`input_size`, `crop_pct`, `crop_mode`) replaces the resize and
    crop of a Hugging Face config by timm's rule on the sizes that the config implies.

    Args:
        spec: The model input that takes the image.
        config: A Hugging Face or timm config: path, folder or content.
        input_size: Final side, or (height, width), in pixels.
        mean: Subtracted after rescaling; one value, or one per channel.
        std: Divides after the mean is subtracted.
        rescale: Factor on the image values 0..255.
        layout: "NCHW" or "NHWC".
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        crop_pct: Share of the resized image that the crop keeps, in (0, 1].
        crop_mode: "center" keeps the aspect, "squash" does not.
        color: "RGB", "BGR" or "L".

    Raises:
        DataError: The input is not an image, the layout cannot be decided, the config cannot
            be used, or the result would not fit the input.
        OptionError: A value is not legal.
    """
    layout, channels, fixed = _image_axes(spec, layout)
    recipe = Recipe() if config is None else read_recipe(config)
    resize, crop, cover = _geometry(recipe, fixed, input_size, crop_pct, crop_mode)
    result = Preprocess(
        resize=resize,
        crop=crop,
        interpolation=_first(interpolation, recipe.interpolation, "bilinear"),
        color=_first(color, recipe.color, "L" if channels == 1 else "RGB"),
        rescale=_first(rescale, recipe.rescale, 1.0 if spec.dtype == "uint8" else 1 / 255),
        mean=_first(_values(mean), recipe.mean, (0.0,)),
        std=_first(_values(std), recipe.std, (1.0,)),
        layout=layout,
        dtype=str(spec.dtype),
        cover=cover,
    )
    _check_fit(result, spec, channels, fixed)
    return result


def _image_axes(
    spec: TensorSpec, layout: str | None
) -> tuple[str, int | str, tuple[int | str, int | str]]:
    """(layout, channels, (height, width)) of an image input; a str stands for dynamic."""
    advice = "give the data as .npz or .npy files instead of images"
    if spec.shape is None or len(spec.shape) not in (3, 4):
        raise DataError(f"input '{spec}' is not an image (rank 3 or 4): {advice}")
    if spec.dtype not in _LEGAL["dtype"]:
        raise DataError(
            f"input '{spec}' has dtype '{spec.dtype}', but images give"
            f" {', '.join(_LEGAL['dtype'])}: {advice}"
        )
    first, middle, last = spec.shape[-3:]
    layout = layout or _layout(spec, first, last)
    channels, sides = (last, (first, middle)) if layout == "NHWC" else (first, (middle, last))
    if isinstance(channels, int) and channels not in (1, 3):
        raise DataError(
            f"input '{spec}' has {channels} channels in layout {layout}, an image has 1 or 3:"
            f" {advice}, or pass the right --layout"
        )
    return layout, channels, sides


def _layout(spec: TensorSpec, first: int | str, last: int | str) -> str:
    if (first in (1, 3, 4)) != (last in (1, 3, 4)):
        return "NCHW" if first in (1, 3, 4) else "NHWC"
    # PyTorch exports with every axis dynamic are NCHW; no other exporter frees the channels.
    if isinstance(first, str) and isinstance(last, str):
        return "NCHW"
    raise DataError(
        f"input '{spec}' may be NCHW or NHWC: the length of its axes does not tell which holds"
        " the channels; pass --layout NCHW or --layout NHWC"
    )


def _geometry(
    recipe: Recipe,
    fixed: tuple[int | str, int | str],
    input_size: int | Pair | None,
    crop_pct: float | None,
    crop_mode: str | None,
) -> tuple[int | Pair | None, Pair | None, bool]:
    """(resize, crop, cover), by timm's rule unless the config defines the steps itself.

    Center: short side to floor(size / crop_pct), then crop to size. Squash: exactly to
    (floor(h / crop_pct), floor(w / crop_pct)), then crop.
    """
    flagged = (input_size, crop_pct, crop_mode) != (None, None, None)
    if recipe.steps is not None and not flagged:
        return *recipe.steps, False
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    size = size or recipe.size
    if size is None and isinstance(fixed[0], int) and isinstance(fixed[1], int):
        size = (fixed[0], fixed[1])
    pct = _first(crop_pct, recipe.crop_pct, 1.0)
    mode = _first(crop_mode, recipe.crop_mode, "center")
    if mode not in ("center", "squash"):
        raise OptionError(f"crop mode '{mode}' is not known: take one of center, squash")
    if not 0 < pct <= 1:
        raise OptionError(f"crop_pct is {pct:g}: take a share above 0, at most 1")
    if size is None:
        if flagged:
            raise OptionError(
                "crop_pct and crop_mode need a size, and the model's height and width are"
                " dynamic: pass --input-size too"
            )
        return None, None, False
    if len(size) != 2 or min(size) < 1:
        raise OptionError(
            f"input size is {input_size}: take pixels above 0, or (height, width)"
        )
    wide = (math.floor(size[0] / pct), math.floor(size[1] / pct))
    if mode == "squash":
        return wide, None if wide == size else size, False
    return (wide[0], size, False) if wide[0] == wide[1] else (wide, size, True)


def _check_fit(
    result: Preprocess,
    spec: TensorSpec,
    channels: int | str,
    fixed: tuple[int | str, int | str],
) -> None:
    got = 1 if result.color == "L" else 3
    if isinstance(channels, int) and channels != got:
        raise DataError(
            f"color '{result.color}' gives {got} channels, but input '{spec}' takes"
            f" {channels}: pass --color {'L' if channels == 1 else 'RGB'}"
        )
    size = result.output_size
    if size and any(isinstance(w, int) and w != g for w, g in zip(fixed, size, strict=True)):
        want = "x".join(str(side or "?") for side in fixed)
        raise DataError(
            f"preprocessing gives images of {_by(size)} (height x width), but input '{spec}'"
            f" takes {want}: pass an --input-size that fits, or another preprocessing config"
        )


def _values(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) if isinstance(value, int | float) else tuple(map(float, value))


def _first(flag: T | None, config: T | None, default: T) -> T:
    if flag is not None:
        return flag
    return default if config is None else config
