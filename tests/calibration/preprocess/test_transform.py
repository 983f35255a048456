"""The transform against hand calculations, its printed and its stored form."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import DataError, OptionError
from tests.calibration.preprocess.configs import CONVNEXT, DYNAMIC


@pytest.mark.parametrize("size", [(5, 7), (6, 6), (9, 4), (4, 9)])
def test_small_images_are_padded_with_zeros_as_hugging_face_does(size):
    height, width = size
    crop = Preprocess(crop=(8, 7), rescale=1.0, mean=(10.0,), color="L")
    image = Image.fromarray(np.full(size, 110, np.uint8))
    # transformers.image_transforms.center_crop: pad by ceil, crop from the centre.
    big = np.zeros((max(8, height), max(7, width)), np.float32)
    top, left = math.ceil((big.shape[0] - height) / 2), math.ceil((big.shape[1] - width) / 2)
    big[top : top + height, left : left + width] = 110
    top, left = (height - 8) // 2 + top, (width - 7) // 2 + left
    want = big[top : top + 8, left : left + 7] - 10
    np.testing.assert_array_equal(crop(image)[0], want)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "LAB"],
)
@pytest.mark.parametrize(("color", "channels"), [("RGB", 3), ("BGR", 3), ("L", 1)])
def test_every_8_bit_mode_converts_without_a_warning(mode, color, channels):
    image = Image.new(mode, (6, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Preprocess(color=color)(image).shape == (channels, 4, 6)


def test_palette_with_transparency_gives_its_colours_without_a_warning():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.info["transparency"] = b"\x00\xff"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = Preprocess(rescale=1.0, layout="NHWC")(image)
    assert got.tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B"])
def test_modes_above_8_bits_are_refused(mode):
    with pytest.raises(DataError, match=rf"mode '{mode}' holds more than 8 bits.*as \.npy"):
        Preprocess()(Image.new(mode, (4, 4)))


def test_color_layout_and_dtype():
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    got = Preprocess(color="BGR", layout="NHWC", rescale=1.0, dtype="uint8")(image)
    assert (
        got.dtype == np.uint8 and got.shape == (2, 3, 3) and got[0, 0].tolist() == [30, 20, 10]
    )
    assert got.flags.c_contiguous
    half = Preprocess(color="RGB", rescale=1.0, std=(1e-4,), dtype="float16")(image)
    assert half.dtype == np.float16 and np.isinf(half).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
def test_arithmetic_is_that_of_the_docstring_to_the_bit(color, layout, dtype):
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    count = 1 if color == "L" else 3
    transform = Preprocess(
        color=color, layout=layout, dtype=dtype, mean=mean[:count], std=std[:count]
    )
    image = Image.fromarray(values).convert("L") if color == "L" else Image.fromarray(values)
    pixels = transform.pixels(image)[:, :, :: -1 if color == "BGR" else 1]
    want = (
        pixels.astype(np.float32) * np.float32(1 / 255) - np.array(transform.mean, np.float32)
    ) / np.array(transform.std, np.float32)
    want = want.transpose(2, 0, 1) if layout == "NCHW" else want
    got = transform(image)
    assert got.dtype == dtype and got.flags.c_contiguous and got.flags.writeable
    assert got.tobytes() == np.ascontiguousarray(want, dtype=dtype).tobytes()


def test_resize_that_would_exhaust_memory_is_refused():
    with pytest.raises(DataError, match=r"above Pillow.s limit of .* pixels"):
        Preprocess(resize=224)(Image.new("L", (20_000, 1)))


def test_printed_form():
    assert str(resolve(DYNAMIC, CONVNEXT)) == (
        "resize short side 256 bicubic, centre crop 224x224, RGB, x * 1/255,"
        " (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], NCHW float32"
    )
    assert str(Preprocess(rescale=1.0, dtype="uint8")) == "RGB, NCHW uint8"


sides = st.integers(1, 9_000)  # 9,000 x 9,000 is within Pillow's limit
pairs = st.tuples(sides, sides)
three = st.tuples(*[st.floats(1e-3, 1e3)] * 3)


@given(
    resize=st.none() | sides | pairs,
    crop=st.none() | pairs,
    mean=three,
    std=three,
    layout=st.sampled_from(["NCHW", "NHWC"]),
)
def test_json_round_trip(resize, crop, mean, std, layout):
    value = Preprocess(resize=resize, crop=crop, mean=mean, std=std, layout=layout)
    assert Preprocess.from_json(json.loads(json.dumps(value.to_json()))) == value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"colour": 1}, "has keys .*expected .*calibrate again"),
        ({"mean": None}, "wrong type"),
        ({"mean": ["a"]}, "wrong type"),
    ],
)
def test_damaged_json_is_a_data_error(change, match):
    with pytest.raises(DataError, match=match):
        Preprocess.from_json(Preprocess().to_json() | change)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"interpolation": "cubic"},
            "interpolation 'cubic' is not known: take one of nearest",
        ),
        ({"color": "rgb"}, "color 'rgb' is not known"),
        ({"layout": "CHW"}, "layout 'CHW' is not known"),
        ({"dtype": "int8"}, "dtype 'int8' is not known"),
        ({"resize": 0}, "resize is 0: take whole pixels from 1"),
        ({"resize": True}, "resize is True"),
        ({"crop": (224,)}, r"crop is \(224,\): take \(height, width\)"),
        ({"resize": 1_000_000}, "resize is 1000000"),
        ({"resize": 224, "cover": True}, r"cover needs resize as \(height, width\), got 224"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values, but color 'RGB' has 3 channels"),
        ({"std": (1, 1, 1), "color": "L"}, "std has 3 values, but color 'L' has 1"),
        ({"std": (0.0,)}, "must be above 0"),
        ({"rescale": -1.0}, "rescale is -1.0"),
        ({"mean": (math.nan,)}, "NaN or Inf"),
        (
            {"dtype": "uint8"},
            "a uint8 input takes raw values, got rescale 0.0039.*--rescale 1",
        ),
    ],
)
def test_illegal_options(options, match):
    with pytest.raises(OptionError, match=match):
        Preprocess(**options)
