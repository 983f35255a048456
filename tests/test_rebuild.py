"""A hardened model is built again from its original and its own provenance, to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import Selector, model_io
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.errors import ModelError
from lipcompile.forged import FORMS, TARGETS, Smooth, Target
from lipcompile.model_io import LoadedModel
from lipcompile.rebuild import rebuild_forged
from tests.forging import CONV_IN, CONV_OUT, evaluate, image, model, rows

ALL = Selector("all")
forms = pytest.mark.parametrize("form", list(FORMS))
targets = pytest.mark.parametrize("target", TARGETS)

FRONT = "z = Conv(x, E, B) r = Relu(z)"
POOL = "m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r)"
GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "dense": lambda: model("z = Gemm(x, W, B) r = Relu(z) a = MatMul(r, W) y = MatMul(a, W)"),
    "residual": lambda: model("r = Relu(x) a = MatMul(r, W) s = Add(r, a) y = MatMul(s, W)"),
    "hoisted": lambda: model(
        f"{FRONT} y = Conv(r, E) f = Flatten(r) o = Gemm(f, F, B)",
        f"{CONV_OUT}, float[1,4] o",
        CONV_IN,
    ),
    "pooled": lambda: model(
        f"{FRONT} y = Conv(r, E) {POOL} o = Conv(m, E)",
        f"{CONV_OUT}, float[1,4,6,6] o",
        CONV_IN,
    ),
    "clip": lambda: model("z = Gemm(x, W, B) r = Clip(z, ZERO, SIX) y = MatMul(r, W)"),
    "opset 10": lambda: model(
        "z = Conv(x, E) r = Clip<max = 6.0, min = 0.0>(z) y = Conv(r, E)",
        CONV_OUT,
        CONV_IN,
        10,
    ),
    "ir version 3": lambda: model(
        "z = Conv(x, E) r = Relu(z) y = Conv(r, E)", CONV_OUT, CONV_IN, 8, 3
    ),
    "quantised": lambda: model(
        "r = Relu(x) q = QuantizeLinear(r, S, U) d = DequantizeLinear(q, S, U) "
        "a = MatMul(d, W) y = MatMul(a, W)"
    ),
    "float16": lambda: model(
        "w = Cast<to = 10>(W) a = MatMul(x, w) r = Relu(a) y = MatMul(r, w)",
        "float16[N,4] y",
        "float16[N,4] x",
    ),
}
graphs = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def data(proto: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    kind = proto.graph.input[0].type.tensor_type
    x = image() if len(kind.shape.dim) == 4 else rows(8)
    return [{"x": x.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))}]


def harden(source: onnx.ModelProto, form: str, **options: Any) -> onnx.ModelProto:
    given = {"cr": 0.2, "selector": ALL, **options}
    done = lipcompile.harden(source, data(source), form=form, **given)
    assert isinstance(done.model, onnx.ModelProto)
    return done.model


def metadata(proto: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in proto.metadata_props}


def assert_rebuilt(source: onnx.ModelProto, hardened: onnx.ModelProto) -> None:
    again = rebuild_forged(model_io.load(source), metadata(hardened))
    assert serialised(again) == serialised(hardened)


def serialised(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


@forms
@targets
@graphs
def test_small_graphs(graph: Callable[[], onnx.ModelProto], target: Target, form: str) -> None:
    assert_rebuilt(graph(), harden(graph(), form, target=target))


@forms
@targets
def test_demo_model(form: str, target: Target) -> None:
    source = onnx.load(MODEL)
    scan = lipcompile.ScanOptions(samples=8)
    done = lipcompile.harden(source, CALIBRATION, form=form, target=target, scan=scan)
    assert_rebuilt(onnx.load(MODEL), done.model)


def test_parameters_of_the_form() -> None:
    source = GRAPHS["dense"]()
    done = lipcompile.harden(source, data(source), form=Smooth(a=4.0, b=2.0), selector=ALL)
    assert_rebuilt(source, done.model)


@forms
def test_c_r_per_layer(form: str) -> None:
    source = GRAPHS["hoisted"]()
    assert_rebuilt(source, harden(source, form, cr_by_layer={"^o$": 0.3}))


SECOND_RUNS: dict[str, dict[str, Any]] = {
    "the same": {},
    "another threshold": {"cr": 0.1},
    "another target": {"target": "ort-cpu"},
}


@forms
@pytest.mark.parametrize("first", list(FORMS))
@pytest.mark.parametrize("options", SECOND_RUNS.values(), ids=SECOND_RUNS)
def test_file_that_was_hardened_twice(first: str, form: str, options: dict[str, Any]) -> None:
    """Runs stay apart: what the first one left alone, the second one forges by itself."""
    source = GRAPHS["hoisted"]()
    once = harden(source, first, selector=Selector("all", include=("^o$",)))
    twice = harden(once, form, force=True, **options)
    assert len(json.loads(metadata(twice)["lipcompile.sites"])) == 2
    assert_rebuilt(source, twice)


@forms
def test_changed_thresholds_change_what_is_computed_and_the_records(form: str) -> None:
    source = GRAPHS["pooled"]()
    hardened = harden(source, form)
    tiny = rebuild_forged(model_io.load(source), metadata(hardened), lambda c: c * 2**-30)
    for y, expected in zip(evaluate(tiny, image()), evaluate(source, image()), strict=True):
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    before, after = (json.loads(metadata(m)["lipcompile.sites"]) for m in (hardened, tiny))
    ratios = [b["c"] / a["c"] for a, b in zip(before, after, strict=True)]
    assert ratios == pytest.approx([2**-30] * len(ratios))


def test_planted_other_weights_are_seen() -> None:
    source = GRAPHS["dense"]()
    hardened = harden(source, "soft")
    for tensor in source.graph.initializer:
        if tensor.name == "B":
            tensor.raw_data = bytes(16)
    again = rebuild_forged(model_io.load(source), metadata(hardened))
    assert serialised(again) != serialised(hardened)


def damaged(loaded: LoadedModel, change: Callable[[dict[str, Any]], object]) -> None:
    hardened = harden(GRAPHS["dense"](), "soft")
    records = json.loads(metadata(hardened)["lipcompile.sites"])
    change(records[0])
    rebuild_forged(loaded, {**metadata(hardened), "lipcompile.sites": json.dumps(records)})


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("c"),
        lambda record: record.update(c="much"),
        lambda record: record.update(tensor="nowhere"),
        lambda record: record.update(layers=["nobody"]),
        lambda record: record.update(layers=None),
    ],
)
def test_provenance_that_does_not_fit_is_refused(change: Callable[..., object]) -> None:
    with pytest.raises(ModelError, match="does not fit the original .*: name the model that"):
        damaged(model_io.load(GRAPHS["dense"]()), change)


def test_file_on_disk(tmp_path: Path) -> None:
    source = GRAPHS["pooled"]()
    path = tmp_path / "model.onnx"
    path.write_bytes(serialised(source))
    done = lipcompile.harden(path, data(source), form="soft", selector=ALL)
    hardened = model_io.load(done.output)
    again = rebuild_forged(model_io.load(path), hardened.metadata)
    assert serialised(again) == done.output.read_bytes()
