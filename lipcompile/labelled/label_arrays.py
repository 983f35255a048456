"""Labels in arrays: integers, names, columns of one, one-hot rows; and their range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lipcompile.errors import DataError
from lipcompile.labelled.class_names import ClassNames, parse_label


def label_array(
    raw: np.ndarray, where: str, classes: ClassNames | None, num_classes: int | None
) -> np.ndarray:
    """Labels as int64 [N].

    Args:
        raw: [N] or [N, 1] integers, whole floats, or names; or [N, K] one-hot rows.
        where: Name of the data, for messages.
        classes: Names of the classes.
        num_classes: Outputs of the model, which one-hot rows must have.

    Raises:
        DataError: The array is something else.
    """
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim == 2:
        return _from_one_hot(raw, where, num_classes)
    if raw.ndim != 1:
        raise DataError(
            f"labels of '{where}' have shape {list(raw.shape)}, expected one integer per image"
            " [N] or one-hot rows [N, classes]: give the index of each image's class"
        )
    if raw.dtype.kind == "U":
        parsed = [
            parse_label(text, f"{where}[{i}]", classes) for i, text in enumerate(raw.tolist())
        ]
        return np.array(parsed, np.int64)
    whole = raw.dtype.kind in "iub"
    if raw.dtype.kind == "f":
        whole = bool(np.isfinite(raw).all() and (raw == np.floor(raw)).all())
    if not whole:
        raise DataError(
            f"labels of '{where}' are {raw.dtype} values that are not all integers: give the"
            " index of each image's class, not a score or a probability"
        )
    return raw.astype(np.int64)


def _from_one_hot(raw: np.ndarray, where: str, num_classes: int | None) -> np.ndarray:
    numbers = raw.dtype.kind in "iubf"
    hot = raw == 1
    if not numbers or not (hot | (raw == 0)).all() or not (hot.sum(axis=1) == 1).all():
        raise DataError(
            f"labels of '{where}' have shape {list(raw.shape)}, but not every row holds one 1"
            " and else 0, so they are not one-hot: give the index of each image's class"
        )
    if num_classes is not None and raw.shape[1] != num_classes:
        raise DataError(
            f"one-hot labels of '{where}' have {raw.shape[1]} columns, but the model has"
            f" {num_classes} outputs: the data was prepared for another model"
        )
    labels: np.ndarray = hot.argmax(axis=1).astype(np.int64)
    return labels


def check_range(
    labels: np.ndarray, name: Callable[[int], str], num_classes: int | None, model: str
) -> None:
    """Raises DataError unless all labels are indices of the model's outputs."""
    too_large = labels >= num_classes if num_classes is not None else False
    bad = np.flatnonzero((labels < 0) | too_large)
    if not bad.size:
        return
    first, bounds = int(bad[0]), ""
    if num_classes is not None:
        bounds = f" has {num_classes} outputs, so labels are 0 to {num_classes - 1}"
    raise DataError(
        f"label {labels[first]} of '{name(first)}', but '{model}'"
        f"{bounds or ' numbers its classes from 0'} ({bad.size} of {labels.size} labels are"
        " out of range): count classes from 0, and give the data of this model"
    )
