"""How arrays are cast, which values are refused, and what a digest depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcompile.calibration.samples import Sample
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
from tests.calibration.data import names, opened, rows


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("float32", "float64"),
        ("float32", "float16"),
        ("float32", ">f4"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("int64", "uint8"),
        ("uint8", "int64"),
        ("bool", "bool"),
    ],
)
def test_casts_that_keep_the_values(target, source):
    data = np.array([[0, 1]], dtype=source)
    (sample,) = opened(data, TensorSpec("x", target, ("n", 2)))
    assert sample.feeds["x"].dtype.name == target
    assert sample.feeds["x"].astype(float).tolist() == [0, 1]


def test_integers_must_fit():
    spec = TensorSpec("x", "uint8", ("n", 2))
    with pytest.raises(DataError, match=r"\[0\].*takes uint8, got int64 values from 0 to 256"):
        list(opened(np.array([[0, 256]]), spec))
    with pytest.raises(
        DataError, match=r"\[1\].*takes uint8, got int64 values from -1 to 300"
    ):
        list(opened(np.array([[0, 255], [-1, 300]]), spec))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_values_name_the_sample_and_the_input(value):
    data = np.zeros((3, 2))
    data[1, 0] = value
    spec = TensorSpec("x", "float32", ("n", 2))
    with pytest.raises(
        DataError, match=r"'ndarray\[1\]': input 'x' holds NaN or Inf as float32"
    ):
        list(opened(data, spec))
    source = opened(data, spec, on_bad_sample="skip")
    assert names(source) == ["ndarray[0]", "ndarray[2]"]
    assert source.skipped == ["ndarray[1]"]


@given(order=st.permutations(list(range(6))), seed=st.integers(0, 9))
def test_array_digests_do_not_depend_on_order_or_position(order, seed):
    data = np.random.default_rng(seed).standard_normal((6, 2)).astype(np.float32)
    spec = TensorSpec("x", "float32", ("n", 2))
    straight = [s.digest for s in opened(data, spec)]
    mixed = [s.digest for s in opened([data[i] for i in order], spec)]
    assert mixed == [straight[i] for i in order]
    assert len(set(straight)) == 6


def test_digest_tells_name_dtype_and_shape_apart():
    zeros = np.zeros(4, np.float32)
    digests = {
        next(
            iter(opened([array], TensorSpec(name, array.dtype.name, (1, *array.shape))))
        ).digest
        for name, array in [
            ("x", zeros),
            ("z", zeros),
            ("x", zeros.reshape(2, 2)),
            ("x", zeros.view(np.int32)),
        ]
    }
    assert len(digests) == 4


def test_samples_do_not_share_memory_with_the_data():
    data = rows(2, 2)
    sample = next(iter(opened(data, TensorSpec("x", "float32", ("n", 2)))))
    assert isinstance(sample, Sample) and not np.shares_memory(sample.feeds["x"], data)
