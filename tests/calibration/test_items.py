"""Items of an iterable that do not fit the model's inputs."""

from __future__ import annotations

import numpy as np
import pytest

from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
from tests.calibration.data import IDS, MASK, names, opened


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (
            np.zeros((1, 1, 2)),
            r"sample 'item 0' has arrays of shape .*\[1, 1, 2\].*batch axis",
        ),
        (np.zeros(3), r"takes shape \[2\] per sample, got \[3\]"),
        (np.zeros((0, 2)), r"takes shape \[n, 2\], got \[0, 2\]"),
        ((np.zeros(2), 1), "is a 'tuple', expected a NumPy array or a dict .* without labels"),
        ({"x": [0.0, 0.0]}, "gives a 'list'"),
        (
            {"z": np.zeros(2), "w": np.zeros(2)},
            r"no array for the inputs \['x: float32 \[n, 2\]'",
        ),
    ],
)
def test_items_that_do_not_fit(item, match):
    spec = TensorSpec("x", "float32", ("n", 2))
    with pytest.raises(DataError, match=match):
        list(opened([item], spec))
    source = opened([item, np.zeros(2)], spec, on_bad_sample="skip")
    assert (names(source), source.skipped) == (["item 1"], ["item 0"])


def test_items_of_several_inputs_agree_on_the_batch_axis():
    feeds = {"ids": np.zeros((1, 5), int), "mask": np.zeros(5, bool)}
    with pytest.raises(
        DataError, match="give every input with its batch axis, or every input"
    ):
        list(opened([feeds], IDS, MASK))
