"""Labelled image arrays: finds images and labels, and reads the rows that are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile.calibration.sources.array_files import ARRAY_SUFFIXES, read_arrays
from lipcompile.errors import DataError
from lipcompile.labelled.array_keys import pick_images, pick_labels
from lipcompile.labelled.array_pixels import array_images, array_pixels
from lipcompile.labelled.images import LabelledImages
from lipcompile.labelled.label_arrays import check_range, label_array
from lipcompile.labelled.label_tables import read_label_column
from lipcompile.labelled.normalisation import pixel_levels
from lipcompile.labelled.request import Request


def open_stack(
    label: str, content: np.ndarray | Mapping[Any, Any], ask: Request
) -> LabelledImages:
    """The images in an array, or in a dict that may hold their labels as well.

    Raises:
        DataError: As `open_arrays`; or images or labels are missing.
    """
    if isinstance(content, np.ndarray):
        if ask.labels is None:
            raise DataError(
                f"no labels found for '{label}', which is one array: pass --labels with a .npy"
                " or a .csv column, or give a .npz with images and labels"
            )
        return open_arrays(label, content, ask.labels, ask)
    images = pick_images(label, content, ask.spec.name)
    found = ask.labels
    if found is None:
        found = pick_labels(label, content, ask.spec.name)
    return open_arrays(label, images, found, ask)


def open_arrays(label: str, images: np.ndarray, found: Any, ask: Request) -> LabelledImages:
    """Images with their labels.

    Args:
        label: Name of the data.
        images: As in `array_images` and `array_pixels`.
        found: A path, or what `label_array` takes.
        ask: What is asked for.

    Raises:
        DataError: Images or labels do not fit the model or each other.
    """
    if images.ndim == 0 or not images.size:
        raise DataError(f"'{label}' holds no images (shape {list(images.shape)}): give some")
    reading, target, transform = array_images(
        label, images, ask.spec, ask.preprocess, ask.flags
    )
    labels = _read_labels(label, found, ask)
    if len(labels) != len(images):
        raise DataError(
            f"'{label}' holds {len(images)} images and {len(labels)} labels: give one label"
            " per image, in the same order"
        )
    check_range(labels, lambda i: f"{label}[{i}]", ask.num_classes, ask.model)
    rows = ask.pick(len(images))
    pixels = array_pixels(label, images, rows, reading, pixel_levels(transform))
    names = tuple(f"{label}[{i}]" for i in rows)
    known = ask.classes.names if ask.classes else None
    rule = ask.normalisation(transform, target.shape)
    return LabelledImages(pixels, labels[rows], names, rule, label, len(images), known)


def _read_labels(label: str, found: Any, ask: Request) -> np.ndarray:
    if not isinstance(found, str | os.PathLike):
        return label_array(np.asarray(found), label, ask.classes, ask.num_classes)
    path = Path(found)
    if path.suffix.lower() == ".csv":
        return read_label_column(path, ask.classes)
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise DataError(
            f"labels '{path}' have the suffix '{path.suffix}': arrays take a .npy or .npz"
            " file, or a .csv file with one label per line"
        )
    content = read_arrays(path, path.name)
    if not isinstance(content, np.ndarray):
        content = pick_labels(path.name, content, ask.spec.name)
    return label_array(content, path.name, ask.classes, ask.num_classes)
