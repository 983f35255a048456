"""Label files: CSV and JSON tables of image and label, and bare columns of labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lipcompile.bounded_files import read_bounded
from lipcompile.calibration.sources.paths import IMAGE_SUFFIXES
from lipcompile.errors import DataError
from lipcompile.labelled.class_names import ClassNames, parse_label

TABLE_SUFFIXES = (".csv", ".json")


def read_label_table(path: Path, classes: ClassNames | None) -> dict[str, int]:
    """The label of each file that a table names, as it names it.

    CSV: two columns, image and label; a first row whose first cell has no suffix of an image
    is a header. JSON: {"image.png": label, ...}, or that under the key "labels".

    Raises:
        DataError: The table cannot be read, has another form, or names a file twice.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"labels '{path}' have the suffix '{path.suffix}': image files take a .csv file"
            " with the columns file and label, or a .json object of file and label"
        )
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    if not rows:
        raise DataError(f"labels '{path}' hold no label: write one row per image")
    labels: dict[str, int] = {}
    for file, label in rows:
        if file in labels:
            raise DataError(f"labels '{path}' name '{file}' twice: keep one row per image")
        labels[file] = parse_label(label, file, classes)
    return labels


def read_label_column(path: Path, classes: ClassNames | None) -> np.ndarray:
    """int64 [N] of a CSV file with one column of labels; a header is left out.

    Raises:
        DataError: The file cannot be read, or has another form.
    """
    rows = _read_csv(path)
    for number, row in rows:
        if len(row) != 1:
            raise DataError(
                f"line {number} of labels '{path}' has {len(row)} columns: labels of arrays"
                " are one column, in the order of the images"
            )
    cells = [row[0].strip() for _, row in rows]
    if cells and _is_heading(cells[0], classes):
        del cells[0]
    parsed = [parse_label(cell, f"{path.name}[{i}]", classes) for i, cell in enumerate(cells)]
    return np.array(parsed, np.int64)


def _is_heading(cell: str, classes: ClassNames | None) -> bool:
    named = classes is not None and classes.index(cell) is not None
    return cell.lower() in ("label", "labels", "class", "target", "y") and not named


def _csv_rows(path: Path) -> list[tuple[str, object]]:
    rows = _read_csv(path)
    if rows and Path(rows[0][1][0].strip()).suffix.lower() not in IMAGE_SUFFIXES:
        del rows[0]
    for number, row in rows:
        if len(row) != 2:
            raise DataError(
                f"line {number} of labels '{path}' has {len(row)} columns, expected 2 between"
                " commas: the image's path and its label"
            )
    return [(row[0].strip(), row[1].strip()) for _, row in rows]


def _read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank."""
    try:
        text = read_bounded(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except OSError as err:
        raise DataError(
            f"labels '{path}' cannot be read ({err.strerror}): check the path"
        ) from err
    except (ValueError, csv.Error) as err:
        raise DataError(
            f"labels '{path}' cannot be read ({err}): save them as CSV in UTF-8"
        ) from err


def _json_rows(path: Path) -> list[tuple[str, object]]:
    try:
        table = json.loads(read_bounded(path).decode("utf-8-sig"))
    except OSError as err:
        raise DataError(
            f"labels '{path}' cannot be read ({err.strerror}): check the path"
        ) from err
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"labels '{path}' cannot be read ({err}): save them as JSON in UTF-8"
        ) from err
    if isinstance(table, Mapping) and isinstance(table.get("labels"), Mapping):
        table = table["labels"]
    if not isinstance(table, Mapping):
        raise DataError(
            f"labels '{path}' hold a JSON {type(table).__name__}, expected an object of image"
            ' and label: write {"image.png": 3, ...}'
        )
    return list(table.items())
