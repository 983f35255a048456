"""What holds for every kind of source: subsets, legal options, bad samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec
from tests.calibration.data import names, opened, put, rows


class Loader:
    """Sized and iterable but not indexed, like torch's DataLoader."""

    def __len__(self) -> int:
        return 50

    def __iter__(self):
        return iter(rows(50, 2))


class Dataset:
    """Sized and indexed but not iterable, like torch's Dataset."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> np.ndarray:
        return rows(50, 2)[index]


@pytest.mark.parametrize("data", [rows(50, 2), list(rows(50, 2)), Loader(), Dataset()])
def test_sized_sources_give_a_sorted_random_subset(data):
    spec = TensorSpec("x", "float32", ("n", 2))
    source = opened(data, spec, samples=8, seed=5)
    want = sorted(np.random.default_rng(5).choice(50, 8, replace=False))
    assert source.count == 8
    assert [int(s.feeds["x"][0]) // 2 for s in source] == want
    assert names(source)[0].rstrip("]").endswith(str(want[0]))
    assert len(list(opened(data, spec, samples=50))) == 50
    assert opened(data, spec, samples=10**9).count == 50


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "samples is 0: take 1 or more"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample is 'ignore': take one of fail, skip"),
    ],
)
def test_illegal_options(options, match):
    with pytest.raises(OptionError, match=match):
        opened(rows(2, 3, 4, 6), **options)


def test_only_bad_images(tmp_path: Path):
    put(tmp_path, {"a.png": b"", "b.png": b"x"})
    with pytest.raises(
        DataError, match=r"all 2 samples of '.*' are bad; first: sample 'a\.png'"
    ):
        list(opened(tmp_path, on_bad_sample="skip"))
