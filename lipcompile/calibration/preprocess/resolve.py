"""Which transform a model input takes: flags over config over what the input itself tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from lipcompile.calibration.preprocess.config import Config, read_recipe
from lipcompile.calibration.preprocess.config_fields import LEAST_SHARE, is_length
from lipcompile.calibration.preprocess.pixels import Pair
from lipcompile.calibration.preprocess.recipe import Recipe
from lipcompile.calibration.preprocess.transform import DTYPES, Preprocess
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

Sides = tuple[int | str, int | str]
T = TypeVar("T")


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


def _image_axes(spec: TensorSpec, layout: str | None) -> tuple[str, int | str, Sides]:
    """(layout, channels, (height, width)) of an image input; a str stands for dynamic."""
    advice = "give the data as .npz or .npy files instead of images"
    if spec.shape is None or len(spec.shape) not in (3, 4):
        raise DataError(f"input '{spec}' is not an image (rank 3 or 4): {advice}")
    if spec.dtype not in DTYPES:
        raise DataError(
            f"input '{spec}' has dtype '{spec.dtype}', but images give"
            f" {', '.join(DTYPES)}: {advice}"
        )
    first, middle, last = spec.shape[-3:]
    layout = layout or layout_of(spec)
    channels, sides = (last, (first, middle)) if layout == "NHWC" else (first, (middle, last))
    if isinstance(channels, int) and channels not in (1, 3):
        raise DataError(
            f"input '{spec}' has {channels} channels in layout {layout}, an image has 1 or 3:"
            f" {advice}, or pass the right --layout"
        )
    return layout, channels, sides


def layout_of(spec: TensorSpec) -> str:
    """ "NCHW" or "NHWC", as the lengths of the axes of an image input tell.

    Raises:
        DataError: They do not.
    """
    assert spec.shape is not None
    first, last = spec.shape[-3], spec.shape[-1]
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
    fixed: Sides,
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
    if not LEAST_SHARE <= pct <= 1:
        raise OptionError(f"crop_pct is {pct:g}: take a share above 0, at most 1")
    if size is None:
        if flagged:
            raise OptionError(
                "crop_pct and crop_mode need a size, and the model's height and width are"
                " dynamic: pass --input-size too"
            )
        return None, None, False
    if len(size) != 2 or not all(map(is_length, size)):
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
    fixed: Sides,
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
        gives = "x".join(map(str, size))
        raise DataError(
            f"preprocessing gives images of {gives} (height x width), but input '{spec}'"
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
