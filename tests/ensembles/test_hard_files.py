"""Options that make no sense, files that another tool edited, and forms that jump."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import lipcompile
from lipcompile import ScanOptions, Selector, model_io
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.ensembles.plan import Ensemble, plan_ensembles
from lipcompile.ensembles.reference import Inner, Reference
from lipcompile.ensembles.wrapping import wrap
from lipcompile.errors import ModelError, OptionError
from lipcompile.torchview import torch_view
from tests.ensembles.models import Network, add_initializers, parse
from tests.ensembles.test_composition import write
from tests.ensembles.test_hard_models import FIXED, ONE_THREAD, SIX, hardened, ways

OURS = "lipcompile.ensemble"
FEW = ScanOptions(samples=8)

# Options


@pytest.mark.parametrize("views", [5, ["flip"], True])
def test_views_that_are_no_text(views: Any) -> None:
    name = type(views).__name__
    with pytest.raises(OptionError, match=f"views of an ensemble are a {name}: write a text"):
        EnsembleOptions(views)
    with pytest.raises(OptionError, match=f"views of an ensemble are a {name}: write a text"):
        lipcompile.harden(Network().proto(), ensemble=views)


@pytest.mark.parametrize("said", [{"variant": "none"}, {}], ids=["said", "left out"])
def test_nothing_is_selected_where_no_layer_is_hardened(said: Any) -> None:
    every: dict[str, Any] = {"ensemble": "flip", "runtime": ONE_THREAD, **said}
    with pytest.raises(OptionError, match="hardens no layer, so there is nothing to select"):
        lipcompile.harden(Network().proto(), selector=Selector("all"), **every)
    assert lipcompile.harden(Network().proto(), selector=Selector(), **every).ensemble


# Files that another tool edited

COMMANDS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "inspect": lipcompile.inspect,
    "harden": lambda model: lipcompile.harden(model, ensemble="flip", runtime=ONE_THREAD),
    "forge": lambda model: lipcompile.harden(model, "random:4", runtime=ONE_THREAD),
    "calibrate": lambda model: lipcompile.calibrate(model, "random:4", runtime=ONE_THREAD),
}


@ways
@pytest.mark.parametrize("command", COMMANDS)
def test_an_ensemble_without_its_record_is_no_original(command: str, way: str) -> None:
    """Its copies would be hardened as layers of their own, its views be viewed again."""
    model = hardened(Network().proto(), "flip+shift:1", by=way).model
    COMMANDS["inspect"](model)
    kept = [prop for prop in model.metadata_props if prop.key != OURS]
    assert len(kept) == len(model.metadata_props) - 1 > 0
    for rest in (kept, []):
        plain = copy.deepcopy(model)
        del plain.metadata_props[:]
        plain.metadata_props.extend(rest)
        with pytest.raises(ModelError, match="take the original"):
            COMMANDS[command](plain)


def edited(model: onnx.ModelProto, **changes: str) -> onnx.ModelProto:
    """With another record of its ensemble."""
    result = copy.deepcopy(model)
    (prop,) = (prop for prop in result.metadata_props if prop.key == OURS)
    prop.value = json.dumps(json.loads(prop.value) | changes)
    return result


@ways
def test_a_record_that_names_a_weight_as_the_image(way: str) -> None:
    """In ONNX's first versions weights are inputs as well."""
    original = Network(8).proto()
    assert original.ir_version == 3 and "W" in {value.name for value in original.graph.input}
    model = edited(hardened(original, by=way).model, input="W")
    for command in (*COMMANDS.values(), lipcompile.strip):
        with pytest.raises(ModelError, match=f"metadata '{OURS}' .* does not fit the model"):
            command(model)
    found = lipcompile.verify(original, model, scan=FEW, runtime=ONE_THREAD, pairs=0)
    assert not found.holds
    assert {check.name: check.holds for check in found.checks}["ensemble"] is False


# Forms that jump


def deep() -> onnx.ModelProto:
    """Hundreds of activations near the thresholds of three convolutions."""
    rng = np.random.default_rng(0)
    model = parse(
        "a = Conv<pads = [1, 1, 1, 1]>(x, A) b = Relu(a) "
        "c = Conv<pads = [1, 1, 1, 1]>(b, B) d = Relu(c) "
        "e = Conv<pads = [1, 1, 1, 1]>(d, C) g = Relu(e) f = Flatten(g) y = MatMul(f, W)",
        "float[N,3,16,16] x",
        "float[N,10] y",
    )
    shapes = {"A": (16, 3, 3, 3), "B": (16, 16, 3, 3), "C": (16, 16, 3, 3), "W": (4096, 10)}
    arrays = {k: rng.normal(size=v) / np.sqrt(np.prod(v[1:])) for k, v in shapes.items()}
    add_initializers(model, {k: array.astype(np.float32) for k, array in arrays.items()})
    return model


