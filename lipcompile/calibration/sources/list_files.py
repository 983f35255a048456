"""List files: one image path per line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lipcompile.bounded_files import read_bounded
from lipcompile.errors import DataError

LIST_SUFFIXES: Final = (".txt", ".lst")


def read_list(path: Path) -> list[str]:
    """The image paths in a list file: one per line, blank lines and # comments left out.

    Raises:
        DataError: The file cannot be read, is not UTF-8 text, or names no image.
    """
    try:
        data = read_bounded(path)
    except OSError as err:
        raise DataError(
            f"list file '{path}' cannot be read ({err.strerror}): check its permissions"
        ) from err
    return parse_list(data, str(path))


def parse_list(data: bytes, label: str) -> list[str]:
    """The image paths in the bytes of a list file.

    Raises:
        DataError: They are not UTF-8 text, or name no image.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as err:
        raise DataError(f"list file '{label}' is not UTF-8 text: save it as UTF-8") from err
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise DataError(
            f"list file '{label}' names no image: write one image path per line, relative to"
            " the list's folder"
        )
    return names
