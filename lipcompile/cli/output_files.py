"""Files that flags name for writing: refused before any work, with the flag in the message."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from lipcompile import model_io
from lipcompile.errors import LipCompileError, OutputError

_PEEK = 8192  # bytes that tell text from something else
_WEIGHTS = re.compile(r".+\.[0-9a-f]{8}(-\d+)?\.data")  # as model_io.saving names its files


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


def check_no_weights(files: Mapping[str, str | None], models: Iterable[str]) -> None:
    """No flag names a file in which a model keeps its weights, or would keep them.

    Args:
        files: Flag -> file, or None where it was not given.
        models: The models that are read. One that cannot be read is told of later.

    Raises:
        OutputError: One does.
    """
    named = {flag: Path(path) for flag, path in files.items() if path is not None}
    for flag, path in named.items():
        if _WEIGHTS.fullmatch(path.name):
            raise OutputError(
                f"'{path}' is a name for weights beside a model: name another file with {flag}"
            )
    for model in map(Path, models):
        folder = os.path.realpath(model.parent)
        near = {flag: path for flag, path in named.items() if _lies_in(folder, path)}
        weights = {os.path.realpath(path) for path in _weights_of(model)} if near else set()
        for flag, path in near.items():
            if os.path.realpath(path) in weights:
                raise OutputError(
                    f"'{path}' holds weights of '{model}', which is never touched: name "
                    f"another file with {flag}"
                )


def _lies_in(folder: str, path: Path) -> bool:
    return os.path.isfile(path) and Path(os.path.realpath(path)).is_relative_to(folder)


def _weights_of(model: Path) -> list[Path]:
    try:
        return [item.path for item in model_io.load(model).external]
    except LipCompileError:
        return []


def check_kept(outputs: Iterable[tuple[str, str]], inputs: Iterable[str]) -> None:
    """No flag names a file that the command reads.

    Args:
        outputs: Flag and file.
        inputs: Whatever may be a file.

    Raises:
        OutputError: One does.
    """
    read = [path for path in inputs if os.path.isfile(path)]
    for flag, path in outputs:
        if os.path.isfile(path) and any(os.path.samefile(path, one) for one in read):
            raise OutputError(
                f"output '{path}' is the input itself, which is never touched: name another "
                f"file with {flag}"
            )
