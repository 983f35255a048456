"""What a preprocessing config says: Hugging Face's preprocessor_config.json or timm's."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from lipcompile.errors import DataError

Config = str | os.PathLike[str] | Mapping[str, Any]
Pair = tuple[int, int]

INTERPOLATIONS: Final = {f.name.lower(): f for f in Image.Resampling}
_MAX_BYTES = 1_000_000
_FILES = ("preprocessor_config.json", "config.json")
_BY_HAND = "leave --preprocess out and give --input-size, --mean and --std, or give .npz data"

_HF_KEYS = frozenset(
    ["image_processor_type", "do_resize", "do_center_crop", "do_rescale", "image_mean"]
)
# Other do_* steps change the tensor in ways that we do not follow; labels are not read.
_HF_STEPS = (
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize"),
    *("do_convert_rgb", "do_flip_channel_order", "do_reduce_labels"),
)
_HF_OTHER = ("rescale_offset", "keep_aspect_ratio", "size_divisor", "ensure_multiple_of")
# Old configs write size as one int; these processors read it as the short side.
_HF_SHORT_SIDE = (
    *("CLIP", "ChineseCLIP", "ConvNext", "PoolFormer", "Levit", "Bit"),
    *("ViTHybrid", "MobileNetV1", "MobileNetV2", "MobileViT", "VideoMAE"),
)
_TIMM_KEYS = frozenset(["mean", "std", "interpolation", "crop_pct"])


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a config says; None where it says nothing.

    Attributes:
        steps: The resize and the crop exactly as the config defines them, or None where the
            sizes follow from `size`, `crop_pct` and `crop_mode` alone.
        size: Final (height, width).
        crop_pct: Share of the resized image that the crop keeps, in (0, 1].
        crop_mode: "center" or "squash".
        interpolation: As in Preprocess; likewise the fields that follow.
    """

    steps: tuple[int | Pair | None, Pair | None] | None = None
    size: Pair | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    color: str | None = None
    rescale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_recipe(config: Config) -> Recipe:
    """Reads a config: a JSON file, the folder that holds one, or its content.

    Raises:
        DataError: The config cannot be read, is of neither format, has a value of the wrong
            type, or asks for a step that LipCompile does not do.
    """
    values = config if isinstance(config, Mapping) else _load(Path(config))
    for inner in ("pretrained_cfg", "default_cfg"):
        if isinstance(values.get(inner), Mapping):
            return _timm(values[inner])
    if "input_size" in values and _TIMM_KEYS & values.keys():
        return _timm(values)
    if _HF_KEYS & values.keys():
        return _hugging_face(values)
    raise DataError(
        "the preprocessing config is neither a Hugging Face preprocessor_config.json (no"
        " 'do_resize', 'image_mean', ...) nor a timm config.json (no 'pretrained_cfg' or"
        f" 'input_size'); it has the keys {sorted(map(str, values))[:8]}: {_BY_HAND}"
    )


def _load(path: Path) -> Mapping[str, Any]:
    if os.path.isdir(path):
        path = next((path / f for f in _FILES if (path / f).is_file()), path / _FILES[0])
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(
                f"preprocessing config '{path}' is above 1 MB, so it is none: check the path"
            )
        values = json.loads(data)
    except OSError as err:
        raise DataError(
            f"preprocessing config '{path}' cannot be read ({err.strerror}): check the path"
        ) from err
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"preprocessing config '{path}' is not valid JSON ({err}): check the file"
        ) from err
    if not isinstance(values, dict):
        raise DataError(
            f"preprocessing config '{path}' holds a JSON {type(values).__name__}, expected an"
            " object with keys: check the file"
        )
    return values


def _hugging_face(config: Mapping[str, Any]) -> Recipe:
    kind = str(
        config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    )
    family = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", kind)
    _refuse_steps(config, family)
    steps, crop_pct, squash = _hf_steps(config, family)
    resize, crop = steps
    mean, std = _hf_normalize(config, family)
    flip = _flag(config, "do_flip_channel_order", False)
    if flip:
        # Hugging Face flips after normalising, so its mean and std are in RGB order.
        mean, std = mean[::-1], std[::-1]
    rescale = _number(config, "rescale_factor", 1 / 255)
    return Recipe(
        steps=steps,
        size=crop or (resize if isinstance(resize, tuple) else None),
        crop_pct=crop_pct,
        crop_mode="squash" if squash else "center",
        interpolation=_hf_filter(config),
        color="BGR" if flip else None,
        rescale=rescale if _flag(config, "do_rescale", True) else 1.0,
        mean=mean,
        std=std,
    )


