"""Hugging Face's preprocessor_config.json as a recipe."""

from __future__ import annotations

import re

from lipcompile.calibration.preprocess.config_fields import (
    BY_HAND,
    Fields,
    read_flag,
    read_fraction,
    read_number,
    read_numbers,
    read_size,
    wrong_field,
)
from lipcompile.calibration.preprocess.pixels import INTERPOLATIONS, Pair
from lipcompile.calibration.preprocess.recipe import Recipe
from lipcompile.errors import DataError

HUGGING_FACE_KEYS = frozenset(
    ["image_processor_type", "do_resize", "do_center_crop", "do_rescale", "image_mean"]
)
# Other do_* steps change the tensor in ways that we do not follow; labels are not read.
_KNOWN_STEPS = (
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize"),
    *("do_convert_rgb", "do_flip_channel_order", "do_reduce_labels"),
)
_UNSUPPORTED_FIELDS = (
    "rescale_offset",
    "keep_aspect_ratio",
    "size_divisor",
    "ensure_multiple_of",
)
# Old configs write size as one int; these processors read it as the short side.
_SHORT_SIDE = (
    *("CLIP", "ChineseCLIP", "ConvNext", "PoolFormer", "Levit", "Bit"),
    *("ViTHybrid", "MobileNetV1", "MobileNetV2", "MobileViT", "VideoMAE"),
)


def read_hugging_face(config: Fields) -> Recipe:
    """The recipe of a Hugging Face config.

    Raises:
        DataError: A field has the wrong type, or asks for a step that LipCompile does not do.
    """
    kind = str(
        config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    )
    family = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", kind)
    _refuse_steps(config, family)
    steps, crop_pct, squash = _steps(config, family)
    resize, crop = steps
    mean, std = _normalize(config, family)
    flip = read_flag(config, "do_flip_channel_order", False)
    if flip:
        # Hugging Face flips after normalising, so its mean and std are in RGB order.
        mean, std = mean[::-1], std[::-1]
    rescale = read_number(config, "rescale_factor", 1 / 255)
    return Recipe(
        steps=steps,
        size=crop or (resize if isinstance(resize, tuple) else None),
        crop_pct=crop_pct,
        crop_mode="squash" if squash else "center",
        interpolation=_filter(config),
        color="BGR" if flip else None,
        rescale=rescale if read_flag(config, "do_rescale", True) else 1.0,
        mean=mean,
        std=std,
    )


def _refuse_steps(config: Fields, family: str) -> None:
    steps = [k for k in config if str(k).startswith("do_") and k not in _KNOWN_STEPS]
    for key in (*steps, *_UNSUPPORTED_FIELDS):
        value = config.get(key)
        if value and not (key == "ensure_multiple_of" and value == 1):
            raise DataError(
                f"preprocessing config asks for '{key}': {value}, which LipCompile does not"
                f" do: {BY_HAND}"
            )
    if family == "Perceiver":
        raise DataError(
            "preprocessing config is for 'PerceiverImageProcessor', which crops before it"
            f" resizes; LipCompile does not do that: {BY_HAND}"
        )


def _steps(
    config: Fields, family: str
) -> tuple[tuple[int | Pair | None, Pair | None], float | None, bool]:
    """((resize, crop), crop_pct, squash) of a Hugging Face config.

    ConvNext: below 384, resize the short side to int(size / crop_pct) and crop to size; from
    384 on, resize exactly. PoolFormer: crop_pct widens the resize, and the crop stands alone.
    LeViT: the short side is int(256 / 224 * size).
    """
    crops = read_flag(config, "do_center_crop", config.get("crop_size") is not None)
    crop = _square(read_size(config, "crop_size", short=False)) if crops else None
    if not read_flag(config, "do_resize", config.get("size") is not None):
        return (None, crop), None, False
    short = family in _SHORT_SIDE or (not family and (crops or "crop_pct" in config))
    size = read_size(config, "size", short=short)
    pct = read_fraction(config, "crop_pct", 224 / 256 if family == "ConvNext" else None)
    if pct is None:
        size = int(256 / 224 * size) if family == "Levit" and isinstance(size, int) else size
        share = crop[0] / size if crop and isinstance(size, int) else None
        share = share if share and share <= 1 else None
        return (size, crop), share, isinstance(size, tuple)
    if not crops and isinstance(size, int):
        target = (size, size)
        steps = (target, None) if size >= 384 else (int(size / pct), target)
        return steps, None if size >= 384 else pct, size >= 384
    if isinstance(size, tuple) and size[0] == size[1]:
        size = size[0]
    wide = (
        int(size / pct) if isinstance(size, int) else (int(size[0] / pct), int(size[1] / pct))
    )
    return (wide, crop), pct, isinstance(wide, tuple)


def _normalize(config: Fields, family: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # MobileViT has no normalisation; its configs name neither the step nor a mean.
    if not read_flag(config, "do_normalize", config.get("image_mean") is not None):
        return (0.0,), (1.0,)
    mean, std = read_numbers(config, "image_mean"), read_numbers(config, "image_std")
    if family == "EfficientNet" and read_flag(config, "include_top", True):
        # It divides by std a second time: (x - mean) / std / std.
        std = tuple(s * s for s in std)
    return mean, std


def _filter(config: Fields) -> str | None:
    value = config.get("resample")
    if value is None:
        return None
    for name, number in INTERPOLATIONS.items():
        if not isinstance(value, bool) and value == number:
            return name
    raise wrong_field("resample", "Pillow's number of a filter, 0 to 5", value)


def _square(size: int | Pair) -> Pair:
    return size if isinstance(size, tuple) else (size, size)
