"""lipcompile strip"""

from __future__ import annotations

import click

from lipcompile.cli.show import format_flag, show
from lipcompile.stripping import strip


@click.command("strip")
@click.argument("hardened")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to write the model.  [default: HARDENED with the ending .stripped.onnx]",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@format_flag
@click.option("-q", "--quiet", is_flag=True, help="Print no result.")
def command(hardened: str, output: str | None, force: bool, format_: str, quiet: bool) -> None:
    """Give back the model as it was before hardening.

    Nothing is run.

    \b
    Example:
      lipcompile strip model.hardened.onnx -o model.onnx
    """
    show(strip(hardened, output, force), format_, quiet)
