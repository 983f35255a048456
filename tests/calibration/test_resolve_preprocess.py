"""How flags, configs and the model's input resolve to a transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from lipcompile.calibration.resolve_preprocess import resolve
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec
from tests.calibration.configs import CLIP, CONVNEXT, DYNAMIC, TIMM, VIT


BICUBIC = Image.Resampling.BICUBIC
BILINEAR = Image.Resampling.BILINEAR


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def by_hand(
    image: Image.Image,
    resize: tuple[int, int],
    crop: tuple[int, int, int] | None,
    resample: Image.Resampling,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> np.ndarray:
    """In float64; `resize` is (width, height), `crop` is (top, left, side)."""
    x = np.asarray(image.resize(resize, resample)).astype(np.float64)
    if crop:
        top, left, side = crop
        x = x[top : top + side, left : left + side]
    x = (x / 255 - np.array(mean)) / np.array(std)
    return np.moveaxis(x, -1, 0)


# 500x375 (width x height): int(256 * 500 / 375) = 341, int(224 * 500 / 375) = 298,
# floor(224 / 0.95) = 235, int(235 * 500 / 375) = 313.
@pytest.mark.parametrize(
    ("config", "resize", "crop", "resample"),
    [
        pytest.param(VIT, (224, 224), None, BILINEAR, id="hf-vit-exact"),
        pytest.param(CLIP, (298, 224), (0, 37, 224), BICUBIC, id="hf-clip-short-side"),
        pytest.param(
            VIT | {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            (341, 256),
            (16, 58, 224),
            BILINEAR,
            id="hf-resnet-256-224",
        ),
        pytest.param(CONVNEXT, (341, 256), (16, 58, 224), BICUBIC, id="hf-convnext-below-384"),
        pytest.param(
            CONVNEXT | {"size": {"shortest_edge": 384}},
            (384, 384),
            None,
            BICUBIC,
            id="hf-convnext-from-384",
        ),
        pytest.param(TIMM, (313, 235), (5, 44, 224), BICUBIC, id="timm-0.95"),
        pytest.param(
            TIMM["pretrained_cfg"] | {"crop_pct": 0.875, "interpolation": "bilinear"},
            (341, 256),
            (16, 58, 224),
            BILINEAR,
            id="timm-0.875",
        ),
        pytest.param(
            TIMM["pretrained_cfg"] | {"crop_pct": 0.9, "crop_mode": "squash"},
            (248, 248),
            (12, 12, 224),
            BICUBIC,
            id="timm-squash",
        ),
    ],
)
def test_transform_equals_the_calculation_by_hand(config, resize, crop, resample):
    image = photo(500, 375)
    inner = config.get("pretrained_cfg", config)
    mean = inner.get("image_mean") or inner["mean"]
    std = inner.get("image_std") or inner["std"]
    want = by_hand(image, resize, crop, resample, mean, std)
    got = resolve(DYNAMIC, config)(image)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    # Two float32 roundings of values up to 2.7.
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_portrait_image_keeps_its_long_side():
    assert resolve(DYNAMIC, VIT | {"size": {"shortest_edge": 64}})(photo(75, 100)).shape == (
        3,
        85,
        64,
    )


def test_timm_covers_a_box_that_is_not_square():
    got = resolve(DYNAMIC, input_size=(100, 200))
    assert got.cover and got.output_size == (100, 200)
    # 300x150: the smallest cover of 200 wide x 100 high is 200x100; of 300x300 it is 200x200.
    for side, top in ((150, 0), (300, 50)):
        image = photo(300, side)
        small = np.asarray(image.resize((200, 100 + 2 * top), BILINEAR), np.float32) / 255
        want = small[top : top + 100].transpose(2, 0, 1)
        np.testing.assert_allclose(got(image), want, atol=1e-6)
    assert str(got).startswith("resize to cover 100x200 bilinear, centre crop 100x200")
    # The image that already covers the box exactly is not resampled.
    image = photo(200, 100)
    np.testing.assert_array_equal(
        got(image), np.moveaxis(np.asarray(image, np.float32), -1, 0) * np.float32(1 / 255)
    )


@pytest.mark.parametrize(
    ("shape", "layout", "color", "crop"),
    [
        ((1, 3, 32, 48), "NCHW", "RGB", (32, 48)),
        (("n", 28, 28, 1), "NHWC", "L", (28, 28)),
        ((3, 32, 32), "NCHW", "RGB", (32, 32)),
        ((32, 32, 3), "NHWC", "RGB", (32, 32)),
        (("n", "c", "h", "w"), "NCHW", "RGB", None),
        (("n", "", "", 3), "NHWC", "RGB", None),
        ((1, 1, "h", "w"), "NCHW", "L", None),
        ((1, 3, 32, "w"), "NCHW", "RGB", None),
    ],
)
def test_defaults_from_the_model_input(shape, layout, color, crop):
    got = resolve(TensorSpec("x", "float32", shape))
    assert (got.layout, got.color, got.crop) == (layout, color, crop)
    assert (got.interpolation, got.rescale, got.mean, got.std) == (
        "bilinear",
        1 / 255,
        (0.0,),
        (1.0,),
    )


def test_uint8_input_takes_raw_values_by_default():
    got = resolve(TensorSpec("x", "uint8", (1, 224, 224, 3)))
    assert (got.dtype, got.rescale) == ("uint8", 1.0)


@pytest.mark.parametrize(
    ("shape", "dtype", "match"),
    [
        ((1, 3, 32, 3), "float32", "may be NCHW or NHWC.*pass --layout NCHW or --layout NHWC"),
        ((1, 32, 32, 32), "float32", "may be NCHW or NHWC"),
        ((1, 64, 64, "c"), "float32", "may be NCHW or NHWC"),
        ((1, 4, 32, 32), "float32", "has 4 channels in layout NCHW, an image has 1 or 3"),
        ((1, 768), "float32", r"'x: float32 \[1, 768\]' is not an image.*\.npz or \.npy"),
        (None, "float32", "is not an image"),
        ((1, 3, 8, 8), "int64", "dtype 'int64', but images give float32.*npz"),
        ((1, 3, 8, 8), None, "dtype 'None'"),
    ],
)
def test_inputs_that_are_no_images(shape, dtype, match):
    with pytest.raises(DataError, match=match):
        resolve(TensorSpec("x", dtype, shape))


def test_layout_flag_decides_an_ambiguous_input():
    spec = TensorSpec("x", "float32", (1, 3, 32, 3))
    assert resolve(spec, layout="NHWC").crop == (3, 32)
    assert resolve(spec, layout="NCHW").crop == (32, 3)
    with pytest.raises(OptionError, match="layout 'CHW' is not known"):
        resolve(spec, layout="CHW")


def test_flags_win_over_config_over_defaults():
    got = resolve(
        DYNAMIC, CONVNEXT, mean=0.5, std=[1, 2, 3], interpolation="box", rescale=1, color="BGR"
    )
    assert (got.mean, got.std, got.interpolation) == ((0.5,), (1.0, 2.0, 3.0), "box")
    assert (got.rescale, got.color, got.resize) == (1, "BGR", 256)
    wide = resolve(DYNAMIC, CONVNEXT, input_size=288)
    assert (wide.resize, wide.crop) == (math.floor(288 / 0.875), (288, 288))
    assert resolve(DYNAMIC, CONVNEXT, crop_pct=1.0).resize == 224
    assert resolve(DYNAMIC, VIT, input_size=96).resize == (96, 96)
    squash = resolve(DYNAMIC, input_size=224, crop_pct=0.875, crop_mode="squash")
    assert (squash.resize, squash.crop) == ((256, 256), (224, 224))


@pytest.mark.parametrize(
    ("flags", "error", "match"),
    [
        ({"crop_pct": 0.9}, OptionError, "need a size.*pass --input-size too"),
        ({"input_size": 224, "crop_pct": 0}, OptionError, "crop_pct is 0"),
        ({"input_size": 224, "crop_pct": 1.5}, OptionError, "crop_pct is 1.5"),
        ({"input_size": 224, "crop_mode": "border"}, OptionError, "crop mode 'border'"),
        ({"input_size": 0}, OptionError, "input size is 0"),
        (
            {"color": "L"},
            DataError,
            "color 'L' gives 1 channels, but .* takes 3: pass --color RGB",
        ),
    ],
)
def test_flags_that_cannot_be_used(flags, error, match):
    with pytest.raises(error, match=match):
        resolve(DYNAMIC, **flags)


def test_size_that_conflicts_with_the_model_is_an_error():
    spec = TensorSpec("x", "float32", (1, 3, 256, 256))
    with pytest.raises(
        DataError, match=r"gives images of 224x224.*takes 256x256: pass an --inp"
    ):
        resolve(spec, VIT)
    assert resolve(spec, VIT, input_size=256).resize == (256, 256)
