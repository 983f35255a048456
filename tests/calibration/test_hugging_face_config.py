"""What a Hugging Face config means, and which ones are refused."""

from __future__ import annotations

import pytest

from lipcompile.calibration.resolve_preprocess import resolve
from lipcompile.errors import DataError
from tests.calibration.configs import CLIP, CONVNEXT, DYNAMIC, VIT


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