def _refuse_steps(config: Mapping[str, Any], family: str) -> None:
    steps = [k for k in config if str(k).startswith("do_") and k not in _HF_STEPS]
    for key in (*steps, *_HF_OTHER):
        value = config.get(key)
        if value and not (key == "ensure_multiple_of" and value == 1):
            raise DataError(
                f"preprocessing config asks for '{key}': {value}, which LipCompile does not"
                f" do: {_BY_HAND}"
            )
    if family == "Perceiver":
        raise DataError(
            "preprocessing config is for 'PerceiverImageProcessor', which crops before it"
            f" resizes; LipCompile does not do that: {_BY_HAND}"
        )


def _hf_steps(
    config: Mapping[str, Any], family: str
) -> tuple[tuple[int | Pair | None, Pair | None], float | None, bool]:
    """((resize, crop), crop_pct, squash) of a Hugging Face config.

    ConvNext: below 384, resize the short side to int(size / crop_pct) and crop to size; from
    384 on, resize exactly. PoolFormer: crop_pct widens the resize, and the crop stands alone.
    LeViT: the short side is int(256 / 224 * size).
    """
    crops = _flag(config, "do_center_crop", config.get("crop_size") is not None)
    crop = _square(_size(config, "crop_size", short=False)) if crops else None
    if not _flag(config, "do_resize", config.get("size") is not None):
        return (None, crop), None, False
    short = family in _HF_SHORT_SIDE or (not family and (crops or "crop_pct" in config))
    size = _size(config, "size", short=short)
    pct = _fraction(config, "crop_pct", 224 / 256 if family == "ConvNext" else None)
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


def _hf_normalize(
    config: Mapping[str, Any], family: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # MobileViT has no normalisation; its configs name neither the step nor a mean.
    if not _flag(config, "do_normalize", config.get("image_mean") is not None):
        return (0.0,), (1.0,)
    mean, std = _numbers(config, "image_mean"), _numbers(config, "image_std")
    if family == "EfficientNet" and _flag(config, "include_top", True):
        # It divides by std a second time: (x - mean) / std / std.
        std = tuple(s * s for s in std)
    return mean, std


def _hf_filter(config: Mapping[str, Any]) -> str | None:
    value = config.get("resample")
    if value is None:
        return None
    for name, number in INTERPOLATIONS.items():
        if not isinstance(value, bool) and value == number:
            return name
    raise _wrong("resample", "Pillow's number of a filter, 0 to 5", value)


def _timm(config: Mapping[str, Any]) -> Recipe:
    """A timm config; what it leaves out has the defaults of timm's resolve_data_config."""
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise DataError(
            f"preprocessing config asks for 'crop_mode': {mode!r}, expected 'center' or"
            f" 'squash': {_BY_HAND}"
        )
    interpolation = config.get("interpolation") or "bicubic"
    if not isinstance(interpolation, str) or interpolation not in INTERPOLATIONS:
        raise _wrong("interpolation", f"one of {', '.join(INTERPOLATIONS)}", interpolation)
    shape = config.get("input_size") or (3, 224, 224)
    if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(map(_is_int, shape)):
        raise _wrong("input_size", "[channels, height, width]", shape)
    return Recipe(
        size=(shape[1], shape[2]),
        crop_pct=_fraction(config, "crop_pct", 0.875),
        crop_mode=mode,
        interpolation=interpolation,
        mean=_numbers(config, "mean", (0.485, 0.456, 0.406)),
        std=_numbers(config, "std", (0.229, 0.224, 0.225)),
    )


def _wrong(key: str, expected: str, got: object) -> DataError:
    return DataError(
        f"preprocessing config has '{key}': {got!r}, expected {expected}: correct the file"
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return default if value is None else value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is not None and not _is_number(value):
        raise _wrong(key, "a number", value)
    return default if value is None else float(value)


def _fraction(config: Mapping[str, Any], key: str, default: float | None) -> float | None:
    value = config.get(key)
    if value is not None and not (_is_number(value) and 0 < value <= 1):
        raise _wrong(key, "a number above 0, at most 1", value)
    return default if value is None else float(value)


def _numbers(
    config: Mapping[str, Any], key: str, default: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    value = config.get(key)
    if value is None and default is not None:
        return default
    row = value if isinstance(value, list | tuple) else [value]
    if not row or not all(map(_is_number, row)):
        raise _wrong(key, "a number, or a list with one per channel", value)
    return tuple(map(float, row))


def _size(config: Mapping[str, Any], key: str, *, short: bool) -> int | Pair:
    """An int for a short side, a pair for (height, width)."""
    value = config.get(key)
    if _is_int(value):
        return int(value) if short else (int(value), int(value))  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        named = {k: v for k, v in value.items() if v is not None}
        if named.keys() == {"shortest_edge"} and _is_int(named["shortest_edge"]):
            return int(named["shortest_edge"])
        if named.keys() == {"height", "width"} and all(map(_is_int, named.values())):
            return named["height"], named["width"]
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_int, value)):
        return value[0], value[1]
    raise _wrong(key, 'an int, {"height", "width"} or {"shortest_edge"}', value)


def _square(size: int | Pair) -> Pair:
    return size if isinstance(size, tuple) else (size, size)
