"""Arrays of images: names, axes, values and labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import DataError, OptionError
from lipcompile.labelled import image_pixels
from lipcompile.signature import TensorSpec
from tests.labelled.samples import (
    DYNAMIC,
    FLAT,
    GREY,
    KERAS,
    LAST,
    RGB,
    levels,
    opened,
)

COLOUR = levels(5, 3, 5, 6)
SQUARE = levels(5, 5, 5)
Y = np.array([0, 1, 2, 1, 0])
FLAT_COLOUR = TensorSpec("image", "float32", ("n", 90))
ONE = TensorSpec("image", "float32", (1, 5, 5))
UNIT = COLOUR.astype(np.float32) / 255


def as_pixels(images: np.ndarray) -> np.ndarray:
    """[N, C, H, W] in [0, 1] of levels [N, C, H, W], to one unit in the last place."""
    return images.astype(np.float32) / 255


# What is accepted


AXES: dict[str, tuple[np.ndarray, TensorSpec, dict[str, Any], np.ndarray]] = {
    "channels first": (COLOUR, RGB, {}, COLOUR),
    "channels last": (COLOUR.transpose(0, 2, 3, 1), RGB, {}, COLOUR),
    "channels last, model too": (COLOUR.transpose(0, 2, 3, 1), LAST, {}, COLOUR),
    "channels first, model last": (COLOUR, LAST, {}, COLOUR),
    "grey": (SQUARE, GREY, {}, SQUARE[:, None]),
    "grey, channel last": (SQUARE[..., None], GREY, {}, SQUARE[:, None]),
    "grey, flat array": (SQUARE.reshape(5, 25), GREY, {}, SQUARE[:, None]),
    "grey, flat input": (SQUARE, FLAT, {}, SQUARE[:, None]),
    "flat, flat input": (SQUARE.reshape(5, 25), FLAT, {}, SQUARE[:, None]),
    "grey, no channel axis": (SQUARE, KERAS, {}, SQUARE[:, None]),
    "one grey image at a time": (SQUARE, ONE, {}, SQUARE[:, None]),
    "grey, dynamic": (SQUARE, DYNAMIC, {}, SQUARE[:, None]),
    "colour, dynamic": (COLOUR, DYNAMIC, {}, COLOUR),
    "colour, flat input": (COLOUR, FLAT_COLOUR, {"layout": "NCHW"}, COLOUR),
    "colour, flat input, last": (COLOUR, FLAT_COLOUR, {"layout": "NHWC"}, COLOUR),
    "fixed batch": (COLOUR, TensorSpec("i", "float32", (2, 3, 5, 6)), {}, COLOUR),
}  # fmt: skip


@pytest.mark.parametrize("case", AXES)
def test_axes(case: str) -> None:
    images, spec, flags, want = AXES[case]
    result = opened((images, Y), spec, image_flags=flags)
    assert result.pixels.shape == want.shape
    np.testing.assert_array_max_ulp(result.pixels, as_pixels(want), maxulp=1)
    np.testing.assert_array_equal(result.labels, Y)
    assert result.names == tuple(f"images[{i}]" for i in range(5))
    fed = result.normalisation(result.pixels)
    assert spec.shape is not None and fed.shape[1:] == tuple(
        got if isinstance(asked, str) else asked
        for asked, got in zip(spec.shape[1:], fed.shape[1:], strict=True)
    )


def test_flat_colour_follows_the_layout() -> None:
    first, last = (
        opened((COLOUR, Y), FLAT_COLOUR, image_flags={"layout": layout})
        for layout in ("NCHW", "NHWC")
    )
    np.testing.assert_array_equal(
        first.normalisation(first.pixels), first.pixels.reshape(5, 90)
    )
    np.testing.assert_array_equal(
        last.normalisation(last.pixels), last.pixels.transpose(0, 2, 3, 1).reshape(5, 90)
    )


VALUES = {
    "uint8": COLOUR,
    "float32": UNIT,
    "float64": COLOUR / 255,
    "float16": UNIT.astype(np.float16),
    "rounding outside": UNIT * np.float32(1 + 5e-7) - np.float32(2e-7),
    "not contiguous": UNIT[:, :, ::-1][:, :, ::-1],
}


@pytest.mark.parametrize("case", VALUES)
def test_values(case: str) -> None:
    pixels = opened((VALUES[case], Y)).pixels
    assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
    assert pixels.min() >= 0 and pixels.max() <= 1
    # float16 has steps of 2^-11 below 1.
    np.testing.assert_allclose(pixels, UNIT, atol=2.0**-12 if case == "float16" else 1e-6)


KEYS = {
    "images, labels": ("images", "labels"),
    "x, y": ("x", "y"),
    "x_test, y_test": ("x_test", "y_test"),
    "data, targets": ("data", "targets"),
    "image, label": ("image", "label"),
}


@pytest.mark.parametrize("case", KEYS)
def test_npz_keys(tmp_path: Path, case: str) -> None:
    first, second = KEYS[case]
    np.savez(tmp_path / "test.npz", **{first: COLOUR, second: Y, "x_train": COLOUR[:1]})
    spec = TensorSpec("input", "float32", RGB.shape)
    result = opened(tmp_path / "test.npz", spec)
    assert result.label == "test.npz" and result.names[3] == "test.npz[3]"
    np.testing.assert_array_equal(result.labels, Y)


def test_the_name_of_the_input_comes_first() -> None:
    spec = TensorSpec("y", "float32", RGB.shape)
    result = opened({"y": COLOUR, "x": COLOUR[:1], "labels": Y}, spec)
    assert len(result.pixels) == 5 and result.label == "dict"


LABELS: dict[str, Any] = {
    "int": Y,
    "list": Y.tolist(),
    "uint8": Y.astype(np.uint8),
    "whole floats": Y.astype(np.float32),
    "column": Y[:, None],
    "one-hot": np.eye(3)[Y],
    "one-hot bool": np.eye(3, dtype=bool)[Y],
    "text": Y.astype(str),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case: str) -> None:
    result = opened((COLOUR, LABELS[case]))
    assert result.labels.dtype == np.int64
    np.testing.assert_array_equal(result.labels, Y)


@pytest.mark.parametrize("name", ["y.npy", "y.npz", "y.csv", "heading.csv"])
def test_labels_in_files(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", COLOUR)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "y.npz", labels=Y, other=Y[:1])
    lines = "\n".join(map(str, Y)) + "\n"
    (tmp_path / "y.csv").write_text(lines, encoding="utf-8")
    (tmp_path / "heading.csv").write_text("label\n" + lines, encoding="utf-8")
    for data in (tmp_path / "x.npy", COLOUR):
        result = opened(data, labels=tmp_path / name)
        np.testing.assert_array_equal(result.labels, Y)


def test_class_names_in_label_arrays_and_columns(tmp_path: Path) -> None:
    classes = ["label", "bee", "cow"]
    names = np.array(classes)[Y]
    assert opened((COLOUR, names), classes=classes).labels.tolist() == Y.tolist()
    (tmp_path / "y.csv").write_text("\n".join(names), encoding="utf-8")
    result = opened(COLOUR, labels=tmp_path / "y.csv", classes=classes)
    assert result.labels.tolist() == Y.tolist(), "a class may be called 'label'"
    assert result.classes == ("label", "bee", "cow")


def test_arithmetic_flags_act_on_arrays() -> None:
    flags = {"mean": (1.0, 2.0, 3.0), "std": (2.0,), "rescale": 1.0, "color": "BGR"}
    result = opened((COLOUR, Y), image_flags=flags)
    want = (COLOUR[:, ::-1] - np.array([1, 2, 3], np.float32)[:, None, None]) / np.float32(2)
    np.testing.assert_array_equal(result.normalisation(result.pixels), want)
    given = Preprocess(
        mean=(1.0, 2.0, 3.0), std=(2.0,), rescale=1.0, color="BGR"
    )  # the same by hand
    again = opened((COLOUR, Y), preprocess=given)
    assert again.normalisation == result.normalisation
    assert again.digest == result.digest


def test_a_size_flag_that_agrees_is_accepted() -> None:
    flags = {"input_size": (5, 6), "crop_pct": 0.875}
    assert opened((COLOUR, Y), DYNAMIC, image_flags=flags).pixels.shape == (5, 3, 5, 6)


# What is refused


REFUSED: dict[str, tuple[object, dict[str, Any], str]] = {
    "no labels": (
        {"images": COLOUR},
        {},
        "no labels found for 'dict': it has the arrays images, expected one named labels,"
        " label, y, y_test, targets: rename it, or pass --labels",
    ),
    "array alone": (COLOUR, {}, "no labels found for 'ndarray', which is one array: pass"),
    "no images": (
        {"pictures": COLOUR, "labels": Y},
        {},
        "holds no images: it has the arrays labels, pictures, expected one named images,"
        " image, x, x_test, data or 'image'",
    ),
    "two image arrays": (
        {"x": COLOUR, "images": COLOUR, "labels": Y},
        {},
        "several arrays that may be the images: images, x: keep one",
    ),
    "two label arrays": ({"x": COLOUR, "y": Y, "labels": Y}, {}, "the labels: labels, y"),
    "counts differ": ((COLOUR, Y[:4]), {}, "holds 5 images and 4 labels: give one label per"),
    "label out of range": (
        (COLOUR, Y + 10),
        {},
        r"label 10 of 'images\[0\]', but 'net\.onnx' has 3 outputs, so labels are 0 to 2 \(5"
        " of 5 labels",
    ),
    "label below 0": ((COLOUR, Y - 1), {}, r"label -1 of 'images\[0\]'"),
    "fractions": ((COLOUR, Y / 2), {}, "are float64 values that are not all integers"),
    "nan label": ((COLOUR, [0, 1, np.nan, 0, 0]), {}, "not all integers: give the index"),
    "unknown name": ((COLOUR, list("aabbc")), {}, r"label 'a' of 'images\[0\]' is no integer"),
    "soft labels": (
        (COLOUR, np.full((5, 3), 1 / 3)),
        {},
        r"shape \[5, 3\], but not every row holds one 1 and else 0, so they are not one-hot",
    ),
    "two-hot labels": ((COLOUR, np.ones((5, 3))), {}, "not one-hot: give the index"),
    "one-hot of another model": (
        (COLOUR, np.eye(4)[Y]),
        {},
        "one-hot labels of 'images' have 4 columns, but the model has 3 outputs",
    ),
    "label cube": ((COLOUR, np.zeros((5, 3, 2))), {}, r"have shape \[5, 3, 2\], expected one"),
    "0 to 255 as floats": (
        (COLOUR.astype(np.float32), Y),
        {},
        r"hold values from 0 to 255, expected 0 to 1: divide by 255, or undo the normalisation"
        " and pass --mean/--std",
    ),
    "normalised": ((UNIT * 2 - 1, Y), {}, "hold values from -1 to 1, expected 0 to 1"),
    "barely outside": ((UNIT * np.float32(1 + 1e-5), Y), {}, "expected 0 to 1"),
    "nan": (
        (np.where(np.arange(5)[:, None, None, None] == 3, np.nan, UNIT), Y),
        {},
        r"image 'images\[3\]' holds NaN or Inf \(1 of 5 images do\): repair the data",
    ),
    "int64": ((COLOUR.astype(np.int64), Y), {}, "are int64: give uint8 levels from 0 to 255"),
    "empty": ((COLOUR[:0], Y[:0]), {}, r"holds no images \(shape \[0, 3, 5, 6\]\): give some"),
    "other size": (
        (levels(5, 3, 7, 6), Y),
        {},
        r"have shape \[5, 3, 7, 6\], which does not fit input 'image: float32 \[n, 3, 5, 6\]':"
        " give",
    ),
    "four channels": ((levels(5, 4, 5, 6), Y), {}, r"does not fit input .* 1 or 3 channels"),
    "one image": ((COLOUR[0], Y[:3]), {}, r"have shape \[3, 5, 6\], which does not fit"),
    "flat, not square": ((levels(5, 12), Y), {"spec": FLAT}, "does not fit input"),
    "flat input, other size": ((levels(5, 6, 6), Y), {"spec": FLAT}, "does not fit input"),
    "flat colour": (
        (COLOUR, Y),
        {"spec": FLAT_COLOUR},
        r"is flat, so it does not tell the order of 3 channels: pass --layout NCHW .* NHWC",
    ),
    "two readings": (
        (levels(5, 3, 5, 3), Y),
        {"spec": TensorSpec("x", "float32", ("n", 45)), "image_flags": {"layout": "NCHW"}},
        "where the channels may be the second axis or the last",
    ),
    "size flag": (
        (COLOUR, Y),
        {"spec": DYNAMIC, "image_flags": {"input_size": 8}},
        r"'images' holds images of 5x6 \(height x width\), but preprocessing gives 8x8, and"
        " arrays are not resized",
    ),
    "no array": (([COLOUR, 3], Y), {}, "a 'list' in the pair .* is no array"),
    "other type": (3, {}, "labelled data is a 'int': give a path, a pair"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    data, options, match = REFUSED[case]
    with pytest.raises(DataError, match=match):
        opened(data, **options)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        (
            "y.txt",
            "1",
            r"have the suffix '\.txt': arrays take a \.npy or \.npz file, or a \.csv",
        ),
        ("y.csv", "1,2\n", r"line 1 of labels '.*' has 2 columns: labels of arrays are one"),
        ("y.csv", "", "holds 5 images and 0 labels"),
        ("y.csv", "a\n1\n", r"label 'a' of 'y\.csv\[0\]' is no integer"),
        ("y.npy", "no array", "array file 'y.npy' cannot be read"),
    ],
)
def test_label_files_that_are_refused(
    tmp_path: Path, name: str, content: str, match: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=match):
        opened(COLOUR, labels=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "samples is 0: take 1 or more"),
        ({"seed": -1}, "seed is -1: take 0 or more"),
        ({"labels": Y}, "labels were given twice"),
        (
            {"preprocess": Preprocess(), "image_flags": {"mean": 0.5}},
            r"\['mean'\] were given beside a Preprocess, which says it all",
        ),
        (
            {"preprocess": Preprocess(dtype="float16")},
            "preprocess gives float16, but input 'image: .*' takes float32: change its dtype",
        ),
    ],
)
def test_illegal_arguments(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        opened((COLOUR, Y), **options)


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pixels, "_MAX_BYTES", 4 * 90)
    with pytest.raises(DataError, match=r"5 images of 3x5x6 .*--samples 1 or fewer"):
        opened((COLOUR, Y))
    assert len(opened((COLOUR, Y), samples=1).pixels) == 1
