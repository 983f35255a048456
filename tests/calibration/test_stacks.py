"""Stacked arrays: how the rank tells samples from complete feeds, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipcompile.calibration.preprocess import Preprocess
from lipcompile.calibration.sources import open_source
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
from tests.calibration.data import IDS, IMAGE, MASK, SCALAR, opened, rows


def no_preprocess() -> Preprocess:
    raise AssertionError("only images need preprocessing")


@pytest.mark.parametrize("make", ["array", "dict", "npy", "npz", "npz-any-name"])
def test_stacked_samples_read_the_same_from_every_container(tmp_path: Path, make):
    data = rows(3, 3, 4, 6)
    np.save(tmp_path / "d.npy", data)
    np.savez(tmp_path / "d.npz", x=data, labels=np.arange(3))
    np.savez_compressed(tmp_path / "e.npz", input=data)
    forms = {
        "array": data,
        "dict": {"x": data, "y": np.arange(3)},
        "npy": tmp_path / "d.npy",
        "npz": tmp_path / "d.npz",
        "npz-any-name": tmp_path / "e.npz",
    }
    source = open_source(forms[make], [IMAGE], preprocess=no_preprocess)
    label = {"array": "ndarray", "npy": "d.npy", "npz": "d.npz", "npz-any-name": "e.npz"}
    assert source.label == label.get(make, "dict")
    assert source.kind == ("npy" if make in ("array", "npy") else "npz")
    samples = list(source)
    assert [s.name for s in samples] == [f"{source.label}[{i}]" for i in range(3)]
    for sample, row in zip(samples, data, strict=True):
        assert not sample.whole
        np.testing.assert_array_equal(sample.feeds["x"], row)
        assert type(sample.feeds["x"]) is np.ndarray
    assert [s.digest for s in samples] == [
        s.digest for s in open_source(data, [IMAGE], preprocess=None)
    ]


@pytest.mark.parametrize(
    ("inputs", "arrays", "whole", "shapes"),
    [
        ([IDS, MASK], {"ids": (7, 5), "mask": (7, 5)}, False, {"ids": (5,), "mask": (5,)}),
        (
            [IDS, MASK],
            {"ids": (7, 2, 5), "mask": (7, 2, 5)},
            True,
            {"ids": (2, 5), "mask": (2, 5)},
        ),
        (
            [IDS, MASK],
            {"ids": (7, 2, 5), "mask": (2, 5)},
            True,
            {"ids": (2, 5), "mask": (2, 5)},
        ),
        ([IDS, SCALAR], {"ids": (7, 5), "t": ()}, False, {"ids": (5,), "t": ()}),
        ([IDS, SCALAR], {"ids": (7, 2, 5), "t": (7,)}, True, {"ids": (2, 5), "t": ()}),
    ],
    ids=["samples", "whole", "whole-constant", "rank-0-constant", "rank-0-rows"],
)
def test_rank_rule(inputs, arrays, whole, shapes):
    dtypes = {"ids": "int64", "mask": "bool", "t": "float32"}
    data = {k: np.ones(shape, dtypes[k]) for k, shape in arrays.items()}
    source = opened(data, *inputs)
    assert source.count == 7
    for sample in source:
        assert sample.whole is whole
        assert {k: a.shape for k, a in sample.feeds.items()} == shapes


def test_fixed_batch_does_not_restrict_the_number_of_samples():
    spec = TensorSpec("x", "float32", (4, 2))
    assert opened(rows(7, 2), spec).count == 7
    assert all(s.whole for s in opened(rows(3, 4, 2), spec))
    with pytest.raises(DataError, match=r"takes shape \[4, 2\], got \[5, 2\]"):
        opened(rows(3, 5, 2), spec)


@pytest.mark.parametrize(
    ("data", "inputs", "match"),
    [
        (rows(2, 3, 4, 5), [IMAGE], r"takes shape \[3, 4, 6\] per sample, got \[3, 4, 5\]"),
        (rows(3, 4, 6), [IMAGE], r"expected rank 4 \(samples along axis 0\) or 5"),
        (rows(0, 3, 4, 6), [IMAGE], r"holds no samples \(length 0\)"),
        (
            rows(2, 3, 4, 6, dtype="uint8"),
            [IMAGE],
            r"takes float32, got uint8.*astype\('float32'",
        ),
        (rows(2, 3, 4, 6, dtype="bool"), [IMAGE], "takes float32, got bool"),
        (rows(2, 5), [IDS], "takes int64, got float32: scale"),
        (np.full((2, 3, 4, 6), "a"), [IMAGE], "takes float32, got <U1"),
        (np.full((2, 3, 4, 6), None), [IMAGE], "takes float32, got object"),
        (
            rows(2, 5, dtype="int64"),
            [IDS, MASK],
            r"is one array, but the model takes .*'mask: bool \[n, 5\]'.*\.npz",
        ),
        ({"ids": rows(2, 5)}, [IDS, MASK], r"it has \['ids'\]: name each array"),
        (
            {"ids": rows(2, 5), "z": rows(2, 5)},
            [IDS],
            r"arrays \['z'\] that are no inputs.*ids: in",
        ),
        (
            {"ids": rows(2, 5, dtype="int64"), "mask": rows(3, 5, dtype="bool")},
            [IDS, MASK],
            r"different lengths \[2, 3\]",
        ),
        ({"ids": [1, 2]}, [IDS], "gives a 'list' for input 'ids', expected a NumPy array"),
        (rows(2, 5), [TensorSpec("s", None, ("n",))], "is not a tensor of numbers"),
        (rows(2, 5), [], "the model has no inputs"),
    ],
)
def test_stacked_arrays_that_do_not_fit(data, inputs, match):
    with pytest.raises(DataError, match=match):
        open_source(data, inputs, preprocess=None)
