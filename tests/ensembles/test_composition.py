"""An ensemble is the outermost layer: every order gives the same bytes, and a way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import lipcompile
from lipcompile import HardenResult, Selector, model_io
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import ModelError, OptionError
from tests.ensembles.models import Network

# Half of the columns go at such a rate, and what only they read after them.
WEIGHT: dict[str, Any] = {"variant": "weight", "zero_rate": 0.5, "cr": 0.2}
VARIANTS: dict[str, dict[str, Any]] = {
    "smooth": {"form": "smooth"},
    "hard": {"form": "hard", "target": "ort-cpu"},
    "soft": {"form": "soft"},
    "weight": WEIGHT,
    "compact": WEIGHT | {"compact": True},
}
FORGED = ["smooth", "hard", "soft"]
ENSEMBLES = {
    "batch": EnsembleOptions("flip+shift:1", by="batch"),
    "branches": EnsembleOptions("flip+shift:1", by="branches"),
    "batch of logits": EnsembleOptions("flip", "logits", "batch"),
    "branches of logarithms": EnsembleOptions("flip*scale:0.9", "probabilities", "branches"),
}
variants = pytest.mark.parametrize("variant", VARIANTS)
forged = pytest.mark.parametrize("variant", FORGED)
ensembles = pytest.mark.parametrize("ensemble", ENSEMBLES)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write(Network(ending="LogSoftmax").proto(), tmp_path)


def write(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def harden(path: Path, variant: str, name: str, **more: Any) -> HardenResult:
    """Every layer, visibly, to a file of that name."""
    options = {"cr": 0.1, "selector": Selector("all"), **VARIANTS[variant], **more}
    return lipcompile.harden(path, "random:4", output=path.with_name(name), **options)


def wrap(path: Path, ensemble: str, name: str) -> Path:
    output = path.with_name(name)
    lipcompile.harden(path, ensemble=ENSEMBLES[ensemble], output=output)
    return output


def in_every_order(path: Path, variant: str, ensemble: str) -> list[bytes]:
    harden(path, variant, "hardened.onnx")
    wrap(path.with_name("hardened.onnx"), ensemble, "hardened, wrapped.onnx")
    harden(wrap(path, ensemble, "wrapped.onnx"), variant, "wrapped, hardened.onnx")
    harden(path, variant, "both.onnx", ensemble=ENSEMBLES[ensemble])
    names = ("hardened, wrapped.onnx", "wrapped, hardened.onnx", "both.onnx")
    return [path.with_name(name).read_bytes() for name in names]


# Orders


@ensembles
@variants
def test_every_order_gives_the_same_bytes(variant: str, ensemble: str, original: Path) -> None:
    first, second, both = in_every_order(original, variant, ensemble)
    assert first == second == both
    for part in ("hardened.onnx", "wrapped.onnx"):
        assert original.with_name(part).read_bytes() != both


@variants
def test_what_is_said_of_tensors_inside_comes_along(variant: str, tmp_path: Path) -> None:
    proto = onnx.shape_inference.infer_shapes(Network().proto())
    first, second, both = in_every_order(write(proto, tmp_path), variant, "batch")
    assert first == second == both
    told = onnx.load_from_string(both).graph.value_info
    assert told
    dims = {info.type.tensor_type.shape.dim[0].dim_param for info in told}
    assert dims == {"6*N"}


def test_compaction_does_remove_channels(original: Path) -> None:
    """Else the tests of it show nothing."""
    result = harden(original, "compact", "compacted.onnx", ensemble="flip")
    assert result.compaction is not None and result.compaction.dropped
    assert "dropped 2 dead channels" in str(result)


def test_layers_can_be_forged_one_after_the_other(original: Path) -> None:
    one, other = Selector("all", include=("^b$",)), Selector("all", include=("^z$",))
    harden(original, "soft", "one.onnx", selector=one)
    inside = harden(original.with_name("one.onnx"), "hard", "in.onnx", selector=other, force=1)
    harden(original, "soft", "around.onnx", selector=one, ensemble=ENSEMBLES["branches"])
    outside = original.with_name("around.onnx")
    with pytest.raises(ModelError, match="is hardened already: harden the original, or pass"):
        harden(outside, "hard", "again.onnx", selector=other)
    again = harden(outside, "hard", "again.onnx", selector=other, force=True)
    assert inside.output is not None and again.output is not None
    wrapped = wrap(inside.output, "branches", "in, wrapped.onnx")
    assert wrapped.read_bytes() == again.output.read_bytes()


@ensembles
def test_an_ensemble_of_an_ensemble_is_refused(ensemble: str, original: Path) -> None:
    wrapped = wrap(original, ensemble, "wrapped.onnx")
    with pytest.raises(ModelError, match=r"has an ensemble already \(mean of .* views would"):
        wrap(wrapped, ensemble, "twice.onnx")
    with pytest.raises(ModelError, match="has an ensemble already"):
        harden(wrapped, "smooth", "twice.onnx", ensemble="flip")
    assert not original.with_name("twice.onnx").exists()


# Which variant is meant


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({}, "none"),
        ({"calib": "random:4"}, "none"),
        ({"calib": "random:4", "cr": 0.1}, "forged"),
        ({"calib": "random:4", "cr_by_layer": {"z": 0.2}}, "forged"),
        ({"calib": "random:4", "form": "soft"}, "forged"),
        ({"calib": "random:4", "target": "ort-cpu"}, "forged"),
        ({"calib": "random:4", "target": "portable"}, "forged"),
        ({"calib": "random:4", "variant": "forged"}, "forged"),
        ({"calib": "random:4", "variant": "none"}, "none"),
    ],
    ids=str,
)
def test_the_variant_that_is_meant(options: dict[str, Any], variant: str) -> None:
    chosen = Selector("all") if variant == "forged" else None
    result = lipcompile.harden(Network().proto(), ensemble="flip", selector=chosen, **options)
    assert result.request.variant == result.to_json()["variant"] == variant
    metadata = model_io.load(result.model).metadata
    assert ("lipcompile.sites" in metadata) == (variant == "forged")
    assert (result.table is None) == (variant == "none")
    record = json.loads(metadata["lipcompile.ensemble"])
    assert record == result.to_json()["ensemble"]
    assert (record["views"], record["at"]) == ("flip", "y")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "none"}, "variant none hardens nothing: add --ensemble"),
        ({"ensemble": "flip", "variant": "none", "cr": 0.1}, "no layer, so it has no cr: "),
        ({"ensemble": "flip", "variant": "none", "form": "soft"}, "so it has no form: "),
        ({"ensemble": "flip", "variant": "none", "compact": True}, "so it has no compact"),
        ({"ensemble": "flip", "zero_rate": 0.5}, "--zero-rate needs zeroed columns"),
        ({"ensemble": "flip", "table": "t.json"}, "has no table: leave --table out"),
        ({"ensemble": "flip", "cr": 0.1}, "hardening needs activations"),
        ({"ensemble": "flap"}, "has a part 'flap'"),
    ],
    ids=str,
)
def test_requests_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        lipcompile.harden(Network().proto(), **options)
