"""lipcompile inspect"""

from __future__ import annotations

from typing import Any

import click

from lipcompile.cli.flags import selection_flags
from lipcompile.cli.options import selector_from
from lipcompile.cli.show import format_flag, show
from lipcompile.inspection import inspect


@click.command("inspect")
@click.argument("model")
@selection_flags
@format_flag
def command(model: str, format_: str, **flags: Any) -> None:
    """List linear layers, and what would be done to them.

    Nothing is run or written.

    \b
    Example:
      lipcompile inspect model.onnx --rule all
    """
    show(inspect(model, selector=selector_from(flags)), format_, quiet=False)
