"""lipcompile audit"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import click

from lipcompile import atomic, model_io
from lipcompile.cli.options import image_flags, image_from
from lipcompile.cli.show import format_flag, show, unheard
from lipcompile.errors import GateFailed, OptionError, OutputError


@click.command("audit")
@click.argument("hardened")
@click.option("--original", required=True, metavar="MODEL", help="The model before hardening.")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Labelled images: a folder of class folders, a CSV, or an .npz.",
)
@click.option(
    "--eps",
    required=True,
    metavar="X",
    help="Radius in pixel units in [0, 1], before normalisation. Also 8/255.",
)
@click.option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    default="linf",
    show_default=True,
    help="Of the perturbation.",
)
@click.option(
    "--samples",
    default="500",
    show_default=True,
    metavar="N|all",
    help="At most N images, drawn by --data-seed.",
)
@click.option(
    "--attacks",
    type=click.Choice(["fast", "standard"]),
    default="fast",
    show_default=True,
    help="APGD-CE, APGD-T and short black-box attacks (fast), or all of AutoAttack too.",
)
@click.option(
    "--device", default="cpu", show_default=True, metavar="NAME", help="cpu or cuda."
)
@click.option(
    "--labels", metavar="FILE", help="CSV or JSON with file and label, if not in the data."
)
@click.option("--classes", metavar="FILE", help="Class names in the model's order.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the attacks.")
@click.option(
    "--data-seed", type=int, default=0, show_default=True, help="Of the images drawn."
)
@click.option(
    "--scores", metavar="NAME", help="Model output with the class scores, if it has several."
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Images per batch.  [default: by size]"
)
@click.option("--threads", type=int, default=0, metavar="N", help="[default: all cores]")
@click.option(
    "--min-robust-accuracy",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where the hardened model's worst case is lower, or masked.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where its clean or worst-case accuracy is lower than the original's "
    "by more.",
)
@click.option(
    "-o", "--output", metavar="JSON", help="Write the result as JSON to this file as well."
)
@click.option(
    "--save-examples",
    metavar="NPZ",
    help="Write what broke each image of each model, for others to replay.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option(
    "--journal",
    metavar="DIR",
    help="Keep intermediate results there, also for later audits.  [default: beside "
    "HARDENED until the audit is done]",
)
@image_flags
@format_flag
@click.option("--no-progress", is_flag=True, help="Do not say what was done so far.")
@click.option("-q", "--quiet", is_flag=True, help="Print neither result nor progress.")
def command(
    hardened: str,
    original: str,
    data: str,
    output: str | None,
    save_examples: str | None,
    force: bool,
    samples: str,
    journal: str | None,
    format_: str,
    no_progress: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Attack a hardened model and its original, and compare them.

    Every attack runs on both models and the same images; an image counts as robust when
    nothing that any attack found changes the class in ONNX Runtime. Prints a verdict:
    improved, no measurable change, worse, or masked. An interrupted audit goes on where it
    was when it is started again.

    \b
    Example:
      lipcompile audit model.hardened.onnx --original model.onnx --data test/ --eps 8/255
    """
    # Threads of torch that wait actively stall each other where cores are shared: beside one
    # busy process on two cores that costs a factor of 10 (libgomp reads this when it loads).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch takes seconds to load: not before the arguments were read.
    from lipcompile.auditing.audit import audit
    from lipcompile.auditing.journal import Journal

    target = Path(output) if output is not None else None
    examples = Path(save_examples) if save_examples is not None else None
    files = [flags[name] for name in ("labels", "classes", "preprocess") if flags[name]]
    inputs = model_io.paths_among(hardened, original, data, *files)
    for path in (target, examples):
        if path is not None:
            model_io.check_output(path, force, inputs)
    if target is not None and examples is not None and target.resolve() == examples.resolve():
        raise OutputError(
            f"the result and its examples would both be written to '{target}': name another "
            "file with --save-examples"
        )
    folder = (
        Path(journal)
        if journal is not None
        else _journal_for(hardened, [original, data, samples, *sorted(flags.items())])
    )
    result = audit(
        hardened,
        original,
        data,
        samples=_samples(samples),
        journal=folder,
        notify=None if quiet or no_progress else _Notes(),
        **image_from(flags),
        **flags,
    )
    try:
        if target is not None:
            atomic.write_bytes(target, json.dumps(result.to_json(), indent=1).encode())
        if examples is not None:
            result.save_examples(examples)
    finally:  # hours of work are shown even where they cannot be written
        with unheard():
            show(result, format_, quiet, target)
    if journal is None:
        Journal(folder).remove()
    if result.failed_gates:
        raise GateFailed("; ".join(result.failed_gates))


def _journal_for(hardened: str, settings: list[Any]) -> Path:
    """A folder beside the model, for audits with these settings alone."""
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()
    return model_io.beside(Path(hardened), f".audit-journal-{digest[:8]}")


def _samples(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(
            f"--samples '{text}' is no number: give one like 500, or all"
        ) from error


class _Notes:
    """Lines on standard error, each with the minutes since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        with unheard():
            click.echo(f"{minutes:3d}:{seconds:02d}  {text}", err=True)
