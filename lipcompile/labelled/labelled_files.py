"""Which image files are labelled, and how: class folders, or files beside a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipcompile.calibration.sources.paths import IMAGE_SUFFIXES, find_files
from lipcompile.errors import DataError
from lipcompile.labelled.class_names import ClassNames

NO_LABELS = (
    "give a folder with one sub-folder per class, or pass --labels with a .csv of the columns"
    " file and label"
)
_LEADING_INTEGER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """Image files and their labels.

    Attributes:
        root: The folder that `names` are relative to.
        names: Paths with slashes.
        labels: One per name.
        classes: Class names by index, where the folders tell them.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...] | None = None


def class_folders(
    root: Path, classes: ClassNames | None, num_classes: int | None, model: str
) -> LabelledFiles:
    """The images in a folder of class folders.

    The label of a class folder is, by the first rule that applies to all of them:
    1. the index of its name in `classes`,
    2. the integer that its name starts with ("3", "0_tshirt"), where these are distinct,
    3. its place among the sorted names, where there are as many as the model has outputs.

    Raises:
        DataError: There are no class folders, no rule applies, or images lie beside them.
    """
    label = root.resolve().name
    entries = [name for name in _entries(root) if not name.startswith(".")]
    folders = [name for name in entries if (root / name).is_dir()]
    # A class folder may be a link, unlike the folders below it.
    found = {name: find_files(root / name, IMAGE_SUFFIXES) for name in folders}
    if not any(found.values()):
        raise DataError(
            f"no labels found for '{label}', which has no class folder: {NO_LABELS}"
        )
    beside = [name for name in entries if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    beside = [name for name in beside if name not in folders]
    if beside:
        raise DataError(
            f"'{label}' has class folders, and '{beside[0]}' lies beside them without a label:"
            " move it into the folder of its class, or pass --labels"
        )
    indices = _folder_labels(label, folders, classes, num_classes, model)
    pairs = [(f"{name}/{file}", indices[name]) for name in folders for file in found[name]]
    names, labels = zip(*pairs, strict=True)
    return LabelledFiles(root, names, labels, _names_by_index(indices))


def _entries(root: Path) -> list[str]:
    try:
        return sorted(os.listdir(root))
    except OSError as err:
        raise DataError(
            f"folder '{root}' cannot be listed ({err.strerror}): allow reading it"
        ) from err


def _folder_labels(
    label: str,
    folders: Sequence[str],
    classes: ClassNames | None,
    num_classes: int | None,
    model: str,
) -> dict[str, int]:
    if classes is not None:
        named = {name: classes.index(name) for name in folders}
        known = {name: index for name, index in named.items() if index is not None}
        if len(known) == len(folders):  # Rule 1
            return known
    starts = [_LEADING_INTEGER.match(name) for name in folders]
    numbers = {int(start[0]) for start in starts if start}
    if len(numbers) == len(folders):  # Rule 2
        return {n: int(s[0]) for n, s in zip(folders, starts, strict=True) if s}
    if classes is not None:
        missing = next(name for name in folders if name not in known)
        raise DataError(
            f"class folder '{missing}' of '{label}' is none of the {len(classes)} class names"
            f" (such as '{classes.names[0]}'): rename the folder, or correct --classes"
        )
    if num_classes is not None and num_classes != len(folders):
        raise DataError(
            f"'{label}' has {len(folders)} class folders, but '{model}' has {num_classes}"
            " outputs, so the order of the names does not tell the labels: pass --classes"
            " with the names in the model's order, or --labels"
        )
    return {name: index for index, name in enumerate(folders)}  # Rule 3


def _names_by_index(indices: Mapping[str, int]) -> tuple[str, ...] | None:
    """Folder names where they cover all indices from 0."""
    by_index = {index: name for name, index in indices.items()}
    if sorted(by_index) != list(range(len(by_index))):
        return None
    return tuple(by_index[index] for index in range(len(by_index)))


def tabled_files(
    label: str,
    root: Path,
    names: Sequence[str],
    table: Mapping[str, int],
    table_path: Path,
    *,
    selection: bool,
) -> LabelledFiles:
    """Images that are labelled by a table, whose paths are relative to `root` or to itself.

    Args:
        label: Name of the data, for messages.
        root: Its folder.
        names: The images in it.
        table: Label by path.
        table_path: Where the table was read.
        selection: Whether `names` were picked by hand, so that the table may hold more.

    Raises:
        DataError: An image has no label, or a label has no image.
    """
    by_path = {os.path.abspath(root / name): name for name in names}
    labels: dict[str, int] = {}
    for file, value in table.items():
        places = (os.path.abspath(folder / file) for folder in (root, table_path.parent))
        name = next((by_path[place] for place in places if place in by_path), None)
        if name is None and not selection:
            raise DataError(
                f"labels '{table_path.name}' name '{file}', which is no image in '{label}':"
                " write paths relative to that folder, or take the row out"
            )
        if name in labels:
            raise DataError(
                f"labels '{table_path.name}' name '{name}' twice: keep one row per image"
            )
        if name is not None:
            labels[name] = value
    if missing := [name for name in names if name not in labels]:
        raise DataError(
            f"image '{missing[0]}' of '{label}' has no label in '{table_path.name}'"
            f" ({len(missing)} of {len(names)} images have none): add a row for it, or move it"
            " out of the data"
        )
    return LabelledFiles(root, tuple(names), tuple(labels[name] for name in names))
