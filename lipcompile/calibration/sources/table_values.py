"""Columns of Arrow tables: which one feeds the model, and the values of one row."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

_USUAL: Final = ("image", "img")


def feeding_columns(
    label: str, schema: Any, inputs: Sequence[TensorSpec]
) -> tuple[list[str], bool]:
    """The columns that are read, and whether they are one of encoded images.

    Columns of numbers that are named after all inputs come first; then the image column, which
    is "image", "img" or the only one; then the only column of lists of numbers.

    Args:
        label: Name of the data, for errors.
        schema: pyarrow's schema of the table.
        inputs: The model's inputs.

    Raises:
        DataError: No column, or more than one, may be meant.
    """
    numbers = [field.name for field in schema if _is_numeric(field.type)]
    images = [field.name for field in schema if _is_image(field.type)]
    wanted = [spec.name for spec in inputs]
    if set(wanted) <= set(numbers):
        return wanted, False
    for candidates in ([name for name in _USUAL if name in images][:1], images):
        if len(candidates) == 1:
            return candidates, True
    lists = [field.name for field in schema if _depth(field.type) and field.name in numbers]
    if not images and len(wanted) == len(lists) == 1:
        return lists, False
    held = ", ".join(f"{field.name}: {str(field.type)[:60]}" for field in schema)
    raise DataError(
        f"'{label}' has the columns {held}, and none of them clearly feeds"
        f" {[str(spec) for spec in inputs]}: name the columns of numbers after the inputs, or"
        " the column of images 'image'"
    )


def _is_image(type_: Any) -> bool:
    pa = import_module("pyarrow")
    if pa.types.is_struct(type_):
        index = type_.get_field_index("bytes")
        return index >= 0 and _is_binary(type_.field(index).type)
    return _is_binary(type_)


def _is_binary(type_: Any) -> bool:
    types = import_module("pyarrow").types
    return bool(
        types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_)
    )


def _is_numeric(type_: Any) -> bool:
    types = import_module("pyarrow").types
    while (inner := _inside(type_)) is not None:
        type_ = inner
    return bool(types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_))


def _depth(type_: Any) -> int:
    inner = _inside(type_)
    return 0 if inner is None else 1 + _depth(inner)


def _inside(type_: Any) -> Any:
    """The type of a list's items, or the one that an extension is stored as."""
    pa = import_module("pyarrow")
    types = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return type_.storage_type
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return type_.value_type if any(is_list(type_) for is_list in lists) else None


def image_bytes(row: Any, name: str) -> bytes:
    """The encoded image in a pyarrow array of one row.

    Raises:
        DataError: There is none.
    """
    value = row[0]
    if value.is_valid and import_module("pyarrow").types.is_struct(row.type):
        value = value["bytes"]
    if not value.is_valid:
        raise DataError(
            f"sample '{name}' holds no image bytes, at most the path of a file elsewhere: save"
            " the dataset with its images in it, or pass --on-bad-sample skip"
        )
    data: bytes = value.as_py()
    return data


def number_array(row: Any, name: str, column: str) -> np.ndarray:
    """The numbers in a pyarrow array of one row: nested lists become axes.

    Raises:
        DataError: A value is missing, or the lists have different lengths.
    """
    pa = import_module("pyarrow")
    if isinstance(row, pa.FixedShapeTensorArray):
        tensor: np.ndarray = row.to_numpy_ndarray()[0]
        return tensor
    shape: list[int] = []
    while True:
        if isinstance(row.type, pa.BaseExtensionType):
            row = row.storage
        if row.null_count:
            raise DataError(
                f"sample '{name}': column '{column}' holds a missing value: fill it, or pass"
                " --on-bad-sample skip"
            )
        if _inside(row.type) is None:
            values: np.ndarray = row.to_numpy(zero_copy_only=False)
            return values.reshape(shape)
        shape.append(_common_length(row, name, column))
        row = row.flatten()


def _common_length(lists: Any, name: str, column: str) -> int:
    lengths = import_module("pyarrow.compute").list_value_length(lists).unique().to_pylist()
    if len(lengths) > 1:
        raise DataError(
            f"sample '{name}': column '{column}' holds lists of different lengths"
            f" {sorted(lengths)[:5]}: pad them to one length"
        )
    return lengths[0] if lengths else 0
