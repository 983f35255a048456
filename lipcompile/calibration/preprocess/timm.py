"""timm's config.json, or its content, as a recipe."""

from __future__ import annotations

from lipcompile.calibration.preprocess.config_fields import (
    BY_HAND,
    Fields,
    is_length,
    read_fraction,
    read_numbers,
    wrong_field,
)
from lipcompile.calibration.preprocess.pixels import INTERPOLATIONS
from lipcompile.calibration.preprocess.recipe import Recipe
from lipcompile.errors import DataError

TIMM_KEYS = frozenset(["mean", "std", "interpolation", "crop_pct"])


def read_timm(config: Fields) -> Recipe:
    """A timm config; what it leaves out has the defaults of timm's resolve_data_config.

    Raises:
        DataError: A field has the wrong type, or the crop mode is not supported.
    """
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise DataError(
            f"preprocessing config asks for 'crop_mode': {mode!r}, expected 'center' or"
            f" 'squash': {BY_HAND}"
        )
    interpolation = config.get("interpolation") or "bicubic"
    if not isinstance(interpolation, str) or interpolation not in INTERPOLATIONS:
        raise wrong_field(
            "interpolation", f"one of {', '.join(INTERPOLATIONS)}", interpolation
        )
    shape = config.get("input_size") or (3, 224, 224)
    if (
        not isinstance(shape, list | tuple)
        or len(shape) != 3
        or not all(map(is_length, shape))
    ):
        raise wrong_field("input_size", "[channels, height, width]", shape)
    return Recipe(
        size=(shape[1], shape[2]),
        crop_pct=read_fraction(config, "crop_pct", 0.875),
        crop_mode=mode,
        interpolation=interpolation,
        mean=read_numbers(config, "mean", (0.485, 0.456, 0.406)),
        std=read_numbers(config, "std", (0.229, 0.224, 0.225)),
    )
