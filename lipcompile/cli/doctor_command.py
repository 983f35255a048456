"""lipcompile doctor"""

from __future__ import annotations

import click

from lipcompile.cli.show import format_flag, show
from lipcompile.doctor import diagnose
from lipcompile.errors import SetupError


@click.command("doctor")
@format_flag
def command(format_: str) -> int:
    """Check versions, execution providers and extras.

    Each available provider runs a tiny model, since ONNX Runtime lists providers that cannot
    start. Exits with 3 when something stands in the way of hardening.
    """
    diagnosis = diagnose()
    show(diagnosis, format_, quiet=False)
    return SetupError.exit_code if diagnosis.problems else 0
