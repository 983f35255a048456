"""Iterables and readers: what they give, and how much of them is read."""

from __future__ import annotations

import numpy as np
import pytest

from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
from tests.calibration.data import IDS, opened, rows


class Reader:
    """Like ONNX Runtime's CalibrationDataReader."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def test_iterables_of_samples_and_of_complete_feeds():
    spec = TensorSpec("x", "float32", ("n", 2))
    items = [np.zeros(2), np.zeros((3, 2)), {"x": np.zeros(2), "label": 1}]
    source = opened(items, spec)
    assert (source.kind, source.label, source.count) == ("iterable", "list", 3)
    assert [(s.name, s.whole) for s in source] == [
        ("item 0", False),
        ("item 1", True),
        ("item 2", False),
    ]
    stream = opened((item for item in items), spec)
    assert (stream.kind, stream.label, stream.count) == ("iterable", "generator", None)
    assert len(list(stream)) == 3
    with pytest.raises(DataError, match=r"gave no sample.*an iterator that was already read"):
        list(stream)


def test_reader_gives_complete_feeds_until_none():
    feeds = [{"ids": np.full((2, 5), i)} for i in range(3)]
    source = opened(Reader(feeds), IDS)
    assert (source.kind, source.label, source.count) == ("reader", "Reader", None)
    assert [(s.name, s.whole) for s in source] == [(f"item {i}", True) for i in range(3)]
    assert len(list(opened(Reader(feeds), IDS, samples=2))) == 2
    with pytest.raises(DataError, match=r"takes shape \[n, 5\], got \[5\]"):
        list(opened(Reader([{"ids": np.zeros(5, int)}]), IDS))


def test_unreadable_types():
    with pytest.raises(DataError, match="of type 'int' cannot be read: give a path"):
        opened(3)


def test_unsized_sources_give_the_first_samples_and_read_no_further():
    items = iter(rows(50, 2))
    spec = TensorSpec("x", "float32", ("n", 2))
    assert [int(s.feeds["x"][0]) for s in opened(items, spec, samples=3)] == [0, 2, 4]
    assert next(items)[0] == 6
