"""Which models are taken, and what every kind of data has in common."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lipcompile.demo import TEST
from lipcompile.errors import DataError
from lipcompile.labelled import LabelledImages, Normalisation, open_labelled
from lipcompile.signature import TensorSpec
from tests.labelled.samples import RGB, by_name, levels, opened, put

Y = np.arange(20) % 3
IMAGES = levels(20, 3, 5, 6)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ([], r"the model takes 0 inputs \[\]"),
        (
            [RGB, TensorSpec("mask", "bool", ("n",))],
            r"takes 2 inputs \['image: .*', 'mask: bool \[n\]'\], and an attack changes one"
            " image: export",
        ),
        (
            [TensorSpec("x", "uint8", ("n", 3, 5, 6))],
            r"input 'x: uint8 \[n, 3, 5, 6\]' takes uint8, but a perturbation smaller than one"
            " of 256 levels cannot be fed to it: export the model with a float input",
        ),
        (
            [TensorSpec("x", "int64", ("n", 7))],
            "takes int64, but images are attacked as float32",
        ),
        ([TensorSpec("x", "bfloat16", ("n", 3, 5, 6))], "takes bfloat16"),
        ([TensorSpec("x", None, None)], "takes no tensor"),
        ([TensorSpec("x", "float32", ("n",))], r"is no batch of images \(rank 4, rank 3"),
        ([TensorSpec("x", "float32", None)], "is no batch of images"),
        (
            [TensorSpec("x", "float32", (3, 5, 6))],
            "takes one image without a batch axis: export the model with a batch axis",
        ),
        ([TensorSpec("x", "float32", ("h", "w", 3))], "without a batch axis"),
        ([TensorSpec("x", "float32", ("n", "h", "w"))], "dynamic axes for height and width"),
        ([TensorSpec("x", "float32", ("n", "k"))], "does not fit input"),
        ([TensorSpec("x", "float32", ("n", 5, 4, 6))], "has 5 channels|may be NCHW or NHWC"),
    ],
)
def test_models_that_are_refused(inputs: list[TensorSpec], match: str) -> None:
    with pytest.raises(DataError, match=match):
        open_labelled((IMAGES, Y), inputs, num_classes=3)


def test_values_beyond_the_dtype_are_refused() -> None:
    half = TensorSpec("x", "float16", ("n", 3, 5, 6))
    with pytest.raises(DataError, match=r"values up to 1e\+06, which input 'x: float16"):
        opened((IMAGES, Y), half, image_flags={"std": 1e-6})
    assert opened((IMAGES, Y), half).normalisation(IMAGES[:1]).dtype == np.float16


def test_subset_is_random_ordered_and_the_same_for_a_seed(tmp_path: Path) -> None:
    put(tmp_path, *(f"{c}/{i}.png" for c in range(3) for i in range(5)))
    for data, count in (((IMAGES, Y), 20), (tmp_path, 15)):
        whole, some, again, other = (
            opened(data, samples=samples, seed=seed)
            for samples, seed in ((None, 0), (7, 0), (7, 0), (7, 1))
        )
        assert len(whole.pixels) == whole.available == some.available == count
        assert len(some.pixels) == 7
        assert some.names == again.names and some.digest == again.digest
        assert some.names != other.names and some.digest != other.digest
        places = [whole.names.index(name) for name in some.names]
        assert places == sorted(places) and len(set(places)) == 7
        np.testing.assert_array_equal(some.pixels, whole.pixels[places])
        np.testing.assert_array_equal(some.labels, whole.labels[places])


def test_fewer_images_than_asked_for_are_told_and_no_error() -> None:
    result = opened((IMAGES, Y), samples=500)
    assert (len(result.pixels), result.available) == (20, 20)
    assert str(result) == "20 labelled images of 'images', 3x5x6"
    assert str(opened((IMAGES, Y), samples=5)) == "5 of 20 labelled images of 'images', 3x5x6"


def test_digest_is_of_pixels_and_labels_in_order() -> None:
    base = opened((IMAGES, Y)).digest
    assert base.startswith("sha256:") and len(base) == 71
    assert opened({"x": IMAGES, "y": Y}, image_flags={"mean": 0.5}).digest == base
    assert opened((IMAGES, (Y + 1) % 3)).digest != base
    assert opened((IMAGES[::-1], Y[::-1])).digest != base
    changed = IMAGES.copy()
    changed[0, 0, 0, 0] ^= 1
    assert opened((changed, Y)).digest != base


def test_json_says_what_was_read() -> None:
    result = opened((IMAGES, Y), samples=5, classes=["a", "b", "c"])
    assert json.loads(json.dumps(result.to_json())) == {
        "label": "images",
        "samples": 5,
        "available": 20,
        "shape": [3, 5, 6],
        "digest": result.digest,
        "classes": ["a", "b", "c"],
        "normalisation": Normalisation().to_json(),
    }


def test_result_is_consistent_by_construction() -> None:
    pixels = np.zeros((2, 1, 2, 2), np.float32)
    with pytest.raises(AssertionError):
        LabelledImages(pixels, np.zeros(3, np.int64), ("a", "b"), Normalisation(), "x", 2)


def test_bundled_images_of_the_demo(tmp_path: Path) -> None:
    spec = TensorSpec("image", "float32", ("batch", 1, 28, 28))
    result = opened(TEST, spec, num_classes=10)
    assert result.pixels.shape == (1000, 1, 28, 28)
    assert result.names[17] == "test.npz[17]"
    with np.load(TEST) as content:
        np.testing.assert_array_equal(result.labels, content["labels"])
        # As `demo.load_test_images` scales them, to one unit in the last place.
        want = content["images"][:, None].astype(np.float32) / np.float32(255)
    np.testing.assert_array_max_ulp(result.pixels, want, maxulp=1)


def test_names_are_paths_with_slashes(tmp_path: Path) -> None:
    put(tmp_path, "0/deep/x.png")
    assert by_name(opened(tmp_path)) == {"0/deep/x.png": 0}
