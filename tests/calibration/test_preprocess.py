"""The transform against hand calculations, and how flags, configs and inputs resolve to it."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lipcompile.calibration.preprocess import Preprocess, resolve
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DYNAMIC = TensorSpec("x", "float32", ("n", 3, "h", "w"))
BICUBIC = Image.Resampling.BICUBIC
BILINEAR = Image.Resampling.BILINEAR

VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CLIP = {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "do_resize": True,
    "size": 224,
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
CONVNEXT = {
    "image_processor_type": "ConvNextImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "do_normalize": True,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
}
TIMM = {
    "architecture": "resnet50",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
    },
}


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


@pytest.mark.parametrize(
    ("config", "resize", "crop"),
    [
        (VIT | {"size": 224}, (224, 224), None),
        (CLIP | {"feature_extractor_type": None}, 224, (224, 224)),
        ({**CONVNEXT, "crop_pct": None}, 256, (224, 224)),
        (
            CONVNEXT
            | {"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9}
            | {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            248,
            (224, 224),
        ),
        (
            CLIP | {"image_processor_type": "LevitImageProcessor"},
            256,
            (224, 224),
        ),
        (VIT | {"do_resize": False}, None, None),
        (VIT | {"size": [200, 300]}, (200, 300), None),
    ],
    ids=[
        "vit-int",
        "untyped-crop",
        "convnext-default-pct",
        "poolformer",
        "levit",
        "off",
        "pair",
    ],
)
def test_hugging_face_geometry(config, resize, crop):
    got = resolve(DYNAMIC, config)
    assert (got.resize, got.crop) == (resize, crop)


def test_hugging_face_normalisation_rules():
    flipped = resolve(DYNAMIC, VIT | {"do_flip_channel_order": True, "image_mean": [1, 2, 3]})
    assert (flipped.color, flipped.mean) == ("BGR", (3.0, 2.0, 1.0))
    plain = resolve(DYNAMIC, VIT | {"do_normalize": False, "do_rescale": False})
    assert (plain.rescale, plain.mean, plain.std) == (1.0, (0.0,), (1.0,))
    efficient = VIT | {"image_processor_type": "EfficientNetImageProcessor"}
    assert resolve(DYNAMIC, efficient).std == (0.25, 0.25, 0.25)
    assert resolve(DYNAMIC, efficient | {"include_top": False}).std == (0.5, 0.5, 0.5)


def test_timm_defaults_fill_what_the_config_leaves_out():
    got = resolve(DYNAMIC, {"pretrained_cfg": {"input_size": [3, 224, 224]}})
    assert (got.resize, got.crop, got.interpolation) == (256, (224, 224), "bicubic")
    assert (got.mean, got.std) == (IMAGENET_MEAN, IMAGENET_STD)


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


def test_resize_that_would_exhaust_memory_is_refused():
    with pytest.raises(DataError, match=r"above Pillow.s limit of .* pixels"):
        Preprocess(resize=224)(Image.new("L", (20_000, 1)))


def test_printed_form():
    assert str(resolve(DYNAMIC, CONVNEXT)) == (
        "resize short side 256 bicubic, centre crop 224x224, RGB, x * 1/255,"
        " (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], NCHW float32"
    )
    assert str(Preprocess(rescale=1.0, dtype="uint8")) == "RGB, NCHW uint8"


sides = st.integers(1, 65_536)
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


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"do_pad": True}, "asks for 'do_pad': True, which LipCompile does not do"),
        ({"do_thumbnail": True}, "'do_thumbnail'"),
        ({"do_align_long_axis": True}, "'do_align_long_axis'"),
        ({"rescale_offset": True}, "'rescale_offset'"),
        ({"keep_aspect_ratio": True}, "'keep_aspect_ratio'"),
        ({"image_processor_type": "PerceiverImageProcessor"}, "crops before it resizes"),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "'size': .*expected an int"),
        ({"size": "224"}, "'size': '224', expected"),
        ({"size": None, "do_resize": True}, "'size': None"),
        ({"resample": 9}, "'resample': 9, expected Pillow's number"),
        ({"resample": True}, "'resample': True"),
        ({"do_resize": "yes"}, "'do_resize': 'yes', expected true or false"),
        ({"image_mean": None}, "'image_mean': None, expected a number"),
        ({"image_std": [0.5, "x", 1]}, "'image_std'"),
        ({"rescale_factor": "1/255"}, "'rescale_factor': '1/255', expected a number"),
        ({"crop_pct": 0}, "'crop_pct': 0, expected a number above 0"),
        ({"image_mean": [float("nan")] * 3}, "'image_mean'"),
        ({"image_mean": [10**400] * 3}, "'image_mean'"),
    ],
)
def test_hugging_face_configs_that_cannot_be_used(change, match):
    with pytest.raises(DataError, match=match):
        resolve(DYNAMIC, VIT | change)


def test_steps_that_are_false_are_accepted():
    off = dict.fromkeys(
        ["do_pad", "do_thumbnail", "do_align_long_axis", "rescale_offset"], False
    )
    assert resolve(DYNAMIC, VIT | off | {"do_convert_rgb": True}) == resolve(DYNAMIC, VIT)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"crop_mode": "border"},
            "asks for 'crop_mode': 'border', expected 'center' or 'squash'",
        ),
        ({"interpolation": "random"}, "'interpolation': 'random', expected one of nearest"),
        ({"input_size": [224, 224]}, r"'input_size': \[224, 224\], expected \[channels"),
        ({"mean": "imagenet"}, "'mean': 'imagenet'"),
        ({"crop_pct": 2}, "'crop_pct': 2"),
    ],
)
def test_timm_configs_that_cannot_be_used(change, match):
    with pytest.raises(DataError, match=match):
        resolve(DYNAMIC, {"default_cfg": TIMM["pretrained_cfg"] | change})


def test_config_files_and_folders(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TIMM))
    want = resolve(DYNAMIC, TIMM)
    assert resolve(DYNAMIC, str(file)) == resolve(DYNAMIC, file) == want
    assert resolve(DYNAMIC, tmp_path) == want
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT))
    assert resolve(DYNAMIC, tmp_path) == resolve(DYNAMIC, VIT)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b" " * 1_000_001, "above 1 MB"),
        (b'{"hidden_size": 768}', r"neither a Hugging Face .* keys \['hidden_size'\]"),
    ],
)
def test_config_files_that_cannot_be_used(tmp_path: Path, content, match):
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=match):
        resolve(DYNAMIC, file)


def test_missing_config_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nope\.json' cannot be read \(No such file"):
        resolve(DYNAMIC, tmp_path / "nope.json")
    with pytest.raises(DataError, match=r"preprocessor_config\.json' cannot be read"):
        resolve(DYNAMIC, tmp_path)