@ways
def test_steps_at_a_coarse_threshold(way: str, tmp_path: Path) -> None:
    """A last bit moves an activation by a whole step, which is no fault of the ensemble."""
    original = write(deep(), tmp_path)
    around = {"ensemble": EnsembleOptions("flip+shift:1", by=way)}  # type: ignore[arg-type]
    coarse = {"form": "hard", "cr": 0.3, "selector": Selector("all")}

    def made(source: Path, name: str, calib: str | None, **options: Any) -> Path:
        output = tmp_path / f"{name}.onnx"
        lipcompile.harden(source, calib, output=output, runtime=ONE_THREAD, **options)
        return output

    both = made(original, "both", "random:8", **around, **coarse)
    first = made(made(original, "views", None, **around), "forged last", "random:8", **coarse)
    last = made(made(original, "forged", "random:8", **coarse), "views last", None, **around)
    assert both.read_bytes() == first.read_bytes() == last.read_bytes()
    found = lipcompile.verify(original, both, scan=FEW, runtime=ONE_THREAD, pairs=0)
    assert found.holds
    assert {check.name: check.holds for check in found.checks}["ensemble"] is True


def stepping(scale: float) -> onnx.ModelProto:
    """Values of 0.5 vanish at its step, unless the scale is a bit more than 1."""
    step = "i = Mul(x, SCALE) t = ThresholdedRelu<alpha = 0.5>(i)"
    model = parse(f"{step} f = Flatten(t) y = MatMul(f, W)", FIXED, "float[N,5] y")
    weight = np.random.default_rng(0).uniform(0.5, 1, (576, 5)).astype(np.float32)
    add_initializers(model, {"SCALE": np.array(scale, np.float32), "W": weight})
    return model


def inner(proto: onnx.ModelProto, ensemble: Ensemble) -> Inner:
    return Inner.open(model_io.load(proto), proto, ensemble, ONE_THREAD)


@ways
def test_a_last_bit_may_move_scores_as_far_as_optimising_does(way: Any) -> None:
    one, other = stepping(1), stepping(1 + 1e-6)
    source = model_io.load(one)
    (ensemble,) = plan_ensembles(source, EnsembleOptions("flip+shift:1", by=way))
    x = np.random.default_rng(0).uniform(0.6, 1, (2, 3, 12, 16)).astype(np.float32)
    x[..., ::5] = 0.5
    exact, rounded = inner(one, ensemble), inner(other, ensemble)
    for without_optimisation, holds in ((exact, True), (rounded, False)):
        jumping = replace(rounded, without_optimisation=lambda to=without_optimisation: to)
        around = wrap(source, one, ensemble)
        found = Reference.open(source, jumping, around, ONE_THREAD).compare([{"x": x}])
        assert all(apart.holds for apart in found[:-1])
        assert (found[-1].what, found[-1].holds) == ("scores", holds)
        assert 0.01 < found[-1].difference < 0.5


# Surrogate gradients


@pytest.mark.parametrize("form", ["smooth", "soft"])
def test_surrogates_do_not_trust_the_record(form: str) -> None:
    """A file that calls its branches one batch would hide all copies but one."""
    options: dict[str, Any] = {"form": form, "cr": 0.1, "selector": Selector("all")}
    around = EnsembleOptions("flip+shift:1", by="branches")
    model = lipcompile.harden(Network().proto(), "random:4", ensemble=around, **options).model
    x = torch.from_numpy(Network().batch_of(2))
    for index in range(1, len(SIX)):
        name = f"{OURS}/{index}/y"
        for told in (model, edited(model, way="batch")):
            gradients = [gradient_of(told, name, kind, x) for kind in ("exact", "identity")]
            assert not torch.allclose(*gradients)


def gradient_of(model: onnx.ModelProto, output: str, kind: Any, x: torch.Tensor) -> Any:
    leaf = x.clone().requires_grad_()
    view = torch_view(model, gradient=kind, outputs=(output,))
    return torch.autograd.grad(view(leaf)[:, 0].sum(), leaf)[0]
