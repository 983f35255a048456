"""How the text of shared flags becomes option values."""

from __future__ import annotations

from typing import Any

from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.sources.picking import WHOLE
from lipcompile.errors import OptionError
from lipcompile.ops import LINEAR_OPS
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector
from lipcompile.text import parse_ratio

_IMAGE_FLAGS = (
    "input_size",
    "mean",
    "std",
    "rescale",
    "layout",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "color",
)


def scanning_options(flags: dict[str, Any]) -> tuple[Selector, ScanOptions, RuntimeOptions]:
    """Takes the flags of selection, data and runtime out of `flags`."""
    return selector_from(flags), scan_from(flags), runtime_from(flags)


def selector_from(flags: dict[str, Any]) -> Selector:
    """Takes the selection flags out of `flags`."""
    return Selector(
        rule=flags.pop("rule"),
        include=flags.pop("include"),
        exclude=flags.pop("exclude"),
        op_types=tuple(_operator(word) for word in _words(flags.pop("op_types"))),
    )


def scan_from(flags: dict[str, Any]) -> ScanOptions:
    """Takes the data and image flags out of `flags`."""
    return ScanOptions(
        samples=flags.pop("samples"),
        batch_size=flags.pop("batch_size"),
        seed=flags.pop("seed"),
        on_bad_sample=flags.pop("on_bad_sample"),
        on_nonfinite=flags.pop("on_nonfinite"),
        readers=flags.pop("readers"),
        resume=flags.pop("resume", True),
        runner=flags.pop("runner", "local"),
        ray_address=flags.pop("ray_address", None),
        shard=flags.pop("shard", None) or WHOLE,
        **image_from(flags),
    )


def image_from(flags: dict[str, Any]) -> dict[str, Any]:
    """Takes the image flags out of `flags`: `preprocess` and `image_flags`."""
    image = {name: flags.pop(name) for name in _IMAGE_FLAGS}
    image["input_size"] = parse_size(image["input_size"])
    for name in ("mean", "std"):
        image[name] = parse_numbers(name, image[name])
    if image["rescale"] is not None:
        image["rescale"] = _number("rescale", image["rescale"])
    given = {name: value for name, value in image.items() if value is not None}
    return {"preprocess": flags.pop("preprocess"), "image_flags": given}


def runtime_from(flags: dict[str, Any]) -> RuntimeOptions:
    """Takes the runtime flags out of `flags`."""
    return RuntimeOptions(
        providers=_words(flags.pop("providers")),
        allow_cpu_fallback=flags.pop("allow_cpu_fallback"),
        threads=flags.pop("threads"),
        verbose=flags.pop("verbose"),
    )


def _operator(word: str) -> str:
    """The operator in its own spelling, where only the case differs."""
    return next((name for name in LINEAR_OPS if name.lower() == word.lower()), word)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def parse_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """ "0.485,0.456,0.406", where each may be a ratio."""
    return None if text is None else tuple(_number(name, word) for word in _words(text))


def _number(name: str, text: str) -> float:
    try:
        return parse_ratio(text)
    except ValueError as error:
        raise OptionError(
            f"--{name} '{text}' is no number: write it like 0.485 or 1/255"
        ) from error


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """ "224", or "224x192" for height and width."""
    if text is None:
        return None
    words = text.lower().replace(",", "x").split("x")
    try:
        sizes = [int(word) for word in words]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2):
        raise OptionError(f"--input-size '{text}' is no size: write it like 224 or 224x192")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])
