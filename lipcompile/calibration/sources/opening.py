"""What calibration reads: opens data of any kind as a source of samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.iterables import Reader, open_iterable, open_reader
from lipcompile.calibration.sources.paths import open_path
from lipcompile.calibration.sources.picking import WHOLE, Pick, Shard
from lipcompile.calibration.sources.random_data import RANDOM_PREFIX, open_random
from lipcompile.calibration.sources.remote import is_url, open_url
from lipcompile.calibration.sources.sample import target_dtype
from lipcompile.calibration.sources.source import Source
from lipcompile.calibration.sources.stacks import open_stack
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

__all__ = ["Source", "open_source"]


def open_source(
    data: object,
    inputs: Sequence[TensorSpec],
    *,
    preprocess: Callable[[], Preprocess] | None,
    samples: int | None = None,
    seed: int = 0,
    on_bad_sample: Literal["fail", "skip"] = "fail",
    shard: Shard = WHOLE,
) -> Source:
    """Opens calibration data as samples for a model's inputs.

    Args:
        data: A path or URL (folder, image, .txt or .lst list, .npy, .npz, .tar shards,
            .parquet or .arrow files), "random:N", an array, a dict of arrays, an object with
            `get_next()`, or an iterable of arrays or dicts.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        samples: How many samples at most: a random subset in the data's order where the length
            is known, else the first ones.
        seed: Of the subset and of random data.
        on_bad_sample: "fail" raises at the first bad sample; "skip" records its name.
        shard: The part of these samples that is read.

    Raises:
        DataError: The data cannot be used with these inputs.
        MissingExtraError: The data needs a package that is not installed.
        RunFailure: The data lies elsewhere, and cannot be reached.
        OptionError: An argument is not legal.
    """
    if samples is not None and samples < 1:
        raise OptionError(f"samples is {samples}: take 1 or more, or leave it out to read all")
    if on_bad_sample not in ("fail", "skip"):
        raise OptionError(f"on_bad_sample is '{on_bad_sample}': take one of fail, skip")
    if not inputs:
        raise DataError("the model has no inputs, so no calibration data can be fed to it")
    for spec in inputs:
        target_dtype(spec)  # Raises where no data of any kind could be fed to the input.
    source = _open(data, inputs, preprocess, Pick(samples, seed, shard))
    source.skip_bad = on_bad_sample == "skip"
    return source


def _open(
    data: object,
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    if isinstance(data, str):
        return _open_named(data, inputs, preprocess, pick)
    if isinstance(data, os.PathLike):
        return open_path(Path(data), inputs, preprocess, pick)
    if isinstance(data, np.ndarray | Mapping):
        return open_stack(type(data).__name__, data, inputs, pick)
    if isinstance(data, Reader):
        return open_reader(data, inputs, pick)
    return open_iterable(data, inputs, pick)


def _open_named(
    name: str,
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    if not name:
        raise DataError("the calibration data is an empty name: give a path, or random:N")
    if name.startswith(RANDOM_PREFIX):
        return open_random(name, inputs, pick)
    if is_url(name):
        return open_url(name, inputs, preprocess, pick)
    return open_path(Path(name), inputs, preprocess, pick)
