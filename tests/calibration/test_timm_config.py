"""What a timm config means, and which ones are refused."""

from __future__ import annotations

import pytest

from lipcompile.calibration.resolve_preprocess import resolve
from lipcompile.errors import DataError
from tests.calibration.configs import DYNAMIC, IMAGENET_MEAN, IMAGENET_STD, TIMM


def test_timm_defaults_fill_what_the_config_leaves_out():
    got = resolve(DYNAMIC, {"pretrained_cfg": {"input_size": [3, 224, 224]}})
    assert (got.resize, got.crop, got.interpolation) == (256, (224, 224), "bicubic")
    assert (got.mean, got.std) == (IMAGENET_MEAN, IMAGENET_STD)


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
