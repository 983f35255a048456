"""The names of a model's classes, and what reads them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lipcompile.bounded_files import read_bounded
from lipcompile.errors import DataError

Classes = str | os.PathLike[str] | Sequence[object] | Mapping[str, object]
_FORMS = (
    "a JSON list of names, a JSON object of index and name, or a text file with one name per"
    " line"
)
_INTEGER = re.compile(r"[+-]?\d{1,18}")  # Others do not fit int64.


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Names by index.

    Attributes:
        aliases: The names of each class: ("cat",), or ("n02123045", "tabby").
    """

    aliases: tuple[tuple[str, ...], ...]
    _indices: dict[str, list[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for index, names in enumerate(self.aliases):
            for name in set(names):
                self._indices.setdefault(name, []).append(index)

    def __len__(self) -> int:
        return len(self.aliases)

    @property
    def names(self) -> tuple[str, ...]:
        """One name per class: the last one, which is the readable one in ImageNet's file."""
        return tuple(names[-1] for names in self.aliases)

    def index(self, name: str) -> int | None:
        """The class of this name, or None.

        Raises:
            DataError: Several classes have the name (ImageNet has "crane" twice).
        """
        found = self._indices.get(name, [])
        if len(found) > 1:
            raise DataError(
                f"class name '{name}' stands for the classes {found}: give the labels as"
                " numbers"
            )
        return found[0] if found else None


def parse_label(text: object, where: str, classes: ClassNames | None) -> int:
    """A label that is an integer, its text, or the name of a class.

    Raises:
        DataError: It is none of them.
    """
    is_number = isinstance(text, int) and not isinstance(text, bool)
    if isinstance(text, str) or is_number:
        word = str(text).strip()
        index = classes.index(word) if classes and not is_number else None
        if index is not None:
            return index
        if _INTEGER.fullmatch(word):
            return int(word)
    known = "neither an integer nor a known class name" if classes else "no integer"
    raise DataError(
        f"label {text!r} of '{where}' is {known}: write the index of the class, or pass"
        " --classes with the names in the model's order"
    )


def read_classes(classes: Classes) -> ClassNames:
    """Class names from a file or from Python.

    A value is a name, or a list of names of one class, as in torchvision's
    imagenet_class_index.json: {"0": ["n01440764", "tench"], ...}.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    if isinstance(classes, str | os.PathLike):
        path = Path(classes)
        return _parse(_load(path), path.name)
    return _parse(classes, "classes")


def _load(path: Path) -> object:
    try:
        text = read_bounded(path).decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text)
    except OSError as err:
        raise DataError(
            f"class names '{path}' cannot be read ({err.strerror}): check the path"
        ) from err
    except (ValueError, RecursionError) as err:
        raise DataError(f"class names '{path}' cannot be read ({err}): give {_FORMS}") from err
    return [line.strip() for line in text.rstrip().splitlines()]


def _parse(value: object, where: str) -> ClassNames:
    if isinstance(value, Mapping):
        keys = [str(index) for index in range(len(value))]
        if missing := [key for key in keys if key not in value]:
            raise DataError(
                f"class names '{where}' have {len(value)} entries and none for the class"
                f" {missing[0]}: number the classes from 0 without gaps"
            )
        value = [value[key] for key in keys]
    rows = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    aliases = [(row,) if isinstance(row, str) else row for row in rows]
    for index, names in enumerate(aliases):
        listed = isinstance(names, Sequence) and len(names) > 0
        if not listed or not all(isinstance(name, str) and name for name in names):
            raise DataError(
                f"class names '{where}' have {rows[index]!r} for the class {index}, which is"
                f" no name: give {_FORMS}"
            )
    if not aliases:
        raise DataError(f"class names '{where}' hold no name: give {_FORMS}")
    return ClassNames(tuple(tuple(names) for names in aliases))
