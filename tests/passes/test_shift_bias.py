"""A soft threshold in a bias: which take it, what that computes, and how it is undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.passes.shift_bias import find_shift, undo
from lipcompile.sites import Selector
from tests.forging import (
    CONV_IN,
    CONV_OUT,
    Outcome,
    assert_computes_the_reference,
    evaluate,
    forge,
    image,
    model,
    rows,
)

RNG = np.random.default_rng(2)
ROW = RNG.normal(size=4).astype(np.float32)
ARRAYS = {
    "H": ROW.astype(np.float16),
    "FINE": ROW.astype(np.float64),
    "PER_CHANNEL": ROW.reshape(4, 1, 1),
    "BATCH": RNG.normal(size=(4, 4)).astype(np.float32),
    "P": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "TURNED": RNG.normal(size=(1, 4)).astype(np.float32).T,
    "CAP": np.array([2.0], np.float32),
    "LOW": np.array(0.25, np.float32),
    "QB": np.array([3, -2, 1, 5], np.int32),
    "QZ": np.array(0, np.int32),
}
TAIL = "y = Conv(r, E)"
DENSE_TAIL = "y = MatMul(r, W)"
# Everything in front of the last layer, the layers of which are left out.
LAST = Selector("all", include=("^y$",))

# What takes the threshold: the graph in front of the last layer, and its opset.
IMAGES: dict[str, tuple[str, int]] = {
    "Conv with a bias": ("z = Conv(x, E, B) r = Relu(z)", 17),
    "Conv without a bias": ("z = Conv(x, E) r = Relu(z)", 17),
    "Conv with an empty bias": ('z = Conv(x, E, "") r = Relu(z)', 17),
    "grouped Conv without a bias": (
        "z = Conv<group = 2, pads = [1, 1, 1, 1]>(x, P) r = Relu(z)",
        17,
    ),
    "ConvTranspose": ("z = ConvTranspose(x, E, B) r = Relu(z)", 17),
    "ConvTranspose without a bias": ("z = ConvTranspose(x, E) r = Relu(z)", 17),
    "BatchNormalization": (
        "a = Conv(x, E, B) z = BatchNormalization(a, ONES, D, B, ONES) r = Relu(z)",
        17,
    ),
    "BatchNormalization whose B is its mean": (
        "z = BatchNormalization(x, ONES, D, D, ONES) r = Relu(z)",
        17,
    ),
    "BatchNormalization of opset 8": (
        "z = BatchNormalization(x, ONES, D, B, ONES) r = Relu(z)",
        8,
    ),
    "Conv whose bias is a Constant": (
        "b = Constant<value = float[4] {1, -1, 0.5, 2}>() z = Conv(x, E, b) r = Relu(z)",
        17,
    ),
    "Conv whose bias is shared with a layer": (
        "z = Conv(x, E, B) r = Relu(z) w = Conv(x, E, B) z2 = Identity(w)",
        17,
    ),
    "Conv whose bias went through an Identity": (
        "b = Identity(B) z = Conv(x, E, b) r = Relu(z)",
        17,
    ),
    "an Add per channel": ("a = Conv(x, E) z = Add(a, PER_CHANNEL) r = Relu(z)", 17),
    "the end of a residual block": ("a = Conv(x, E, B) z = Add(x, a) r = Relu(z)", 17),
    "the end, its operands exchanged": ("a = Conv(x, E, B) z = Add(a, x) r = Relu(z)", 17),
    "sums of sums": (
        "a = Conv(x, E) b = Conv(x, E, B) s = Add(a, b) z = Add(x, s) r = Relu(z)",
        17,
    ),
    "Clip with inputs": ("z = Conv(x, E, B) r = Clip(z, ZERO, SIX)", 17),
    "Clip with a bound of one element": ("z = Conv(x, E, B) r = Clip(z, ZERO, CAP)", 17),
    "Clip with attributes": (
        "z = Conv(x, E, B) r = Clip<max = 2.0, min = 0.0>(z)",
        10,
    ),
    "Clip of opset 7": ("z = Conv(x, E, B) r = Clip<max = 2.0, min = 0.0>(z)", 7),
    "Clip that c exceeds": ("z = Conv(x, E, B) r = Clip<max = 0.25, min = 0.0>(z)", 10),
    "Clip with an input that c exceeds": ("z = Conv(x, E, B) r = Clip(z, ZERO, LOW)", 17),
}
DENSE: dict[str, tuple[str, int]] = {
    "Gemm with C": ("z = Gemm(x, W, B) r = Relu(z)", 17),
    "Gemm without C": ("z = Gemm(x, W) r = Relu(z)", 17),
    "Gemm with beta": ("z = Gemm<beta = 2.5>(x, W, B) r = Relu(z)", 17),
    "Gemm with negative beta": ("z = Gemm<beta = -0.5>(x, W, B) r = Relu(z)", 17),
    "Gemm with beta and without C": ("z = Gemm<beta = 2.5>(x, W) r = Relu(z)", 17),
    "Gemm with alpha": ("z = Gemm<alpha = 0.5>(x, W, B) r = Relu(z)", 17),
    "Gemm with a matrix": ("z = Gemm(x, W, BATCH) r = Relu(z)", 17),
    "MatMul and Add": ("a = MatMul(x, W) z = Add(a, B) r = Relu(z)", 17),
    "MatMul and Add, the constant first": ("a = MatMul(x, W) z = Add(B, a) r = Relu(z)", 17),
    "Add of a scalar": ("a = MatMul(x, W) z = Add(a, S) r = Relu(z)", 17),
    "Add of a transposed constant": (
        "t = Transpose(TURNED) a = MatMul(x, W) z = Add(a, t) r = Relu(z)",
        17,
    ),
    "bias behind a Cast": ("b = Cast<to = 1>(H) z = Gemm(x, W, b) r = Relu(z)", 17),
    "bias behind two Casts": (
        "h = Cast<to = 10>(FINE) b = Cast<to = 1>(h) z = Gemm(x, W, b) r = Relu(z)",
        17,
    ),
}
CASES = {
    **{name: (f"{body} {TAIL}", CONV_OUT, CONV_IN, o) for name, (body, o) in IMAGES.items()},
    **{
        name: (f"{body} {DENSE_TAIL}", "float[N,4] y", "float[N,4] x", o)
        for name, (body, o) in DENSE.items()
    },
}
cases = pytest.mark.parametrize("case", CASES)


def build(case: str, **options: Any) -> onnx.ModelProto:
    body, outputs, inputs, opset = CASES[case]
    if "z2" in body:
        outputs += ", float[1,4,6,6] z2"
    return model(body, outputs, inputs, opset, **ARRAYS, **options)


def data(case: str) -> np.ndarray:
    return image() if case in IMAGES else rows()


def shifted(proto: onnx.ModelProto, c: float = 0.5) -> Outcome:
    outcome = forge(proto, "soft", LAST, c=c)
    (forged,) = outcome.forged.values()
    assert forged.plan.encoding.way == "bias", forged.plan.encoding.label
    assert forged.tensor == forged.plan.anchor.name == "r"
    return outcome


def serialised(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


def biases_of(outcome: Outcome) -> list[dict[str, Any]]:
    (forged,) = outcome.forged.values()
    return [change for change in forged.changes if "max" not in change]


# What takes it


@cases
def test_outputs_are_those_of_the_definition_and_no_operator_is_added(case: str) -> None:
    outcome = shifted(build(case))
    assert outcome.added == []
    assert_computes_the_reference(outcome, data(case), exact=False, tolerance=1e-6)


@cases
def test_nothing_but_the_bias_the_bound_and_a_mark_changes(case: str) -> None:
    outcome = shifted(build(case))
    (forged,) = outcome.forged.values()
    edited = {change["node"] for change in forged.changes}
    own = {node.output[0]: node for node in outcome.before.graph.node}
    for node in outcome.after.graph.node:
        if node.output[0] not in own or node == own[node.output[0]]:
            continue
        assert node.output[0] in edited | {"r"}
        assert node.op_type == own[node.output[0]].op_type
    (activation,) = [n for n in outcome.after.graph.node if n.output[0] == "r"]
    marks = {prop.key: prop.value for prop in activation.metadata_props}
    assert marks == {"lipcompile.form": "soft", "lipcompile.was": activation.op_type}
    assert list(outcome.after.graph.input) == list(outcome.before.graph.input)


@cases
def test_undo_restores_the_very_same_bytes(case: str) -> None:
    proto = build(case)
    outcome = shifted(proto)
    assert serialised(outcome.after) != serialised(proto)
    taken_back(outcome)
    assert serialised(model_io.render(proto, outcome.loaded.graph_ir)) == serialised(proto)


def taken_back(outcome: Outcome) -> None:
    """Edits the graph back in place."""
    (forged,) = outcome.forged.values()
    for change in reversed(forged.changes):
        undo(outcome.loaded.graph_ir.graph, change)
    activation = forged.plan.anchor.producer()
    assert activation is not None
    activation.metadata_props.clear()


@cases
def test_undo_works_on_the_written_file(case: str) -> None:
    """As of someone who has the hardened file alone: constants count, not their order."""
    outcome = shifted(build(case))
    (forged,) = outcome.forged.values()
    again = model_io.load(onnx.ModelProto.FromString(serialised(outcome.after)))
    for change in reversed(forged.changes):
        undo(again.graph_ir.graph, change)
    back = model_io.render(again.proto, again.graph_ir)
    for node in back.graph.node:
        del node.metadata_props[:]
    assert {t.name: serialised(t) for t in back.graph.initializer} == {
        t.name: serialised(t) for t in outcome.before.graph.initializer
    }
    assert list(back.graph.node) == list(outcome.before.graph.node)
    x = data(case)
    for y, expected in zip(evaluate(back, x), evaluate(outcome.before, x), strict=True):
        np.testing.assert_array_equal(y, expected)


def test_a_threshold_beyond_the_bound_of_a_clip_leaves_zeros() -> None:
    """clip(z - c, 0, m - c) with m - c < 0 would be m - c, whatever z is."""
    for case in ("Clip that c exceeds", "Clip with an input that c exceeds"):
        outcome = shifted(build(case))
        exposed = onnx.ModelProto()
        exposed.CopyFrom(outcome.after)
        exposed.graph.output.append(onnx.ValueInfoProto(name="r"))
        assert not evaluate(exposed, data(case))[1].any()


def test_planted_shift_of_the_wrong_size_is_caught() -> None:
    proto = build("Conv with a bias")
    outcome = shifted(proto)
    for tensor in outcome.after.graph.initializer:
        if tensor.name == "B":
            wrong = numpy_helper.to_array(tensor) + np.float32(1e-4)
            tensor.CopyFrom(numpy_helper.from_array(wrong, "B"))
    with pytest.raises(AssertionError, match="tolerance"):
        assert_computes_the_reference(outcome, image(), exact=False, tolerance=1e-6)


def test_bias_of_its_own_is_edited_in_place() -> None:
    outcome = shifted(build("Conv with a bias"))
    (change,) = biases_of(outcome)
    assert (change["node"], change["input"], change["was"]) == ("z", 2, "B")
    assert "stored" in change
    names = [tensor.name for tensor in outcome.after.graph.initializer]
    assert names == [tensor.name for tensor in outcome.before.graph.initializer]


def test_shared_bias_stays_for_its_other_reader() -> None:
    outcome = shifted(build("Conv whose bias is shared with a layer"))
    x = image()
    np.testing.assert_array_equal(
        evaluate(outcome.after, x)[1], evaluate(outcome.before, x)[1]
    )
    (change,) = biases_of(outcome)
    assert "stored" not in change


def test_two_layers_with_one_bias_are_shifted_by_their_own_thresholds() -> None:
    proto = model(
        "z = Conv(x, E, B) r = Relu(z) a = Conv(r, E, B) s = Relu(a) y = Conv(s, E, B)",
        CONV_OUT,
        CONV_IN,
    )
    selector = Selector("all", exclude=("^z$",))
    outcome = forge(proto, "soft", selector, c={"a": 0.25, "y": 0.75})
    assert [plan.encoding.way for plan in outcome.plans.values()] == ["bias", "bias"]
    assert_computes_the_reference(outcome, image(), exact=False, tolerance=1e-6)


def test_numbers_that_are_stored_as_float_data_are_again_when_undone() -> None:
    proto = build("Conv with a bias")
    for tensor in proto.graph.initializer:
        if tensor.name == "B":
            array = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(array)
            tensor.doc_string = "of the first layer"
    outcome = shifted(proto)
    (after,) = [t for t in outcome.after.graph.initializer if t.name == "B"]
    assert len(after.float_data) == 4
    assert not after.raw_data
    assert after.doc_string == "of the first layer"
    taken_back(outcome)
    assert serialised(model_io.render(proto, outcome.loaded.graph_ir)) == serialised(proto)


# Types, versions, files


def half(body: str, **arrays: np.ndarray) -> onnx.ModelProto:
    halved = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in {"W": np.eye(4, dtype=np.float32), **arrays}.items()
    }
    return model(f"{body} y = MatMul(r, W)", "float16[N,4] y", "float16[N,4] x", **halved)


@pytest.mark.parametrize("kind", ["raw_data", "int32_data"])
def test_float16_bias(kind: str) -> None:
    proto = half("z = Gemm(x, W, H) r = Relu(z)", H=ROW)
    (bias,) = [t for t in proto.graph.initializer if t.name == "H"]
    if kind == "int32_data":
        words = np.frombuffer(bias.raw_data, np.uint16).tolist()
        bias.ClearField("raw_data")
        bias.int32_data.extend(words)
    outcome = shifted(proto)
    assert_computes_the_reference(outcome, rows(dtype="float16"), False, tolerance=2e-3)
    taken_back(outcome)
    back = model_io.render(proto, outcome.loaded.graph_ir)
    (found,) = [t for t in back.graph.initializer if t.name == "H"]
    assert numpy_helper.to_array(found).tobytes() == numpy_helper.to_array(bias).tobytes()
    if kind == "raw_data":
        assert serialised(back) == serialised(proto)


def test_bias_behind_a_cast_to_float16_is_rounded_as_it_was() -> None:
    proto = half("b = Cast<to = 10>(B) z = Gemm(x, W, b) r = Relu(z)")
    outcome = shifted(proto)
    assert_computes_the_reference(outcome, rows(dtype="float16"), False, tolerance=2e-3)
    (bias,) = [t for t in outcome.after.graph.initializer if "bias" in t.name]
    assert bias.data_type == onnx.TensorProto.FLOAT16


def test_statistics_of_another_type_than_the_data_keep_it() -> None:
    """BatchNormalization-15 takes float16 data and float32 parameters."""
    body = "z = BatchNormalization(x, ONES, D, B, ONES) r = Relu(z)"
    proto = model(
        f"{body} w = Cast<to = 10>(W) y = MatMul(r, w)", "float16[N,4] y", "float16[N,4] x"
    )
    outcome = shifted(proto)
    (change,) = biases_of(outcome)
    assert change["was"] == "D"
    (after,) = [t for t in outcome.after.graph.initializer if t.name == "D"]
    assert after.data_type == onnx.TensorProto.FLOAT


def test_double_bias() -> None:
    arrays = {"W": np.eye(4), "FINE": ROW.astype(np.float64)}
    body = "z = Gemm(x, W, FINE) r = Relu(z) y = MatMul(r, W)"
    proto = model(body, "double[N,4] y", "double[N,4] x", **arrays)
    outcome = shifted(proto, c=0.3)
    x = rows(dtype="float64")
    assert_computes_the_reference(outcome, x, exact=False, tolerance=1e-14)


@pytest.mark.parametrize(
    "case", ["Conv with a bias", "Conv without a bias", "Gemm with C", "Clip of opset 7"]
)
def test_ir_version_3_gets_no_new_input(case: str) -> None:
    body, outputs, inputs, opset = CASES[case]
    proto = model(body, outputs, inputs, min(opset, 8), 3)
    outcome = shifted(proto)
    assert_computes_the_reference(outcome, data(case), exact=False, tolerance=1e-6)
    assert [t.name for t in outcome.after.graph.initializer] == [
        t.name for t in proto.graph.initializer
    ]
    taken_back(outcome)
    assert serialised(model_io.render(proto, outcome.loaded.graph_ir)) == serialised(proto)


def test_external_bias_is_replaced_and_its_file_is_not_read(
    tmp_path: Path, externalise: Callable[..., None]
) -> None:
    proto = build("Conv with a bias")
    outcome = shifted(proto)
    (bias,) = [t for t in proto.graph.initializer if t.name == "B"]
    externalise(bias, tmp_path / "weights.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(serialised(proto))
    loaded = model_io.load(path)
    (relu,) = [node for node in loaded.graph_ir.graph if node.op_type == "Relu"]
    shift = find_shift(relu)
    assert shift is not None
    changes = shift.apply(0.5, "float32", "y")
    assert "stored" not in changes[0]
    after = model_io.render(loaded.proto, loaded.graph_ir)
    (kept,) = [t for t in after.graph.initializer if t.name == "B"]
    assert kept == bias
    (fresh,) = [t for t in after.graph.initializer if t.name == "lipcompile/y/bias"]
    (edited,) = [t for t in outcome.after.graph.initializer if t.name == "B"]
    np.testing.assert_array_equal(numpy_helper.to_array(fresh), numpy_helper.to_array(edited))
    undo(loaded.graph_ir.graph, changes[0])
    assert serialised(model_io.render(loaded.proto, loaded.graph_ir)) == serialised(proto)


def test_undo_of_a_foreign_graph_is_a_key_error() -> None:
    outcome = shifted(build("Conv with a bias"))
    (forged,) = outcome.forged.values()
    graph = ir.from_proto(build("Gemm with C")).graph
    for change in ({**forged.changes[0], "node": "nowhere"}, forged.changes[0]):
        with pytest.raises((KeyError, ValueError)):
            undo(graph, {**change, "was": "B2"})


# What is left alone, and why

LEFT = {
    "no activation": "r = Conv(x, E, B)",
    "an activation that is no Relu": "z = Conv(x, E, B) r = LeakyRelu(z)",
    "nothing adds a bias": "r = Relu(x)",
    "a product": "z = Mul(x, S) r = Relu(z)",
    "what the Relu reads is read by a sum": "z = Conv(x, E, B) r = Relu(z) o = Neg(z)",
    "what the Relu reads is an output": "o = Conv(x, E, B) r = Relu(o)",
    "an addend that others read": ("a = Conv(x, E, B) z = Add(a, x) r = Relu(z) o = Neg(a)"),
    "one tensor twice": "a = Conv(x, E, B) z = Add(a, a) r = Relu(z)",
    "a residual sum reads the Relu": "z = Conv(x, E, B) r = Relu(z) o = Add(r, x)",
    "the Relu is an output": "z = Conv(x, E, B) o = Identity(z) r = Relu(o)",
    "a computed bias": "b = ReduceMean<axes = [0, 2, 3], keepdims = 0>(x) "
    "z = Conv(x, E, b) r = Relu(z)",
    "a quantised bias": "b = DequantizeLinear(QB, S, QZ) z = Conv(x, E, b) r = Relu(z)",
    "a Clip without an upper bound": "z = Conv(x, E, B) r = Clip(z, ZERO)",
    "a Clip from below zero": "z = Conv(x, E, B) m = Neg(SIX) r = Clip(z, m, SIX)",
    "a Clip from a positive number": "z = Conv(x, E, B) r = Clip(z, S, SIX)",
    "a Clip with a computed bound": "m = ReduceMax<keepdims = 0>(x) z = Conv(x, E, B) "
    "r = Clip(z, ZERO, m)",
    "a Clip with a quantised bound": "m = DequantizeLinear(QT, S, Z) z = Conv(x, E, B) "
    "r = Clip(z, ZERO, m)",
    "training": "z, p, q = BatchNormalization<training_mode = 1>(x, ONES, D, B, ONES) "
    "r = Relu(z)",
}


@pytest.mark.parametrize("why", LEFT)
def test_left_alone(why: str) -> None:
    body = f"{LEFT[why]} {TAIL}"
    outputs = CONV_OUT + (", float[1,4,6,6] o" if "o = " in body else "")
    arrays = {**ARRAYS, "QT": np.array(100, np.int8)}
    proto = model(body, outputs, CONV_IN, **arrays)
    outcome = forge(proto, "soft", LAST, check=False)
    (plan,) = outcome.plans.values()
    assert plan.encoding.way == "insert"
    assert outcome.added != []
    kept = {t.name: t for t in outcome.after.graph.initializer}
    assert kept == {t.name: t for t in proto.graph.initializer}


def test_beta_zero_adds_no_bias() -> None:
    outcome = forge(
        model("z = Gemm<beta = 0.0>(x, W, B) r = Relu(z) y = MatMul(r, W)"), "soft", LAST
    )
    assert [plan.encoding.way for plan in outcome.plans.values()] == ["insert"]
    assert_computes_the_reference(outcome, rows(), exact=False)


@pytest.mark.parametrize("name", ["B", "SIX", "ZERO"])
def test_default_that_a_caller_may_override_is_no_constant(name: str) -> None:
    proto = model("z = Gemm(x, W, B) r = Clip(z, ZERO, SIX) y = MatMul(r, W)")
    (tensor,) = [t for t in proto.graph.initializer if t.name == name]
    info = onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
    proto.graph.input.append(info)
    outcome = forge(proto, "soft", LAST)
    assert [plan.encoding.way for plan in outcome.plans.values()] == ["insert"]


def test_an_operator_of_another_domain_is_no_convolution() -> None:
    proto = model("z = com.microsoft.Gemm(x, W, B) r = Relu(z) y = MatMul(r, W)")
    (plan,) = forge(proto, "soft", LAST, check=False).plans.values()
    assert plan.encoding.way == "insert"


@pytest.mark.parametrize("form", ["hard", "smooth"])
@cases
def test_other_forms_shift_no_bias(case: str, form: str) -> None:
    outcome = forge(build(case), form, LAST)
    (plan,) = outcome.plans.values()
    assert plan.encoding.way != "bias"
    assert_computes_the_reference(outcome, data(case), exact=form == "hard")
