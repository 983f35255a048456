"""Opens labelled images of any kind for attacks on a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile.calibration.preprocess.config import Config
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.array_files import ARRAY_SUFFIXES, read_arrays
from lipcompile.errors import DataError, OptionError
from lipcompile.labelled.class_names import Classes, read_classes
from lipcompile.labelled.image_input import check_input
from lipcompile.labelled.images import LabelledImages
from lipcompile.labelled.opening_arrays import open_arrays, open_stack
from lipcompile.labelled.opening_files import open_files
from lipcompile.labelled.request import Labels, Request
from lipcompile.signature import TensorSpec


def open_labelled(
    data: object,
    inputs: Sequence[TensorSpec],
    *,
    num_classes: int | None,
    model: str = "model",
    samples: int | None = None,
    seed: int = 0,
    preprocess: Preprocess | Config | None = None,
    image_flags: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
    classes: Classes | None = None,
) -> LabelledImages:
    """Reads labelled images in pixel units, and how they become a model's input.

    Data is one of:
    1. a folder with one sub-folder of images per class (see `class_folders`),
    2. a folder, a list file or an image with `labels`, a .csv or .json table; or the table,
    3. a .npz file or dict with images and labels, or either with `labels`,
    4. a .npy file or an array with `labels`, or a pair (images, labels).

    Arrays hold uint8 levels or floats in [0, 1], RGB or grey, at the model's size: of
    `image_flags` only the arithmetic, the layout and the colour act on them.

    Args:
        data: What to read.
        inputs: The model's inputs: one float input that takes images.
        num_classes: How many outputs the model has, where that is known.
        model: Its name, for messages.
        samples: At most so many images: a random subset in the data's order.
        seed: Of the subset.
        preprocess: A transform, a Hugging Face or timm config, or None.
        image_flags: Keyword arguments of `preprocess.resolve.resolve`, over the config.
        labels: A table for image files; a .npy, a .csv column or an array for arrays.
        classes: Names of the classes in the model's order: a file, a list or a dict.

    Raises:
        DataError: The data or its labels cannot be used with this model.
        OptionError: An argument is not legal.
    """
    if samples is not None and samples < 1:
        raise OptionError(f"samples is {samples}: take 1 or more, or leave it out to use all")
    if seed < 0:
        raise OptionError(f"seed is {seed}: take 0 or more")
    spec = check_input(inputs)
    names = None if classes is None else read_classes(classes)
    if names is not None and num_classes not in (None, len(names)):
        raise DataError(
            f"{len(names)} class names were given, but '{model}' has {num_classes} outputs:"
            " give one name per output, in the model's order (some models count a background"
            " class first)"
        )
    flags = image_flags or {}
    ask = Request(spec, model, num_classes, samples, seed, preprocess, flags, labels, names)
    if isinstance(data, str | os.PathLike):
        return _open_path(Path(data), ask)
    if isinstance(data, tuple) and len(data) == 2:
        if labels is not None:
            raise OptionError(
                "labels were given twice: leave them out of the pair or the call"
            )
        images, found = (_as_array(part) for part in data)
        return open_arrays("images", images, found, ask)
    if isinstance(data, Mapping | np.ndarray):
        return open_stack(type(data).__name__, data, ask)
    raise DataError(
        f"labelled data is a '{type(data).__name__}': give a path, a pair (images, labels) of"
        " arrays, or a dict with both"
    )


def _as_array(value: object) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as err:
        raise DataError(
            f"a '{type(value).__name__}' in the pair (images, labels) is no array ({err}):"
            " give NumPy arrays"
        ) from err


def _open_path(path: Path, ask: Request) -> LabelledImages:
    if not os.path.exists(path):
        raise DataError(f"labelled data '{path}': no such file or folder: check the path")
    if not path.is_dir() and path.suffix.lower() in ARRAY_SUFFIXES:
        return open_stack(path.name, read_arrays(path, path.name), ask)
    return open_files(path, ask)
