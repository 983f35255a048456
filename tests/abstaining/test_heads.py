"""A head certifies exactly what its definition says, and what it certifies nothing breaks."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.abstaining.head import Head, round_up
from lipcompile.abstaining.options import AbstainOptions
from lipcompile.abstaining.reference import certified, check_abstention, compare
from lipcompile.abstaining.wrapping import put_on, take_off
from lipcompile.errors import CheckFailed, ModelError, OptionError
from tests.abstaining.heads import (
    CLASSES,
    QUIET,
    by_definition,
    images,
    linear,
    pixels,
    run,
    with_head,
)

OPSETS = [7, 9, 10, 11, 13, 17, 18, 21]
kinds = pytest.mark.parametrize("kind", ["logit", "bool"])


def exact_slopes(proto: onnx.ModelProto) -> np.ndarray:
    """Of z_i - z_j for a linear model: the norm of a difference of columns."""
    weight = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    return np.linalg.norm(weight[:, :, None] - weight[:, None, :], axis=0)


def flags_of(model: Any, x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bool":
        return run(model, x, "certified")[0]
    return run(model, x, "y")[0].argmax(axis=1) != CLASSES


@kinds
@pytest.mark.parametrize("top", [1, 2, 4])
@pytest.mark.parametrize("opset", OPSETS)
def test_certified_are_the_rows_of_the_definition(opset: int, top: int, kind: str) -> None:
    proto = linear(opset)
    x = images(200)
    (scores,) = run(proto, x, "y")
    for eps in (0.01, 0.1, 0.4):
        model, _ = with_head(proto, eps=eps, kind=kind, top=top)
        wanted = by_definition(scores, exact_slopes(proto), eps, top)
        np.testing.assert_array_equal(flags_of(model, x, kind), wanted)
        if (eps, top) == (0.1, 1):
            assert 0.1 < wanted.mean() < 0.9


@kinds
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_doubles(opset: int, kind: str) -> None:
    proto = linear(opset, "float64")
    x = images(100, "float64")
    (scores,) = run(proto, x, "y")
    model, _ = with_head(proto, eps=0.1, kind=kind)
    wanted = by_definition(scores, exact_slopes(proto), 0.1)
    np.testing.assert_array_equal(flags_of(model, x, kind), wanted)


@kinds
@pytest.mark.parametrize("batch", ["N", "1"])
def test_any_batch(batch: str, kind: str) -> None:
    model, _ = with_head(linear(batch=batch), eps=0.1, kind=kind)
    for count in (1, 3, 8) if batch == "N" else (1,):
        answers = run(model, images(count), *(o.name for o in model.graph.output))
        shapes = [list(answer.shape) for answer in answers]
        assert shapes == ([[count, 6]] if kind == "logit" else [[count, 5], [count]])
        declared = [d.dim_value or d.dim_param for d in output_dims(model)[-1]]
        assert declared == ([int(batch) if batch != "N" else "N", 6][: len(shapes[-1])])


def output_dims(model: Any) -> list[Any]:
    return [output.type.tensor_type.shape.dim for output in model.graph.output]


def test_the_head_is_tight_on_a_linear_model() -> None:
    """Closer than eps nothing changes; and a little beyond the bound something does."""
    proto = linear()
    slopes = exact_slopes(proto)
    weight = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    eps = 0.1
    model, _ = with_head(proto, eps=eps, kind="bool")
    x = images(300).astype(np.float64)
    scores, flags = run(model, x.astype(np.float32), "y", "certified")
    answer, changed = scores.argmax(axis=1), np.zeros(300, bool)
    reach = np.where(flags, 1, 1 + 1e-4)[:, None] * eps
    for j in range(CLASSES):
        direction = (weight[:, [j]] - weight[:, answer]).T
        length = np.where(answer == j, 1.0, slopes[answer, j])[:, None]
        moved = x.reshape(300, -1) + direction / length * reach
        (after,) = run(model, moved.astype(np.float32).reshape(x.shape), "y")
        changed |= after.argmax(axis=1) != answer
    np.testing.assert_array_equal(changed, ~flags)
    assert 20 < changed.sum() < 280


@kinds
def test_ties_are_not_certified(kind: str) -> None:
    """With eps so small that nothing but a tie is left: two classes with equal scores."""
    proto = linear()
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[:, 3] = weight[:, 1]
    bias = numpy_helper.to_array(proto.graph.initializer[1]).copy()
    bias[[1, 3]] = bias.max() + 9
    for tensor, array in zip(proto.graph.initializer, (weight, bias), strict=True):
        tensor.raw_data = array.tobytes()
    model, _ = with_head(proto, eps=1e-30, kind=kind)
    assert not flags_of(model, images(50), kind).any()
    top_two, _ = with_head(proto, eps=1e-30, kind=kind, top=2)
    assert flags_of(top_two, images(50), kind).all()


def test_a_tie_with_bot_loses_whichever_way_an_argmax_breaks_it() -> None:
    """Scores that lie exactly eps * L apart: bot would equal the best of them."""
    proto = linear()
    weight, bias = np.zeros((25, CLASSES), np.float32), np.zeros(CLASSES, np.float32)
    weight[0, 0], bias[:] = 1.0, [0.25, 0.0, -1, -1, -1]
    for tensor, array in zip(proto.graph.initializer, (weight, bias), strict=True):
        tensor.raw_data = array.tobytes()
    x = np.zeros((3, 1, 5, 5), np.float32)
    x[:, 0, 0, 0] = [0.0, 2.0**-24, 0.5]
    model, plan = with_head(proto, eps=0.2, kind="logit")
    reach = float(plan.reach[0, 1])
    bias[0] = reach  # z_0 = z_1 + reach for the first image
    proto.graph.initializer[1].raw_data = bias.tobytes()
    model = put_on(model_io.load(proto), proto, plan)
    (scores,) = run(model, x, "y")
    assert scores[0, CLASSES] > scores[0, 0] == np.float32(reach)
    backwards = CLASSES - scores[:, ::-1].argmax(axis=1)
    np.testing.assert_array_equal(backwards, scores.argmax(axis=1))
    np.testing.assert_array_equal(scores.argmax(axis=1) == CLASSES, [True, False, False])


def test_scores_that_are_no_numbers_are_not_certified() -> None:
    model, _ = with_head(linear(), eps=1e-6, kind="bool")
    x = images(4)
    x[1, 0, 2, 2], x[2, 0, 0, 0] = np.nan, np.inf
    (flags,) = run(model, x, "certified")
    assert flags[[0, 3]].all()
    assert not flags[[1, 2]].any()


def test_a_softmax_leaves_bool_to_the_logits() -> None:
    plain, soft = linear(), linear(ending="Softmax")
    x = images(100)
    flags = [
        run(with_head(p, eps=0.1, kind="bool")[0], x, "certified")[0] for p in (plain, soft)
    ]
    np.testing.assert_array_equal(*flags)
    (scores,) = run(with_head(soft, eps=0.1, kind="bool")[0], x, "y")
    np.testing.assert_array_equal(scores, run(soft, x, "y")[0])


# Rounding


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_are_rounded_up_and_no_further_than_they_must(dtype: str) -> None:
    rng = np.random.default_rng(0)
    slopes = np.exp(rng.normal(size=(200, 200)) * 8)
    for eps in (0.1, 1 / 3, 36 / 255):
        found = round_up(eps, slopes, dtype).astype(np.longdouble)
        exact = np.longdouble(eps) * slopes.astype(np.longdouble)
        assert (found >= exact).all()
        assert (found <= exact * (1 + 2.0**-18)).all()
    assert (round_up(1e-30, np.zeros((2, 2)), dtype) > 0).all()


def test_rounded_sums_never_certify_what_is_not() -> None:
    """z_y > round(z_j + r) implies z_y > z_j + r, in all of 10^5 near-ties."""
    rng = np.random.default_rng(0)
    other = rng.normal(size=100_000).astype(np.float32)
    reach = np.abs(rng.normal(size=100_000)).astype(np.float32)
    best = np.nextafter(
        other + reach, rng.choice([-np.inf, np.inf], 100_000), dtype=np.float32
    )
    best = np.where(rng.random(100_000) < 0.3, other + reach, best)
    flagged = best > other + reach
    exactly = best.astype(np.longdouble) > other.astype(np.longdouble) + reach
    assert not (flagged & ~exactly).any()
    assert 0.2 < flagged.mean() < 0.8


# The signature, and taking it off


@kinds
@pytest.mark.parametrize("classes", ["5", "C"])
def test_taken_off_it_is_the_original(classes: str, kind: str) -> None:
    proto = linear(classes=classes)
    proto.graph.value_info.append(proto.graph.output[0])
    model, plan = with_head(proto, eps=0.1, kind=kind, top=2)
    onnx.checker.check_model(model, full_check=True)
    assert list(model.graph.input) == list(proto.graph.input)
    inner, head = take_off(model_io.load(model))
    assert head == plan.head
    dropped = dict.fromkeys(inner.metadata)
    assert model_io.render(inner.proto, inner.graph_ir, dropped) == proto
    again = put_on(model_io.load(proto), proto, plan)
    assert again.SerializeToString() == model.SerializeToString()


def test_the_record_can_be_read_again() -> None:
    _, plan = with_head(linear(), eps=1 / 3, kind="bool")
    assert Head.from_json(plan.head.to_json()) == plan.head
    assert "output 'certified' says which answers are certified" in str(plan.head)
    assert "class 5 of 'y' means not certified" in str(with_head(linear(), eps=1)[1].head)


def test_a_name_that_is_taken_gets_a_number() -> None:
    proto = linear()
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "certified"
    model, plan = with_head(proto, eps=0.1, kind="bool")
    assert plan.head.output == model.graph.output[1].name == "certified_2"


def test_other_readers_of_the_scores_keep_reading_the_classes() -> None:
    proto = linear()
    proto.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["l"], axis=1, keepdims=0))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("l", 7, ["N"]))
    model, _ = with_head(proto, eps=9.0, kind="logit")
    x = images(20)
    wide, labels = run(model, x, "y", "l")
    assert (wide.argmax(axis=1) == CLASSES).all()
    np.testing.assert_array_equal(labels, run(proto, x, "l")[0])


def test_a_head_without_its_record_is_refused() -> None:
    model, _ = with_head(linear(), eps=0.1)
    del model.metadata_props[:]
    with pytest.raises(
        ModelError, match=r"has a tensor 'lipcompile.abstain/.* of an abstain he"
    ):
        take_off(model_io.load(model))


def test_a_record_without_its_head_is_refused() -> None:
    model, _ = with_head(linear(), eps=0.1)
    bare = linear()
    bare.metadata_props.extend(model.metadata_props)
    with pytest.raises(ModelError, match="the abstain head cannot be taken off"):
        take_off(model_io.load(bare))


@pytest.mark.parametrize("record", ["[]", "{}", '{"as": "logit", "eps": 1}', "nonsense"])
def test_a_damaged_record_is_refused(record: str) -> None:
    model, _ = with_head(linear(), eps=0.1)
    for prop in model.metadata_props:
        if prop.key == "lipcompile.abstain":
            prop.value = record
    with pytest.raises(ModelError, match="metadata 'lipcompile.abstain'"):
        take_off(model_io.load(model))


# What is planted


@pytest.mark.parametrize("planted", ["smaller reach", "another class", "scores moved"])
@kinds
def test_a_head_that_does_something_else_is_caught(kind: str, planted: str) -> None:
    proto = linear()
    source = model_io.load(proto)
    model, plan = with_head(proto, eps=0.1, kind=kind)
    feeds = [{"x": images(200)}]
    assert compare(source, proto, model, plan, feeds, QUIET).holds
    if planted == "smaller reach":
        tensor = next(
            node.attribute[0].t
            for node in model.graph.node
            if node.op_type == "Constant" and len(node.attribute[0].t.dims) == 2
        )
        tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(0.9)).tobytes()
    elif planted == "another class":
        node = next(node for node in model.graph.node if node.op_type == "ArgMax")
        node.op_type = "ArgMin"
    else:
        bias = model.graph.initializer[1]
        bias.raw_data = (numpy_helper.to_array(bias) + np.float32(0.5)).tobytes()
    with pytest.raises(CheckFailed, match="does not do what its definition says"):
        check_abstention(source, proto, model, plan, feeds, QUIET)


def test_definition_in_numpy_is_that_in_words() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 6)).astype(np.float32)
    slopes = np.abs(rng.normal(size=(6, 6)))
    slopes = slopes + slopes.T
    reach = round_up(0.2, slopes, "float32")
    np.fill_diagonal(reach, np.finfo(np.float32).min)
    for top in (1, 2, 3):
        flags = certified(logits, reach, top)
        np.testing.assert_array_equal(flags, by_definition(logits, slopes, 0.2, top))


# Refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eps": 0.0}, r"--abstain 0 is out of range"),
        ({"eps": math.nan}, r"--abstain nan is out of range"),
        ({"eps": 1.0, "kind": "text"}, "--abstain-as 'text' is unknown: use logit or bool"),
        ({"eps": 1.0, "top": 0}, "--abstain-top 0 is out of range"),
    ],
)
def test_options_that_are_illegal(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        AbstainOptions(**options)


def test_radius_as_people_write_it() -> None:
    assert AbstainOptions.of("36/255").eps == 36 / 255
    with pytest.raises(OptionError, match="--abstain 'far' is no number"):
        AbstainOptions.of("far")


def test_every_class_among_the_top_is_no_statement() -> None:
    with pytest.raises(OptionError, match="--abstain-top 5 of 5 classes holds for any answer"):
        with_head(linear(), eps=0.1, top=5)


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax"])
def test_a_logit_behind_a_softmax_is_refused(ending: str) -> None:
    with pytest.raises(
        ModelError, match=rf"ends in a {ending}, which rounds: .* --abstain-as b"
    ):
        with_head(linear(ending=ending), eps=0.1)


def test_scores_that_are_no_row_are_refused() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,4,4] x) => (float[N,1,1,1] y) '
        "{ y = GlobalAveragePool(x) }"
    )
    with pytest.raises(ModelError, match="is not one row of scores per image"):
        with_head(proto, eps=0.1)


def test_bounds_that_float32_does_not_hold_are_refused() -> None:
    with pytest.raises(ModelError, match="no answer can be certified"):
        with_head(linear(scale=1e30), eps=1e20)


def test_pixels_of_the_head_are_kept() -> None:
    _, plan = with_head(linear(), eps=0.1)
    assert plan.head.pixels == pixels()
    assert plan.head.to_json()["dims"] == [1, 5, 5]


@pytest.mark.parametrize(
    "fields",
    [
        {"dims": [1, 0, 5]},
        {"dims": [1, 10**6, 10**6]},
        {"dims": [1, 5]},
        {"normalisation": {"std": [0.0]}},
        {"normalisation": {"scale": math.inf}},
        {"normalisation": {"layout": "HWC"}},
        {"normalisation": {"colour": 1}},
        {"classes": 10**30},
        {"scores": "nothing"},
        {"length": -(10**30)},
        {"eps": "x"},
    ],
)
def test_a_hostile_record_is_refused(fields: dict[str, Any]) -> None:
    model, plan = with_head(linear(), eps=0.1)
    for prop in model.metadata_props:
        if prop.key == "lipcompile.abstain":
            prop.value = json.dumps(plan.head.to_json() | fields)
    if fields == {"classes": 10**30}:  # of no use for taking it off
        assert take_off(model_io.load(model))[1] is not None
        return
    with pytest.raises(ModelError, match=r"does not fit the model|cannot be taken off"):
        take_off(model_io.load(model))
