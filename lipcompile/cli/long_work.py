"""What commands share that work for minutes or hours: notes, journals, numbers of samples."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import click

from lipcompile import model_io
from lipcompile.cli.show import unheard
from lipcompile.errors import OptionError
from lipcompile.unprintable import one_line


class Notes:
    """Lines on standard error, each with the minutes since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        with unheard():
            click.echo(f"{minutes:3d}:{seconds:02d}  {one_line(text)}", err=True)


def journal_beside(model: str, command: str, settings: list[Any]) -> Path:
    """A folder beside the model, for runs of a command with these settings alone."""
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()
    return model_io.beside(Path(model), f".{command}-journal-{digest[:8]}")


def parse_samples(text: str, flag: str = "samples") -> int | None:
    """A number, or None for "all".

    Raises:
        OptionError: It is neither.
    """
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(
            f"--{flag} '{text}' is no number: give one like 500, or all"
        ) from error
