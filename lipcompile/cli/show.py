"""Results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import click

from lipcompile.calibration.scan import Progress
from lipcompile.errors import SaveError
from lipcompile.findings import Judged, document_text, reason
from lipcompile.unprintable import shown

_SECONDS_BETWEEN_LINES = 10.0


format_flag = click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the result on standard output.",
)


class Result(Protocol):
    """What every command ends with: it prints itself, and becomes JSON."""

    def to_json(self) -> dict[str, Any]: ...


def show(result: Result, format_: str, quiet: bool, wrote: Path | None = None) -> None:
    """Prints a result in the format that was asked for, as text with the file it went to."""
    if quiet:
        return
    if format_ == "json":
        _print(json.dumps(result.to_json(), indent=1))
    else:
        _print("\n".join([str(result), *_written([wrote] if wrote is not None else [])]))


def show_judged(result: Judged, format_: str, quiet: bool, wrote: Sequence[Path] = ()) -> None:
    """As `show`; what stops a pipeline is the first line of text, and the first key."""
    if quiet:
        return
    if format_ == "json":
        _print(document_text(result))
        return
    why = reason(result)
    head = [] if why is None else [f"FAILED: {why}"]
    _print("\n".join([*head, str(result), *_written(wrote)]))


def _written(paths: Sequence[Path]) -> list[str]:
    return [f"wrote '{path}'" for path in paths]


def _print(text: str) -> None:
    """Names in a result come from files; what steers a terminal is replaced."""
    try:
        with unheard():
            click.echo(shown(text).replace("\r", "\ufffd"))
    except OSError as error:
        raise SaveError(
            f"the work is done, but its result could not be printed ({error.strerror}): see "
            "what standard output leads to"
        ) from error


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Goes on when the reader of our output went away: exit codes and files still count."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise


@contextlib.contextmanager
def progress(label: str, enabled: bool) -> Iterator[Progress | None]:
    """A bar where standard error is a terminal, else a line every 10 seconds."""
    if not enabled:
        yield None
    elif sys.stderr.isatty():
        with _bar(label) as update:
            yield update
    else:
        yield _lines(label)


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (label, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(label: str) -> Progress:
    start = last = time.monotonic()

    def update(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            of = f" of {total}" if total is not None else ""
            rate = done / (now - start)
            with unheard():
                click.echo(f"{label}: {done}{of} samples, {rate:.1f} per second", err=True)

    return update
