"""Flags that commands share, and how their text becomes option values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from lipcompile.calibration.scan import ScanOptions
from lipcompile.cli.show import format_flag
from lipcompile.errors import OptionError
from lipcompile.ops import LINEAR_OPS
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector
from lipcompile.text import parse_ratio

DATA_HELP = "Calibration data: a folder of images, a list file, .npy, .npz, or random:N."
Command = TypeVar("Command", bound=Callable[..., Any])
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


def _apply(decorators: Iterable[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    ordered = list(decorators)

    def decorate(command: Command) -> Command:
        for decorator in reversed(ordered):
            command = decorator(command)
        return command

    return decorate


def selection_flags(command: Command) -> Command:
    """--rule --include --exclude --op-types"""
    return _apply(
        [
            click.option(
                "--rule",
                type=click.Choice(["auto", "mlp", "all"]),
                default="auto",
                show_default=True,
                help="Which linear layers: all but stem, head and attention projections "
                "(auto), FC1/FC2 pairs (mlp), or every one.",
            ),
            click.option(
                "--include",
                multiple=True,
                metavar="REGEX",
                help="Only layers whose name matches; may be repeated.",
            ),
            click.option(
                "--exclude",
                multiple=True,
                metavar="REGEX",
                help="Leave out layers whose name matches; may be repeated.",
            ),
            click.option(
                "--op-types",
                metavar="OPS",
                help="Only these, comma-separated: Conv, ConvTranspose, Gemm, MatMul.",
            ),
        ]
    )(command)


def data_flags(command: Command) -> Command:
    """How calibration data is read."""
    return _apply(
        [
            click.option(
                "--samples", type=int, metavar="N", help="At most N samples, drawn by --seed."
            ),
            click.option(
                "--batch-size",
                type=int,
                metavar="N",
                help="Samples per run.  [default: by size]",
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Of --samples."
            ),
            click.option(
                "--on-bad-sample",
                type=click.Choice(["fail", "skip"]),
                default="fail",
                show_default=True,
                help="What to do with samples that cannot be read.",
            ),
            click.option(
                "--on-nonfinite",
                type=click.Choice(["fail", "skip"]),
                default="fail",
                show_default=True,
                help="What to do with samples that make an activation NaN or infinite.",
            ),
        ]
    )(command)


def image_flags(command: Command) -> Command:
    """How an image becomes a tensor."""
    return _apply(
        [
            click.option(
                "--preprocess",
                metavar="JSON",
                help="Hugging Face preprocessor_config.json or timm config.json, as it is.",
            ),
            click.option("--input-size", metavar="S|HxW", help="Size that the model takes."),
            click.option("--mean", metavar="M[,M,M]", help="Subtracted after rescaling."),
            click.option("--std", metavar="S[,S,S]", help="Divided by after the mean."),
            click.option(
                "--rescale",
                metavar="X",
                help="Factor on image values 0..255.  [default: 1/255]",
            ),
            click.option(
                "--layout", type=click.Choice(["NCHW", "NHWC"], case_sensitive=False)
            ),
            click.option(
                "--interpolation",
                type=click.Choice(
                    ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
                ),
                help="Of the resize.  [default: bilinear]",
            ),
            click.option(
                "--crop-pct",
                type=float,
                metavar="X",
                help="Share of the resized image that the centre crop keeps (timm).",
            ),
            click.option(
                "--crop-mode",
                type=click.Choice(["center", "squash"]),
                help="Keep the aspect when resizing, or not (timm).",
            ),
            click.option(
                "--color",
                type=click.Choice(["RGB", "BGR", "L"]),
                help="Order of the channels.",
            ),
        ]
    )(command)


def runtime_flags(command: Command) -> Command:
    """Where models run."""
    return _apply(
        [
            click.option(
                "--providers",
                default="cpu",
                show_default=True,
                metavar="LIST",
                help="Execution providers in order of preference: cpu, cuda, tensorrt, ...",
            ),
            click.option(
                "--allow-cpu-fallback",
                is_flag=True,
                help="Run on the CPU where a provider is not active.",
            ),
            click.option(
                "--threads",
                type=int,
                default=0,
                metavar="N",
                help="Threads of ONNX Runtime.  [default: all cores]",
            ),
        ]
    )(command)


def output_flags(command: Command) -> Command:
    """How results and progress are shown."""
    return _apply(
        [
            format_flag,
            click.option("--no-progress", is_flag=True, help="Show no progress."),
            click.option(
                "-v", "--verbose", is_flag=True, help="Let ONNX Runtime's warnings through."
            ),
            click.option(
                "-q", "--quiet", is_flag=True, help="Print neither result nor progress."
            ),
        ]
    )(command)


def scanning_flags(command: Command) -> Command:
    """All flags of a command that scans data: `scanning_options` reads them."""
    return _apply([selection_flags, data_flags, image_flags, runtime_flags, output_flags])(
        command
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
