"""What calibration reads: opens folders, lists, array files and iterables as samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np

from lipcompile.calibration.array_files import (
    Sample,
    array_sample,
    check_dtype,
    draw,
    item_sample,
    read_arrays,
    stack_arrays,
    target_dtype,
)
from lipcompile.calibration.image_files import (
    IMAGE_SUFFIXES,
    find_files,
    image_sample,
    read_list,
)
from lipcompile.calibration.preprocess import Preprocess
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

__all__ = ["Kind", "Sample", "Source", "open_source"]

Kind = Literal["images", "list", "npy", "npz", "iterable", "reader", "random"]
Load = Callable[[], Sample]
Inputs = Sequence[TensorSpec]
Pick = Callable[[int], Sequence[int]]

_ARRAY_SUFFIXES = (".npy", ".npz")
_LIST_SUFFIXES = (".txt", ".lst")


@runtime_checkable
class _Reader(Protocol):
    """ONNX Runtime's CalibrationDataReader."""

    def get_next(self) -> dict[str, np.ndarray] | None: ...


@runtime_checkable
class _Indexed(Protocol):
    """A list, or a map-style dataset, whose items need not be read in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@final
@dataclass(slots=True)
class Source:
    """Calibration samples, read one by one.

    Every bad sample passes through `__iter__`, so no kind of source can drop one unseen.

    Attributes:
        kind: What was opened.
        label: For provenance: a base name, never an absolute path.
        count: Samples that iteration attempts, or None where that is unknown.
        pending: Starts the reading: pairs of a name and the function that loads the sample.
        skip_bad: Whether bad samples are skipped.
        skipped: Names of the bad samples skipped since iteration began.
    """

    kind: Kind
    label: str
    count: int | None
    pending: Callable[[], Iterator[tuple[str, Load]]]
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Sample]:
        """The samples that can be used.

        Raises:
            DataError: A sample is bad and `skip_bad` is off, or none was good.
        """
        self.skipped = []
        good, first = 0, None
        for name, load in self.pending():
            try:
                sample = load()
            except DataError as err:
                if not self.skip_bad:
                    raise
                self.skipped.append(name)
                first = first or err
                continue
            good += 1
            yield sample
        if first is not None and not good:
            raise DataError(
                f"all {len(self.skipped)} samples of '{self.label}' are bad; first: {first}"
            ) from first
        if not good:
            raise DataError(
                f"calibration data '{self.label}' gave no sample: it is empty, or an iterator"
                " that was already read; give at least one sample"
            )


def open_source(
    data: object,
    inputs: Inputs,
    *,
    preprocess: Callable[[], Preprocess] | None,
    samples: int | None = None,
    seed: int = 0,
    on_bad_sample: Literal["fail", "skip"] = "fail",
) -> Source:
    """Opens calibration data as samples for a model's inputs.

    Args:
        data: A path (folder, image, .txt or .lst list, .npy, .npz), "random:N", an array, a
            dict of arrays, an object with `get_next()`, or an iterable of arrays or dicts.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        samples: How many samples at most: a random subset in the data's order where the length
            is known, else the first ones.
        seed: Of the subset and of random data.
        on_bad_sample: "fail" raises at the first bad sample; "skip" records its name.

    Raises:
        DataError: The data cannot be used with these inputs.
        OptionError: An argument is not legal.
    """
    if samples is not None and samples < 1:
        raise OptionError(f"samples is {samples}: take 1 or more, or leave it out to read all")
    if on_bad_sample not in ("fail", "skip"):
        raise OptionError(f"on_bad_sample is '{on_bad_sample}': take one of fail, skip")
    if not inputs:
        raise DataError("the model has no inputs, so no calibration data can be fed to it")
    for spec in inputs:
        check_dtype("", spec, target_dtype(spec))
    pick = partial(_pick, samples=samples, seed=seed)
    if isinstance(data, str) and data.startswith("random:"):
        source = _random(data, inputs, pick, seed)
    elif isinstance(data, str | os.PathLike):
        source = _path(Path(data), inputs, preprocess, pick)
    elif isinstance(data, np.ndarray | Mapping):
        kind: Kind = "npy" if isinstance(data, np.ndarray) else "npz"
        source = _stack(kind, type(data).__name__, data, inputs, pick)
    elif isinstance(data, _Reader):
        read = partial(_stream, iter(data.get_next, None), inputs, limit=samples, whole=True)
        source = Source("reader", type(data).__name__, None, read)
    else:
        source = _iterable(data, inputs, samples, pick)
    source.skip_bad = on_bad_sample == "skip"
    return source


def _pick(count: int, *, samples: int | None, seed: int) -> Sequence[int]:
    if samples is None or samples >= count:
        return range(count)
    chosen = np.random.default_rng(seed).choice(count, samples, replace=False)
    return sorted(map(int, chosen))


def _indexed(
    names: Callable[[int], str], load: Callable[[str, int], Sample], indices: Sequence[int]
) -> Callable[[], Iterator[tuple[str, Load]]]:
    return lambda: ((names(i), partial(load, names(i), i)) for i in indices)


def _path(
    path: Path, inputs: Inputs, preprocess: Callable[[], Preprocess] | None, pick: Pick
) -> Source:
    suffix = path.suffix.lower()
    # os.path.exists, unlike Path.exists, is False where the path cannot even be looked up.
    if not os.path.exists(path):
        near = next(p for p in path.absolute().parents if os.path.exists(p))
        raise DataError(
            f"calibration data '{path}': no such file or folder; the nearest folder that"
            f" exists is '{near}': check the path"
        )
    if path.is_dir():
        label = path.resolve().name
        if names := find_files(path, IMAGE_SUFFIXES):
            return _images("images", label, path, names, inputs, preprocess, pick)
        return _array_folder(label, path, find_files(path, _ARRAY_SUFFIXES), inputs, pick)
    if suffix in _LIST_SUFFIXES:
        names = read_list(path)
        return _images("list", path.name, path.parent, names, inputs, preprocess, pick)
    if suffix in IMAGE_SUFFIXES:
        return _images("images", path.name, path.parent, [path.name], inputs, preprocess, pick)
    if suffix in _ARRAY_SUFFIXES:
        arrays = read_arrays(path, path.name)
        kind: Kind = "npy" if isinstance(arrays, np.ndarray) else "npz"
        return _stack(kind, path.name, arrays, inputs, pick)
    raise DataError(
        f"calibration data '{path}' has the suffix '{suffix}': give a folder of images, an"
        " image, a .txt or .lst list of image paths, a .npy or a .npz file"
    )


def _images(
    kind: Kind,
    label: str,
    root: Path,
    names: Sequence[str],
    inputs: Inputs,
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    if len(inputs) != 1 or preprocess is None:
        raise DataError(
            f"'{label}' holds images, which need preprocessing and a model with one input;"
            f" this model takes {[str(spec) for spec in inputs]}: give .npz data with one"
            " array per input"
        )
    spec, transform = inputs[0], preprocess()

    def load(name: str, _: int) -> Sample:
        return image_sample(root / name, name, spec, transform)

    indices = pick(len(names))
    return Source(kind, label, len(indices), _indexed(names.__getitem__, load, indices))


def _array_folder(
    label: str, root: Path, names: Sequence[str], inputs: Inputs, pick: Pick
) -> Source:
    if not names:
        raise DataError(
            f"folder '{label}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no"
            " .npy or .npz files; hidden files and linked folders are not read: check the path"
        )

    def load(name: str, _: int) -> Sample:
        return item_sample(name, read_arrays(root / name, name), inputs)

    indices = pick(len(names))
    kind: Kind = "npz" if any(name.lower().endswith("z") for name in names) else "npy"
    return Source(kind, label, len(indices), _indexed(names.__getitem__, load, indices))


def _stack(kind: Kind, label: str, data: Any, inputs: Inputs, pick: Pick) -> Source:
    stack = stack_arrays(label, data, inputs)
    indices = pick(stack.count)
    pending = _indexed(lambda i: f"{label}[{i}]", stack.load, indices)
    return Source(kind, label, len(indices), pending)


def _random(text: str, inputs: Inputs, pick: Pick, seed: int) -> Source:
    """Standard-normal floats and integers 0 or 1; dynamic axes have length 1."""
    count = text.removeprefix("random:")
    if not count.isdecimal() or int(count) < 1:
        raise OptionError(f"'{text}' is no random data: write random:N with N samples, N >= 1")
    for spec in inputs:
        if spec.shape is None:
            raise DataError(
                f"input '{spec}' has no known rank, so no random data can be drawn for it:"
                " give .npz data"
            )

    def load(name: str, i: int) -> Sample:
        rng = np.random.default_rng([seed, i])
        feeds = {spec.name: draw(rng, spec) for spec in inputs}
        return array_sample(name, feeds, inputs, not any(spec.shape for spec in inputs))

    indices = pick(int(count))
    return Source(
        "random", text, len(indices), _indexed(lambda i: f"random[{i}]", load, indices)
    )


def _iterable(data: object, inputs: Inputs, samples: int | None, pick: Pick) -> Source:
    label = type(data).__name__
    if isinstance(data, _Indexed):
        items = data

        def load(name: str, i: int) -> Sample:
            return item_sample(name, items[i], inputs)

        indices = pick(len(data))
        return Source(
            "iterable", label, len(indices), _indexed(lambda i: f"item {i}", load, indices)
        )
    if not isinstance(data, Iterable):
        raise DataError(
            f"calibration data of type '{label}' cannot be read: give a path, an array, a dict"
            " of arrays, an iterable of these, or an object with get_next()"
        )
    if isinstance(data, Sized):
        indices = pick(len(data))
        read = partial(_stream, data, inputs, wanted=frozenset(indices))
        return Source("iterable", label, len(indices), read)
    return Source("iterable", label, None, partial(_stream, data, inputs, limit=samples))


def _stream(
    items: Iterable[Any],
    inputs: Inputs,
    *,
    limit: int | None = None,
    wanted: frozenset[int] | None = None,
    whole: bool | None = None,
) -> Iterator[tuple[str, Load]]:
    limit = max(wanted, default=-1) + 1 if wanted is not None else limit
    for i, item in enumerate(islice(items, limit)):
        if wanted is None or i in wanted:
            name = f"item {i}"
            yield name, partial(item_sample, name, item, inputs, whole)
