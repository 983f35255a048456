"""Sources in memory that give one item after another: datasets, iterators, readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lipcompile.calibration.sources.items import item_sample
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.sources.source import Load, Source, indexed_source
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec


@runtime_checkable
class Reader(Protocol):
    """ONNX Runtime's CalibrationDataReader."""

    def get_next(self) -> dict[str, np.ndarray] | None: ...


@runtime_checkable
class _Indexed(Protocol):
    """A list, or a map-style dataset, whose items need not be read in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def open_reader(reader: Reader, inputs: Sequence[TensorSpec], pick: Pick) -> Source:
    """The complete feeds that `reader` gives: those that `pick` chooses of the first ones."""
    feeds = iter(reader.get_next, None)
    read = partial(_stream, feeds, inputs, pick, whole=True)
    return Source("reader", type(reader).__name__, None, read)


def open_iterable(data: object, inputs: Sequence[TensorSpec], pick: Pick) -> Source:
    """The items of `data` that `pick` chooses; of the first ones where the length is unknown.

    Raises:
        DataError: `data` can be neither indexed nor iterated.
    """
    label = type(data).__name__
    if isinstance(data, _Indexed):
        items = data

        def load(name: str, i: int) -> Sample:
            return item_sample(name, items[i], inputs)

        return indexed_source(
            "iterable",
            label,
            pick(len(items)),
            lambda i: f"item {i}",
            load,
            threaded=False,
        )
    if not isinstance(data, Iterable):
        raise DataError(
            f"calibration data of type '{label}' cannot be read: give a path, an array, a dict"
            " of arrays, an iterable of these, or an object with get_next()"
        )
    if isinstance(data, Sized):
        indices = pick(len(data))
        read = partial(_chosen, data, inputs, frozenset(indices))
        return Source("iterable", label, len(indices), read)
    return Source("iterable", label, None, partial(_stream, data, inputs, pick))


def _stream(
    items: Iterable[Any],
    inputs: Sequence[TensorSpec],
    pick: Pick,
    start: int,
    whole: bool | None = None,
) -> Iterator[tuple[str, Load]]:
    first, step = pick.shard.index - 1, pick.shard.count
    numbered = islice(enumerate(items), first + start * step, pick.samples, step)
    return (_pending(i, item, inputs, whole) for i, item in numbered)


def _chosen(
    items: Iterable[Any], inputs: Sequence[TensorSpec], wanted: frozenset[int], start: int
) -> Iterator[tuple[str, Load]]:
    numbered = islice(enumerate(items), max(wanted, default=-1) + 1)
    chosen = (_pending(i, item, inputs, None) for i, item in numbered if i in wanted)
    return islice(chosen, start, None)


def _pending(
    index: int, item: Any, inputs: Sequence[TensorSpec], whole: bool | None
) -> tuple[str, Load]:
    name = f"item {index}"
    return name, partial(item_sample, name, item, inputs, whole)
