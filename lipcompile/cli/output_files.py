"""Files that flags name for writing: refused before any work, with the flag in the message."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from lipcompile import model_io
from lipcompile.errors import OutputError

_PEEK = 8192  # bytes that tell text from something else


def check_output(flag: str, path: Path, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """As `model_io.check_output`, whose advice is another -o; here it is another `flag`.

    Raises:
        OutputError: The file cannot or must not be written.
    """
    try:
        model_io.check_output(path, force, inputs)
    except OutputError as error:
        raise OutputError(re.sub(r"-o$", flag, str(error))) from error


def check_appendable(flag: str, path: Path, inputs: tuple[Path, ...]) -> None:
    """Text may be appended to the file; a model or an image would be damaged.

    Raises:
        OutputError: It must not.
    """
    check_output(flag, path, True, inputs)
    try:
        if not path.exists():
            return
        is_text = path.is_file() and b"\0" not in _start_of(path)
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be read ({error.strerror}): name another file with {flag}"
        ) from error
    if not is_text:
        raise OutputError(
            f"'{path}' is no text file, and text would be appended to it: name another file "
            f"with {flag}"
        )


def _start_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_PEEK)


def check_apart(files: Mapping[str, str | None]) -> None:
    """No two flags name one file.

    Args:
        files: Flag -> file, or None where it was not given.

    Raises:
        OutputError: Two do.
    """
    named = [(flag, path) for flag, path in files.items() if path is not None]
    for (one, path), (other, second) in combinations(named, 2):
        if os.path.realpath(path) == os.path.realpath(second):
            raise OutputError(
                f"{one} and {other} would both be written to '{path}': name two files"
            )
