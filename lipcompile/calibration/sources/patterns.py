"""Names that stand for several files: shard-{000..146}.tar, train-*.parquet."""

from __future__ import annotations

import re

from lipcompile.calibration.sources.files import Files
from lipcompile.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})", re.ASCII)
_MOST = 1_000_000


def expand_braces(text: str) -> list[str]:
    """The names that `text` stands for, in order, or none where it has no braces.

    A range `{000..146}` counts, with as many digits as its first number; a list `{a,b}` stands
    for its items.

    Raises:
        DataError: They are more than a million.
    """
    names, found = [text], False
    while match := _BRACES.search(names[0]):
        items = _items(text, match[1])
        if items is None:
            break
        found = True
        if len(items) * len(names) > _MOST:
            raise _too_many(text)
        names = [name.replace(match[0], item, 1) for name in names for item in items]
    return names if found else []


def matching(text: str, files: Files) -> list[str]:
    """The files right below the root that `text` with * or ? stands for, sorted.

    Raises:
        DataError: The root cannot be listed, or none matches.
    """
    if not ("*" in text or "?" in text):
        return []
    if found := files.beside(text):
        return found
    raise DataError(f"no file in '{files.label}' matches '{text}': check the pattern")


def _items(text: str, inner: str) -> list[str] | None:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        return inner.split(",") if "," in inner else None
    first, last = int(bounds[1]), int(bounds[2])
    if last - first >= _MOST:
        raise _too_many(text)
    return [str(number).zfill(len(bounds[1])) for number in range(first, last + 1)] or None


def _too_many(text: str) -> DataError:
    return DataError(f"'{text}' stands for more than {_MOST:,} files: check the braces")
