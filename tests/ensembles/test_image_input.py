"""Which input is the image and where its sides are; which inputs are none, and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.ensembles.image_input import ImageInput, find_image_input
from lipcompile.errors import DataError, ModelError
from lipcompile.model_io import LoadedModel


def loaded(inputs: str) -> LoadedModel:
    """A model with these inputs, of which it reads none."""
    return model_io.load(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> net ({inputs}) => (float[1, 2] y) '
            "<float[1, 2] w = {1, 2}> { y = Identity (w) }"
        )
    )


def facts(image: ImageInput) -> tuple[str, tuple[int, int], tuple[int | None, int | None]]:
    return image.layout, image.axes, image.sides


# What is found: the inputs -> layout, axes and sides of "x"
FOUND = {
    "float[n, 3, 8, 8] x": ("NCHW", (2, 3), (8, 8)),
    "float[n, 8, 12, 3] x": ("NHWC", (1, 2), (8, 12)),
    "float[1, 1, 28, 28] x": ("NCHW", (2, 3), (28, 28)),
    "float[n, 28, 28, 1] x": ("NHWC", (1, 2), (28, 28)),
    "float[n, 4, 9, 10] x": ("NCHW", (2, 3), (9, 10)),
    "float[n, 9, 10, 4] x": ("NHWC", (1, 2), (9, 10)),
    "float[n, c, h, w] x": ("NCHW", (2, 3), (None, None)),
    "float[n, 3, h, 8] x": ("NCHW", (2, 3), (None, 8)),
    "float[n, h, 8, 3] x": ("NHWC", (1, 2), (None, 8)),
    "float[n, 3, 32, 8] x": ("NCHW", (2, 3), (32, 8)),
    **{
        f"{dtype}[n, 3, 8, 8] x": ("NCHW", (2, 3), (8, 8))
        for dtype in ("float16", "double", "bfloat16", "uint8")
    },
    "float[n, 5] age, float[n, 3, 8, 8] x": ("NCHW", (2, 3), (8, 8)),
    "float[n, 3, 8, 8] x, int64[n, 3, 8, 8] mask": ("NCHW", (2, 3), (8, 8)),
    "float[n, 3, 8, 8] x, float[n, 3, 4, 4] patch": ("NCHW", (2, 3), (8, 8)),
}


@pytest.mark.parametrize("inputs", FOUND)
def test_image_is_found_by_its_shape(inputs: str) -> None:
    image = find_image_input(loaded(inputs), None, None)
    assert image.spec.name == "x"
    assert facts(image) == FOUND[inputs]
    assert (image.planes, image.shape) == (None, image.spec.shape)


# What is not, and why: the inputs and a layout -> the reason
AXES, SHORT = "has not the four axes of images", "is 7 pixels wide or high, and images have 8"
REFUSED = {
    ("int64[n, 3, 8, 8] x", None): "takes int64, and images are float or uint8",
    ("int8[n, 3, 8, 8] x", None): "takes int8, and images are float or uint8",
    ("string[n, 3, 8, 8] x", None): "takes no tensor, and images are float or uint8",
    ("seq(float[3, 8, 8]) x", None): "takes no tensor, and images are float or uint8",
    ("float[n, 784] x", None): AXES,
    ("float[n, 28, 28] x", None): AXES,
    ("float[n, 3, 8, 8, 8] x", None): AXES,
    ("float[] x", None): AXES,
    ("float[n, 16, 16, 16] x", None): "does not tell which axis holds the channels: pass --l",
    ("float[n, c, 16, 16] x", None): "does not tell which axis holds the channels",
    ("float[n, 16, 16, 16] x", "NCHW"): "has 16 channels, and images have 1, 3 or 4",
    ("float[n, 16, 16, 2] x", "NHWC"): "has 2 channels, and images have 1, 3 or 4",
    ("float[n, 3, 7, 8] x", None): SHORT,
    ("float[n, 3, h, 7] x", None): SHORT,
    ("float[n, 8, 33, 1] x", None): r"is 8 by 33, longer than images are \(a spectrogram",
    ("float[n, 1, 33, 8] x", None): r"is 33 by 8, longer than images are",
}


@pytest.mark.parametrize(("inputs", "layout"), REFUSED)
def test_input_that_is_no_image(inputs: str, layout: str | None) -> None:
    match = rf"'net' has no image input, .*: 'x: .*' {REFUSED[inputs, layout]}"
    with pytest.raises(ModelError, match=rf"{match}.*; if it is one .* with --image-input$"):
        find_image_input(loaded(inputs), None, layout)


def test_every_input_has_its_reason() -> None:
    match = r"'a: int32 \[n\]' takes int32, .*; 'b: float32 \[n, 5\]' has not the four axes"
    with pytest.raises(ModelError, match=match):
        find_image_input(loaded("int32[n] a, float[n, 5] b"), None, None)


def test_model_without_inputs() -> None:
    with pytest.raises(ModelError, match="has no image input, .*: it has no inputs; "):
        find_image_input(loaded(""), None, None)


def test_layout_may_be_given() -> None:
    model = loaded("float[n, c, 16, 16] x")
    assert facts(find_image_input(model, None, "NCHW")) == ("NCHW", (2, 3), (16, 16))
    model = loaded("float[n, 3, 12, 3] x")
    assert facts(find_image_input(model, "x", "NHWC")) == ("NHWC", (1, 2), (3, 12))


def test_several_images_are_told_apart_by_the_user() -> None:
    model = loaded("float[n, 3, 8, 8] a, float[n, 8, 8, 3] b")
    match = (
        r"has 2 inputs that may be the image \('a: float32 \[n, 3, 8, 8\]', 'b: .*'\): name "
        "one with --image-input"
    )
    with pytest.raises(ModelError, match=match):
        find_image_input(model, None, None)
    for name, layout in (("a", "NCHW"), ("b", "NHWC")):
        image = find_image_input(model, name, None)
        assert (image.spec.name, image.layout) == (name, layout)


def test_name_that_no_input_has() -> None:
    match = r"'net' has no input 'z': it takes 'x: float32 \[n, 3, 8, 8\]', 'k: int64 \[n\]'$"
    with pytest.raises(ModelError, match=match):
        find_image_input(loaded("float[n, 3, 8, 8] x, int64[n] k"), "z", None)


def test_initializers_listed_as_inputs_are_none() -> None:
    """As files of IR version 3 list them."""
    given = ", ".join(["1"] * 192)
    model = loaded(f"float[n, 3, 8, 8] x, float[1, 3, 8, 8] template = {{{given}}}")
    assert len(model.proto.graph.input) == 2
    assert find_image_input(model, None, None).spec.name == "x"
    with pytest.raises(ModelError, match=r"no input 'template': it takes 'x: [^']*'$"):
        find_image_input(model, "template", None)


# What the user names: the input and a layout -> layout, axes, sides and planes
NAMED = {
    ("float[n, 28, 30] x", None): ("NCHW", (1, 2), (28, 30), None),
    ("float[n, h, w] x", None): ("NCHW", (1, 2), (None, None), None),
    ("float[n, 784] x", None): ("NCHW", (2, 3), (28, 28), (1, 28, 28)),
    ("uint8[n, 64] x", "NHWC"): ("NHWC", (1, 2), (8, 8), (1, 8, 8)),
    ("float[n, 3072] x", "NCHW"): ("NCHW", (2, 3), (32, 32), (3, 32, 32)),
    ("float[n, 3072] x", "NHWC"): ("NHWC", (1, 2), (32, 32), (3, 32, 32)),
    ("float[n, 16, 9, 3] x", "NCHW"): ("NCHW", (2, 3), (9, 3), None),
    ("float[n, 1, 8, 80] x", None): ("NCHW", (2, 3), (8, 80), None),
}
NAMED_BUT_NONE = {
    ("int64[n, 3, 8, 8] x", None): (ModelError, "takes int64, .*: no view of it can be made"),
    ("seq(float[3, 8, 8]) x", None): (ModelError, "takes no tensor, and images are float32, "),
    ("float[n] x", None): (
        ModelError,
        r"has not the axes of a batch of images: four, three \(grey",
    ),
    ("float[] x", None): (ModelError, "has not the axes of a batch of images"),
    ("float[n, 1, 3, 8, 8] x", None): (ModelError, "has not the axes of a batch of images"),
    ("float[n, 785] x", None): (ModelError, "no square image of 1 or 3 channels has 785 val"),
    ("float[n, 49] x", None): (ModelError, "no square image of 1 or 3 channels has 49 value"),
    ("float[n, 147] x", "NCHW"): (ModelError, "no square image .* has 147 values: export"),
    ("float[n, k] x", None): (ModelError, "no square image of 1 or 3 channels has k values"),
    ("float[n, 3072] x", None): (ModelError, "flat and does not tell .* pass --layout NCHW"),
    ("float[n, 9, 9, 9] x", None): (DataError, "may be NCHW or NHWC: .* pass --layout NCHW"),
}


@pytest.mark.parametrize(("inputs", "layout"), NAMED)
def test_image_is_what_the_user_names(inputs: str, layout: str | None) -> None:
    image = find_image_input(loaded(inputs), "x", layout)
    assert (*facts(image), image.planes) == NAMED[inputs, layout]


@pytest.mark.parametrize(("inputs", "layout"), NAMED_BUT_NONE)
def test_named_input_that_is_no_image(inputs: str, layout: str | None) -> None:
    error, match = NAMED_BUT_NONE[inputs, layout]
    with pytest.raises(error, match=f"^input 'x: .*{match}"):
        find_image_input(loaded(inputs), "x", layout)


def test_flat_images_unfold_plane_by_plane_or_pixel_by_pixel() -> None:
    model = loaded("float[n, 192] x")
    image = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    for layout, axes in (("NCHW", (0, 1, 2, 3)), ("NHWC", (0, 2, 3, 1))):
        found, planes = find_image_input(model, "x", layout), image.transpose(axes)
        assert found.shape == ("n", *planes.shape[1:])
        np.testing.assert_array_equal(found.unfolded(planes.reshape(2, -1)), planes)


def test_images_with_axes_stay_as_they_are() -> None:
    batch = np.zeros((2, 28, 30), np.float32)
    image = find_image_input(loaded("float[n, 28, 30] x"), "x", None)
    assert image.unfolded(batch) is batch
    assert image.shape == ("n", 28, 30)
