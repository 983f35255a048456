"""Which arrays of a .npz file or a dict are the images, and which their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lipcompile.errors import DataError

IMAGE_KEYS = ("images", "image", "x", "x_test", "data")
LABEL_KEYS = ("labels", "label", "y", "y_test", "targets")


def pick_images(label: str, arrays: Mapping[Any, Any], input_name: str) -> np.ndarray:
    """The array under the name of the model's input, else under one of `IMAGE_KEYS`.

    Raises:
        DataError: There is none, or more than one.
    """
    if input_name in arrays:
        return np.asarray(arrays[input_name])
    images = _pick(label, "images", arrays, IMAGE_KEYS)
    if images is None:
        raise DataError(
            f"'{label}' holds no images: it has the arrays {_listed(arrays)}, expected one"
            f" named {', '.join(IMAGE_KEYS)} or '{input_name}'"
        )
    return images


def pick_labels(label: str, arrays: Mapping[Any, Any], input_name: str) -> np.ndarray:
    """The array under one of `LABEL_KEYS`, unless that is the name of the model's input.

    Raises:
        DataError: There is none, or more than one.
    """
    labels = _pick(label, "labels", arrays, [key for key in LABEL_KEYS if key != input_name])
    if labels is None:
        raise DataError(
            f"no labels found for '{label}': it has the arrays {_listed(arrays)}, expected one"
            f" named {', '.join(LABEL_KEYS)}: rename it, or pass --labels"
        )
    return labels


def _pick(
    label: str, what: str, arrays: Mapping[Any, Any], keys: Iterable[str]
) -> np.ndarray | None:
    found = [key for key in keys if key in arrays]
    if len(found) > 1:
        raise DataError(
            f"'{label}' holds several arrays that may be the {what}: {', '.join(found)}: keep"
            " one of them"
        )
    return np.asarray(arrays[found[0]]) if found else None


def _listed(arrays: Mapping[Any, Any]) -> str:
    return ", ".join(sorted(map(str, arrays))) or "(none)"
