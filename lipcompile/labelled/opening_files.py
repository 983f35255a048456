"""Labelled image files: finds them, and reads those that are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lipcompile.calibration.sources.paths import (
    IMAGE_SUFFIXES,
    LIST_SUFFIXES,
    find_files,
    read_list,
)
from lipcompile.errors import DataError
from lipcompile.labelled.image_input import image_input, resolve_transform
from lipcompile.labelled.image_pixels import read_images
from lipcompile.labelled.images import LabelledImages
from lipcompile.labelled.label_arrays import check_range
from lipcompile.labelled.label_tables import TABLE_SUFFIXES, read_label_table
from lipcompile.labelled.labelled_files import (
    NO_LABELS,
    LabelledFiles,
    class_folders,
    tabled_files,
)
from lipcompile.labelled.request import Request


def open_files(path: Path, ask: Request) -> LabelledImages:
    """The images in a class folder tree, or those that a table labels.

    Raises:
        DataError: Files or labels are missing, damaged, or do not fit the model.
    """
    label = path.resolve().name
    files = _find_labelled(label, path, ask)
    if not files.names:
        raise DataError(f"'{label}' holds no labelled images: check the path")
    names, labels = files.names, np.array(files.labels, np.int64)
    check_range(labels, names.__getitem__, ask.num_classes, ask.model)
    target = image_input(ask.spec, ask.layout)
    transform = resolve_transform(target, ask.preprocess, ask.flags)
    rows = ask.pick(len(names))
    pixels = read_images(files.root, [names[i] for i in rows], transform)
    _, channels, height, width = pixels.shape
    if not target.takes((channels, height, width), transform.layout):
        raise DataError(
            f"preprocessing gives images of {channels}x{height}x{width} (channels x height x"
            f" width), which do not fit input '{ask.spec}': pass an --input-size that does"
        )
    shown = tuple(_shown(names[i]) for i in rows)
    known = ask.classes.names if ask.classes else files.classes
    rule = ask.normalisation(transform, target.shape)
    return LabelledImages(pixels, labels[rows], shown, rule, label, len(names), known)


def _find_labelled(label: str, path: Path, ask: Request) -> LabelledFiles:
    suffix = path.suffix.lower()
    if path.is_dir() and ask.labels is None:
        return class_folders(path, ask.classes, ask.num_classes, ask.model)
    if not path.is_dir() and suffix in TABLE_SUFFIXES:
        if ask.labels is not None:
            raise DataError(
                f"'{label}' is itself a table of labels, and --labels gives others: give one"
                " of them"
            )
        table = read_label_table(path, ask.classes)
        return LabelledFiles(path.parent, tuple(table), tuple(table.values()))
    if path.is_dir():
        root, names = path, find_files(path, IMAGE_SUFFIXES)
    elif suffix in LIST_SUFFIXES:
        root, names = path.parent, read_list(path)
    elif suffix in IMAGE_SUFFIXES:
        root, names = path.parent, [path.name]
    else:
        raise DataError(
            f"labelled data '{path}' has the suffix '{suffix}': give a folder of images, a"
            " .txt or .lst list of image paths, a .csv or .json table of labels, a .npy or a"
            " .npz file"
        )
    if not isinstance(ask.labels, str | os.PathLike):
        raise DataError(f"no labels found for '{label}': {NO_LABELS}")
    table_path = Path(ask.labels)
    table = read_label_table(table_path, ask.classes)
    selection = not path.is_dir()
    return tabled_files(label, root, names, table, table_path, selection=selection)


def _shown(name: str) -> str:
    """A path that tells nothing of the machine."""
    return Path(name).name if os.path.isabs(name) else Path(name).as_posix()
