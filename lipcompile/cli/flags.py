"""Flags that commands share; `options.py` makes option values of their text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from lipcompile.cli.show import format_flag

DATA_KINDS = (
    "a folder of images, a list file, .npy, .npz, .tar shards, .parquet or .arrow files, "
    "a URL, or random:N."
)
DATA_HELP = f"Calibration data: {DATA_KINDS}"
Command = TypeVar("Command", bound=Callable[..., Any])


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
                "--readers",
                type=int,
                metavar="N",
                help="Threads that read ahead of the model.  [default: one a core, at most 8; "
                "none for small samples]",
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


def running_flags(command: Command) -> Command:
    """--runner --ray-address --resume: where a scan runs, and from where on."""
    return _apply(
        [
            click.option(
                "--runner",
                type=click.Choice(["local", "ray"]),
                default="local",
                show_default=True,
                help="Run the scan in this process, or on the workers of a Ray cluster.",
            ),
            click.option(
                "--ray-address",
                metavar="A",
                help="Of the cluster.  [default: start one on this machine]",
            ),
            click.option(
                "--resume/--no-resume",
                default=True,
                show_default=True,
                help="Go on where a killed scan for the same output stood.",
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


def attack_flags(command: Command) -> Command:
    """--norm --attacks --device: how models are attacked, but for the radius."""
    return _apply(
        [
            click.option(
                "--norm",
                type=click.Choice(["linf", "l2"]),
                default="linf",
                show_default=True,
                help="Of the perturbation.",
            ),
            click.option(
                "--attacks",
                type=click.Choice(["fast", "standard"]),
                default="fast",
                show_default=True,
                help="APGD-CE, APGD-T and short black-box attacks (fast), or all of "
                "AutoAttack too.",
            ),
            click.option(
                "--device",
                default="cpu",
                show_default=True,
                metavar="NAME",
                help="cpu or cuda.",
            ),
        ]
    )(command)


def label_flags(command: Command) -> Command:
    """--labels --classes --scores: what a classifier is right about."""
    return _apply(
        [
            click.option(
                "--labels",
                metavar="FILE",
                help="CSV or JSON with file and label, if not in the data.",
            ),
            click.option(
                "--classes", metavar="FILE", help="Class names in the model's order."
            ),
            click.option(
                "--scores",
                metavar="NAME",
                help="Model output with the class scores, if it has several.",
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
