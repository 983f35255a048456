"""lipcompile export-triton"""

from __future__ import annotations

from typing import Any, get_args

import click

from lipcompile.cli.show import format_flag, show
from lipcompile.serving.config import Platform
from lipcompile.serving.triton import export_triton


@click.command("export-triton")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="REPOSITORY",
    help="The model repository; made where its parent exists.",
)
@click.option(
    "--name", metavar="NAME", help="Of the model.  [default: the file's, without ending]"
)
@click.option(
    "--model-version",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Version of the model; others that are there stay.",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Names of the classes: one per line, or JSON.",
)
@click.option(
    "--scores", metavar="NAME", help="The output that --labels is about, of several."
)
@click.option(
    "--max-batch-size",
    type=int,
    metavar="N",
    help="Rows that Triton may batch; 0 for none.  [default: 8 where axis 0 is a batch]",
)
@click.option(
    "--platform",
    type=click.Choice(get_args(Platform)),
    default="any",
    show_default=True,
    help="Where Triton is to run it: its choice, CPU, GPU, or TensorRT in ONNX Runtime.",
)
@click.option(
    "--force", is_flag=True, help="Replace the version, and a configuration that differs."
)
@format_flag
@click.option("-q", "--quiet", is_flag=True, help="Print no result.")
def command(model: str, output: str, format_: str, quiet: bool, **flags: Any) -> None:
    """Put a model into a Triton model repository.

    The file is copied as it is, with a configuration that Triton's onnxruntime backend takes.

    \b
    Example:
      lipcompile export-triton model.hardened.onnx -o models/ --name classifier
    """
    show(export_triton(model, output, **flags), format_, quiet)
