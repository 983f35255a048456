"""Folders that Hugging Face's `datasets` wrote: which files hold the rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from lipcompile.calibration.sources.files import Files
from lipcompile.errors import DataError

STATE: Final = "state.json"
SPLITS: Final = "dataset_dict.json"
_SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?(\.\w+)")
_USUAL_SPLITS: Final = frozenset(["train", "test", "validation", "valid", "val", "dev"])
_MOST_BYTES = 16 << 20


def saved_files(files: Files, label: str, found: Sequence[str]) -> list[str] | None:
    """The files of a folder from `save_to_disk`, in order, or None where it is no such folder.

    Args:
        files: The folder.
        label: Its name.
        found: What is in it.

    Raises:
        DataError: It holds several splits, or its description is damaged.
    """
    if SPLITS in found:
        splits = _strings(_read_json(files, label, SPLITS).get("splits"), label, SPLITS)
        raise DataError(
            f"'{label}' holds the splits {', '.join(splits)}: name the folder of one, such as"
            f" '{label}/{splits[0] if splits else 'train'}'"
        )
    if STATE not in found or not any(name.endswith(".arrow") for name in found):
        return None
    state = _read_json(files, label, STATE)
    listed = state.get("_data_files")
    entries = listed if isinstance(listed, list) else [None]
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if state.get("_indices_data_files"):
        raise DataError(
            f"'{label}' was saved with a selection of its rows beside it: load and save it"
            " again with a recent version of datasets"
        )
    checked = _strings(names, label, STATE)
    if missing := [name for name in checked if name not in found]:
        raise DataError(
            f"'{label}/{STATE}' names '{missing[0]}', which is not there: save the dataset"
            " again"
        )
    return checked


def check_one_split(label: str, names: Sequence[str]) -> None:
    """Raises DataError where the files, as their names tell, are of several splits.

    Two ways of naming are known: train-00000-of-00002.parquet, as the Hub has them, and a
    file or a folder that is called train, test or the like.
    """
    places = {place: None for name in names if (place := _split_place(name))}
    if len(places) > 1:
        raise DataError(
            f"'{label}' holds several splits: name one, such as"
            f" {' or '.join(repr(f'{label}/{place}') for place in sorted(places)[:3])}"
        )


def _split_place(name: str) -> str | None:
    """What names the split that a file is of: a pattern, a folder, or the file."""
    if match := _SHARD.fullmatch(name):
        return f"{match[1]}-*{match[2]}"
    path = PurePosixPath(name)
    for place in (*reversed(path.parents), path):
        if place.stem.lower() in _USUAL_SPLITS:
            return place.as_posix()
    return None


def _read_json(files: Files, label: str, name: str) -> dict[str, Any]:
    try:
        if files.size(name) > _MOST_BYTES:
            raise ValueError("too large")
        content = json.loads(files.read(name))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"'{label}/{name}' cannot be read ({str(err)[:100]}): save the dataset again"
        ) from err
    return content


def _strings(values: object, label: str, name: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise DataError(f"'{label}/{name}' is damaged: save the dataset again")
    return values
