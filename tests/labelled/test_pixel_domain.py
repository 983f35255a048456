"""Which pixels a bound is about: from the input's shape, flags and configs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from lipcompile import model_io
from lipcompile.calibration.options import ScanOptions
from lipcompile.errors import DataError, OptionError
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.labelled.pixel_domain import PixelDomain, find_pixel_domain


def model(kind: str) -> model_io.LoadedModel:
    """A model that takes and gives `kind`, such as "float[N,3,8,8]"."""
    return model_io.load(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g ({kind} x) => ({kind} y) '
            "{ y = Identity(x) }"
        )
    )


def found(kind: str, **options: Any) -> PixelDomain:
    return find_pixel_domain(model(kind), ScanOptions(**options), "--abstain")


def test_the_shape_tells() -> None:
    assert found("float[N,3,8,9]") == PixelDomain(Normalisation(), (3, 8, 9))
    assert found("float[N,8,9,1]").normalisation.layout == "NHWC"
    assert found("float[N,8,9,1]").dims == (1, 8, 9)
    flat = found("float[1,64]")
    assert (flat.dims, flat.normalisation.shape) == ((1, 8, 8), (64,))


def test_flags_and_configs_tell_how_pixels_become_inputs() -> None:
    flags = {"mean": (0.1, 0.2, 0.3), "std": (0.5,), "color": "BGR", "input_size": 16}
    rule = found("float[N,3,H,W]", image_flags=flags)
    assert rule.dims == (3, 16, 16)
    assert rule.normalisation == Normalisation(
        1.0, (0.1, 0.2, 0.3), (0.5,), "NCHW", "float32", True
    )
    assert str(rule) == "3x16x16 pixels in [0, 1], mean 0.1,0.2,0.3, std 0.5"
    config = {"mean": [0.5], "std": [0.25], "input_size": [1, 20, 20]}
    assert found("float[N,1,H,W]", preprocess=config).dims == (1, 20, 20)
    assert "* 255" in str(found("float[N,3,8,8]", image_flags={"rescale": 1.0}))


def test_random_pixels_are_what_the_model_takes() -> None:
    domain = found("float[4,8,8,3]", image_flags={"std": (0.5,)})
    (feed,) = domain.random_feeds(model("float[4,8,8,3]")).values()
    assert feed.shape == (4, 8, 8, 3)
    assert feed.dtype == np.float32
    assert (feed.min(), feed.max()) == (pytest.approx(0, abs=0.1), pytest.approx(2, abs=0.1))


def test_a_size_that_is_open_is_asked_for() -> None:
    with pytest.raises(OptionError, match=r"--abstain needs the size .* leaves it open"):
        found("float[N,3,H,W]")


@pytest.mark.parametrize(
    "kind", ["int64[N,3,8,8]", "float[N]", "float[N,5,8,8]", "float[N,7]"]
)
def test_what_is_no_image_is_refused(kind: str) -> None:
    with pytest.raises(DataError, match="--abstain is a bound per pixel of an image: "):
        found(kind)


def test_it_can_be_read_again() -> None:
    domain = found("float[N,3,8,9]", image_flags={"mean": (0.1, 0.2, 1 / 3), "std": (0.7,)})
    assert PixelDomain.from_json(domain.to_json()) == domain
    for broken in ({"dims": [3, 8]}, {"dims": [3, 8, -9]}, {"normalisation": {"std": [0]}}):
        with pytest.raises((TypeError, ValueError)):
            PixelDomain.from_json(domain.to_json() | broken)
