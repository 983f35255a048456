"""Random data: asked for by name, and repeated with its seed."""

from __future__ import annotations

import numpy as np
import pytest

from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec
from tests.calibration.data import IDS, IMAGE, MASK, SCALAR, opened


def test_random_data_is_asked_for_and_repeats_with_its_seed():
    inputs = [IMAGE, IDS, MASK, TensorSpec("h", "float16", ("n", "d", 3)), SCALAR]
    source = opened("random:4", *inputs, seed=3)
    assert (source.kind, source.label, source.count) == ("random", "random:4", 4)
    samples = list(source)
    assert [s.name for s in samples] == [f"random[{i}]" for i in range(4)]
    feeds = samples[0].feeds
    assert {k: (a.dtype.name, a.shape) for k, a in feeds.items()} == {
        "x": ("float32", (3, 4, 6)),
        "ids": ("int64", (5,)),
        "mask": ("bool", (5,)),
        "h": ("float16", (1, 3)),
        "t": ("float32", ()),
    }
    assert set(np.unique(feeds["ids"])) <= {0, 1} and not samples[0].whole
    digests = [s.digest for s in samples]
    assert len(set(digests)) == 4
    assert digests == [s.digest for s in opened("random:4", *inputs, seed=3)]
    assert digests != [s.digest for s in opened("random:4", *inputs, seed=4)]


@pytest.mark.parametrize("text", ["random:0", "random:", "random:-1", "random:x"])
def test_random_data_needs_a_count(text):
    with pytest.raises(OptionError, match="write random:N with N samples, N >= 1"):
        opened(text)


def test_random_data_needs_a_rank():
    with pytest.raises(DataError, match="has no known rank"):
        opened("random:1", TensorSpec("x", "float32", None))
