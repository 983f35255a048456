"""What is averaged and in which ways, for every kind of signature and of ending."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.ensembles.plan import Ensemble, again, ensemble_of, plan_ensembles
from lipcompile.ensembles.wrapping import unwrap, wrap
from lipcompile.errors import ModelError, OptionError
from lipcompile.model_io import LoadedModel

IMAGE, SCORES = "float[n, 3, 8, 8] x", "float[n, 3] y"
POOLED = "p = GlobalAveragePool (x) f = Flatten (p)"
PLAIN = f"{POOLED} y = Neg (f)"


def loaded(
    body: str = PLAIN,
    inputs: str = IMAGE,
    outputs: str = SCORES,
    known: str = "",
    opset: int = 17,
    symbol: str = "",
) -> LoadedModel:
    """A model; `known` is what it says of tensors inside, `symbol` their first length."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> net ({inputs}) => ({outputs}) '
        f"<{known}> {{ {body} }}"
    )
    for info in proto.graph.value_info if symbol else ():
        info.type.tensor_type.shape.dim[0].dim_param = symbol
    return model_io.load(proto)


def planned(model: LoadedModel, views: str = "flip", **options: Any) -> tuple[Ensemble, ...]:
    return plan_ensembles(model, EnsembleOptions(views, **options))


def ways(model: LoadedModel, **options: Any) -> list[str]:
    return [ensemble.way for ensemble in planned(model, **options)]


# Ways

FIXED = {"inputs": "float[2, 3, 8, 8] x", "outputs": "float[2, 3] y"}
ONE_BATCH: dict[str, dict[str, Any]] = {
    "dynamic batch": {},
    "dynamic batch, said of a tensor inside": {"known": "float[n, 3] f"},
    "fixed batch": FIXED,
    "multiples of another symbol": {"known": "float[n, 3] f", "symbol": "2*m"},
}
# What the message says -> the signature
BRANCHES: dict[str, dict[str, Any]] = {
    "takes batches of exactly 2 and says so": {**FIXED, "known": "float[2, 3] f"},
    "takes 2 inputs": {"inputs": f"{IMAGE}, float[n, 5] age"},
    "gives 2 outputs": {"outputs": f"{SCORES}, float[n, 3] f"},
    "speaks of multiples of its batch 'n'": {"known": "float[n, 3] f", "symbol": "2*n"},
}


@pytest.mark.parametrize("case", ONE_BATCH)
def test_one_batch_comes_first(case: str) -> None:
    model = loaded(**ONE_BATCH[case])
    assert ways(model) == ["batch", "branches"]
    assert ways(model, by="batch") == ["batch"]
    assert ways(model, by="branches") == ["branches"]


@pytest.mark.parametrize("obstacle", BRANCHES)
def test_signature_that_needs_branches(obstacle: str) -> None:
    model = loaded(**BRANCHES[obstacle])
    assert ways(model, scores="y") == ways(model, scores="y", by="branches") == ["branches"]
    match = f"^'net' {obstacle}.*, so its batch cannot hold .* leave --ensemble-by batch out"
    with pytest.raises(ModelError, match=match):
        planned(model, scores="y", by="batch")


# What the mean is taken of: ending and mean -> `at`, `ends_in` and `takes_logarithm`
PASSED = "s = Softmax (f) y = Identity (s)"
CAST = "h = Cast <to = 10> (f) s = Softmax (h) y = Cast <to = 1> (s)"
OUTPUT, LOGARITHM = ("y", None, False), ("y", None, True)
MEANS = {
    ("y = Neg (f)", "scores"): OUTPUT,
    ("y = Neg (f)", "logits"): OUTPUT,
    ("y = Neg (f)", "probabilities"): LOGARITHM,
    ("y = Sigmoid (f)", "logits"): OUTPUT,
    ("y = Softmax (f)", "scores"): OUTPUT,
    ("y = Softmax (f)", "logits"): ("f", "Softmax", False),
    ("y = Softmax (f)", "probabilities"): OUTPUT,
    ("y = LogSoftmax (f)", "scores"): OUTPUT,
    ("y = LogSoftmax (f)", "logits"): ("f", "LogSoftmax", False),
    ("y = LogSoftmax (f)", "probabilities"): LOGARITHM,
    (PASSED, "scores"): OUTPUT,
    (PASSED, "logits"): ("f", "Softmax", False),
    (PASSED, "probabilities"): OUTPUT,
    (CAST, "scores"): OUTPUT,
    (CAST, "probabilities"): OUTPUT,
}


@pytest.mark.parametrize(("ending", "mean"), MEANS)
def test_tensor_that_is_averaged(ending: str, mean: str) -> None:
    for ensemble in planned(loaded(f"{POOLED} {ending}"), mean=mean):
        facts = (ensemble.at, ensemble.ends_in, ensemble.takes_logarithm)
        assert facts == MEANS[ending, mean]
        assert (ensemble.mean, ensemble.scores.name) == (mean, "y")


def test_logits_have_their_own_type_where_the_model_says_it() -> None:
    for ensemble in planned(
        loaded(f"{POOLED} {CAST}", known="float16[n, 3] h"), mean="logits"
    ):
        assert (ensemble.at, ensemble.dtype) == ("h", "float16")
    with pytest.raises(ModelError, match="casts its probabilities .*--ensemble-mean scores"):
        planned(loaded(f"{POOLED} {CAST}"), mean="logits")


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("float", np.float32)])
def test_least_probability_is_the_least_normal_number(name: str, dtype: type) -> None:
    """A runtime may flush a smaller one to 0, which has no logarithm."""
    ensemble, _ = planned(loaded(inputs=f"{name}[n, 3, 8, 8] x", outputs=f"{name}[n, 3] y"))
    assert ensemble.least_probability == np.finfo(dtype).tiny


