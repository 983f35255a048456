"""Calls the command line in this process, and watches what no input may make it do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from lipcompile.cli import main
from lipcompile.errors import LipCompileError
from lipcompile.unprintable import UNPRINTABLE, one_line

REFUSED = (2, 4)
_LONGEST_S = 60


class Defect(AssertionError):
    """What no input may cause."""


class Hang(BaseException):
    """Not an Exception: what reads damaged files catches those."""


def command(*arguments: str | Path, changes: Sequence[Path] = (), gate: bool = False) -> int:
    """The exit code of a command, once it is known to have behaved.

    Args:
        arguments: The command line; the last one lies in the folder that is watched.
        changes: Files that it may write where it exits with 0.
        gate: Whether it may exit with 1, since a check did not hold.

    Raises:
        Defect: Whatever a user should never see.
    """
    words = [str(word) for word in arguments]
    folder = next(word for word in reversed(arguments) if isinstance(word, Path)).parent
    before = contents(folder)
    out, err = io.StringIO(), io.StringIO()
    with (
        time_limit(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        mock.patch.dict(os.environ, {"LIPCOMPILE_DEBUG": "1"}),
    ):
        warnings.simplefilter("error")
        code = main.run(words)
    check_told(0 if gate and code == 1 else code, out.getvalue(), err.getvalue())
    check_unchanged(before, contents(folder), changes if code == 0 else ())
    return code


def refusal(error: LipCompileError) -> None:
    """A refusal by the library: one message, and the exit code of bad input.

    It holds names as they are; the command line replaces what steers a terminal.
    """
    check_told(error.exit_code, "", one_line(f"error: {error}"))


def check_told(code: int, out: str, err: str) -> None:
    """The exit code fits what was printed, and what was printed can be shown anywhere."""
    if code not in (0, *REFUSED):
        raise Defect(f"exit code {code}: {err}")
    if "Traceback" in err or "a defect of LipCompile" in err:
        raise Defect(err)
    if code and not err.startswith(("error: ", "Error: ", "Usage: ", "settings of")):
        raise Defect(f"exit code {code} without a message: {err!r}")
    for text in (out, err):
        if found := UNPRINTABLE.search(text):
            raise Defect(f"{found.group()!r} was printed as it is: {text[:500]!r}")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_unchanged(
    before: dict[str, str], after: dict[str, str], changes: Sequence[Path]
) -> None:
    allowed = {str(path) for path in changes}
    for path in sorted({*before, *after} - allowed):
        if before.get(path) != after.get(path):
            raise Defect(f"'{path}' was written, changed or removed")


@contextlib.contextmanager
def time_limit(seconds: int = _LONGEST_S) -> Iterator[None]:
    """Raises `Hang` in Python code that runs longer; nothing at all on Windows."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise Hang(f"no end after {seconds} s")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
