"""Pixels become the same input as in calibration: to the bit where float32 allows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.labelled.normalisation import Normalisation, pixel_levels
from tests.labelled.samples import levels

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
EXACT = [
    {},
    IMAGENET,
    {"rescale": 1.0},
    {"rescale": 1.0, "mean": (103.9, 116.8, 123.7), "color": "BGR", "layout": "NHWC"},
    {"rescale": 2 / 255, "mean": (1.0,)},
    {"rescale": 1 / 127.5, "mean": (1.0,), "layout": "NHWC"},
    {"rescale": 1 / 256, "color": "L"},
    {**IMAGENET, "dtype": "float16"},
    {**IMAGENET, "dtype": "float64", "color": "BGR"},
    {**IMAGENET, "resize": 9, "crop": (8, 8), "interpolation": "bicubic"},
]


def from_image(transform: Preprocess, image: Image.Image) -> np.ndarray:
    """float32 [1, C, H, W] in [0, 1]."""
    return pixel_levels(transform)[transform.pixels(image)].transpose(2, 0, 1)[None]


def all_levels() -> Image.Image:
    """Every level in every channel, and in other combinations."""
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return Image.fromarray(np.stack([plane, plane[::-1], plane.T], axis=2))


@pytest.mark.parametrize("options", EXACT, ids=str)
def test_same_bits_as_the_transform(options: dict[str, object]) -> None:
    transform = Preprocess(**options)  # type: ignore[arg-type]
    pixels = from_image(transform, all_levels())
    got = Normalisation.of(transform)(pixels)
    want = transform(all_levels())[None]
    assert got.dtype == want.dtype
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("rescale", [0.017, 1 / 127, 0.3, 1 / (255 * 0.229)])
def test_any_other_rescale_is_one_ulp_away_at_most(rescale: float) -> None:
    # No float32 pixel need exist whose product with `scale` is level * rescale: the products
    # of neighbouring floats may step over it.
    transform = Preprocess(rescale=rescale)
    got = Normalisation.of(transform)(from_image(transform, all_levels()))
    want = transform(all_levels())[None]
    np.testing.assert_array_max_ulp(got, want, maxulp=1)


def test_planted_pixels_by_plain_division_are_caught() -> None:
    transform = Preprocess()
    plain = np.asarray(all_levels(), np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    assert (Normalisation.of(transform)(plain) != transform(all_levels())[None]).any()


@pytest.mark.parametrize("rescale", [1 / 255, 1.0, 1 / 256, 0.017, 3.0])
def test_pixel_levels_are_those_of_255_steps(rescale: float) -> None:
    got = pixel_levels(Preprocess(rescale=rescale))
    want = np.arange(256, dtype=np.float32) / np.float32(255)
    assert got.dtype == np.float32
    np.testing.assert_array_max_ulp(got, want, maxulp=1)
    assert got[0] == 0.0 and got[255] <= 1.0
    assert (np.diff(got) > 0).all()


@pytest.mark.parametrize("options", EXACT, ids=str)
def test_torch_gives_the_same_from_the_fields(options: dict[str, object]) -> None:
    transform = Preprocess(**options)  # type: ignore[arg-type]
    rule = Normalisation.of(transform)
    pixels = from_image(transform, all_levels())
    values = torch.from_numpy(pixels) * rule.scale
    values = values.flip(1) if rule.swaps_channels else values
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (rule.mean, rule.std))
    values = (values - mean) / std
    values = values.permute(0, 2, 3, 1) if rule.layout == "NHWC" else values
    np.testing.assert_array_equal(values.to(getattr(torch, rule.dtype)).numpy(), rule(pixels))


def test_shape_and_channel_order() -> None:
    pixels = levels(2, 3, 4, 5).astype(np.float32) / 255
    flat = Normalisation(layout="NHWC", shape=(60,), swaps_channels=True)(pixels)
    np.testing.assert_array_equal(flat, pixels[:, ::-1].transpose(0, 2, 3, 1).reshape(2, 60))


def test_limits_and_json() -> None:
    rule = Normalisation(255.0, (10.0, 20.0, 30.0), (5.0,), "NHWC", shape=(12,))
    assert rule.limits == (-6.0, 49.0)
    assert json.loads(json.dumps(rule.to_json())) == {
        "scale": 255.0,
        "mean": [10.0, 20.0, 30.0],
        "std": [5.0],
        "layout": "NHWC",
        "dtype": "float32",
        "swaps_channels": False,
        "shape": [12],
    }
    assert Normalisation.of(Preprocess()).scale == 1.0