# Views that a model does not allow
OLD = "has a dynamic width, which needs opset 10 to mirror, got 9: convert the model"
WHOLE = "takes whole numbers, which a scale does not give: use flip and shift"
DYNAMIC = "has a dynamic size, and a scale is built for one size: fix it when exporting"
NOT_ALLOWED = {
    ("float[n, 3, 8, w] x", 9, "flip"): OLD,
    ("float[n, h, w, 3] x", 9, "shift:1*flip"): OLD,
    ("uint8[n, 3, 8, 8] x", 17, "flip+scale:0.8"): WHOLE,
    ("float[n, 3, h, 8] x", 17, "scale:0.8"): DYNAMIC,
    ("float[n, 3, 9, 8] x", 17, "flip+shift:8"): "a shift by 8 does not fit .* 8 pixels wide",
    ("float[n, 3, 8, w] x", 17, "shift:8"): "a shift by 8 does not fit .* 8 pixels high",
    ("float[n, 3, 8, 8] x", 17, "flip+scale:0.9"): "by no more than half a pixel",
}
ALLOWED = [
    ("float[n, 3, 8, w] x", 10, "flip"),
    ("float[n, 3, h, 8] x", 9, "flip"),
    ("float[n, 3, 8, w] x", 9, "shift:7"),
    ("uint8[n, 3, 8, 8] x", 17, "flip*shift:7"),
    ("float[n, 3, h, w] x", 17, "flip+shift:99"),
    ("float[n, 3, 8, 8] x", 9, "flip*scale:0.8"),
]


@pytest.mark.parametrize(("inputs", "opset", "views"), NOT_ALLOWED)
def test_view_that_the_model_does_not_allow(inputs: str, opset: int, views: str) -> None:
    with pytest.raises(OptionError, match=NOT_ALLOWED[inputs, opset, views]):
        planned(loaded(inputs=inputs, opset=opset), views)


@pytest.mark.parametrize(("inputs", "opset", "views"), ALLOWED)
def test_view_that_the_model_allows(inputs: str, opset: int, views: str) -> None:
    assert len(planned(loaded(inputs=inputs, opset=opset), views)) == 2


RECORDED = {
    "found": (IMAGE, "flip+shift:1", {}),
    "channels last": ("float[n, 8, 9, 3] x", "scale:0.8", {"mean": "probabilities"}),
    "layout given": ("float[n, c, 9, 9] x", "flip", {"layout": "NCHW"}),
    "logits": (IMAGE, "flip*shift:2", {"mean": "logits"}),
    "flat": ("float[n, 192] x", "flip", {"image_input": "x", "layout": "NHWC"}),
    "no channels": ("float[n, 8, 8] x", "shift", {"image_input": "x", "scores": "y"}),
    "one of two": (f"{IMAGE}, float[n, 1, 8, 8] z", " FLIP + shift", {"image_input": "x"}),
}


@pytest.mark.parametrize("case", RECORDED)
def test_record_gives_the_ensemble_again(case: str) -> None:
    inputs, views, options = RECORDED[case]
    model = loaded(f"{POOLED} y = Softmax (f)", inputs)
    for ensemble in planned(model, views, **options):
        assert ensemble_of(model, json.loads(json.dumps(ensemble.to_json()))) == ensemble


def test_record_that_does_not_fit() -> None:
    model = loaded()
    record = planned(model)[0].to_json()
    with pytest.raises(KeyError, match="way"):
        ensemble_of(model, {key: record[key] for key in record if key != "way"})
    for change in ({"mean": "mode"}, {"views": "rotate"}, {"layout": "CHW"}, {"way": "loop"}):
        with pytest.raises(OptionError, match="|".join(map(str, change.values()))):
            ensemble_of(model, record | change)
    for change, match in (
        ({"input": "z"}, "no input 'z'"),
        ({"scores": "z"}, "no output 'z'"),
    ):
        with pytest.raises(ModelError, match=match):
            ensemble_of(model, record | change)


@pytest.mark.parametrize("by", ["batch", "branches"])
def test_ensemble_that_lost_its_record_gets_no_other(by: str) -> None:
    model = loaded()
    wrapped = wrap(model, model.proto, *planned(model, by=by))
    del wrapped.metadata_props[:]
    with pytest.raises(
        ModelError, match="'net' has a tensor 'lipcompile.ensemble/.*: take the original"
    ):
        unwrap(model_io.load(wrapped))


def test_ensemble_tells_what_it_is() -> None:
    batch, branches = planned(loaded(), " Flip+SHIFT:2", mean="logits")
    assert str(batch) == "mean of logits over 6 views (flip+shift:2), one run over all of them"
    assert str(branches).endswith("(flip+shift:2), 6 runs that share the weights")


UNKNOWN = {
    ("turn", "scores", None, None): "^ensemble 'turn' has a part 'turn'",
    ("flip", "mode", None, None): "^mean 'mode' of .*: use scores, logits, probabilities$",
    ("flip", "scores", "loop", None): "^way 'loop' of an .* unknown: use batch, branches$",
    ("flip", "scores", None, "CHW"): "^layout 'CHW' of an .* unknown: use NCHW, NHWC$",
}


@pytest.mark.parametrize(("views", "mean", "by", "layout"), UNKNOWN)
def test_options_that_are_unknown(views: str, mean: Any, by: Any, layout: str | None) -> None:
    with pytest.raises(OptionError, match=UNKNOWN[views, mean, by, layout]):
        EnsembleOptions(views, mean, by, layout=layout)


def test_what_is_tried_again_around_a_hardened_model() -> None:
    """The way that it had, and branches: as where both are done at once."""
    batch, branches = planned(loaded())
    assert again(batch) == (batch, branches)
    assert again(branches) == (branches,)
