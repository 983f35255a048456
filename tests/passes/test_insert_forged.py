"""The rewrite: what becomes of each case, what stays as it was, and that it computes f_c."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile import model_io
from lipcompile.forged import FORMS, make_form
from lipcompile.passes.insert_forged import Forged
from lipcompile.sites import Selector, find_sites
from tests.forging import C, assert_computes_the_reference, forge, model, rows

forms = pytest.mark.parametrize("form", list(FORMS))


def harden(
    proto: onnx.ModelProto, form: str, *selector: object, **options: object
) -> tuple[onnx.ModelProto, dict[str, Forged]]:
    """The hardened model, checked, and what became of each site."""
    outcome = forge(proto, form, Selector(*selector, **options))
    return outcome.after, outcome.forged


def run(proto: onnx.ModelProto, tensors: Sequence[str], x: np.ndarray) -> list[np.ndarray]:
    """Any tensors of the model, computed as written."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    known = {o.name for o in proto.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=t) for t in {*tensors} - known)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(tensors), {"x": x})


def producer(proto: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if tensor in node.output)


def nodes_of(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.output[0]: node for node in proto.graph.node}


def added(before: onnx.ModelProto, after: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for output, node in nodes_of(after).items() if output not in nodes_of(before)]


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """First outputs of the model's own nodes that differ."""
    old, new = nodes_of(before), nodes_of(after)
    assert list(old) == [output for output in new if output in old]
    return {output for output in old if old[output] != new[output]}


def assert_forged(
    proto: onnx.ModelProto, forged: dict[str, Forged], form: str, x: np.ndarray
) -> None:
    """Each forged tensor is form(anchor), exactly or within a few roundings."""
    shown = forged_as_defined(proto, forged, form, x)
    assert shown, "nothing was suppressed, so nothing was shown"


def forged_as_defined(
    proto: onnx.ModelProto, forged: dict[str, Forged], form: str, x: np.ndarray
) -> bool:
    shown = False
    for result in forged.values():
        anchor, way = result.plan.anchor.name, result.plan.encoding.way
        assert anchor is not None
        assert (anchor == result.tensor) == (way != "insert")
        source = anchor if way == "insert" else producer(proto, anchor).input[0]
        seen, got = run(proto, [source, result.tensor], x)
        held = float(np.asarray(C, dtype=seen.dtype))
        if way != "insert":  # what the Relu gave, before it was rewritten or its bias shifted
            seen = np.maximum(seen + np.asarray(held if way == "bias" else 0, seen.dtype), 0)
        expected = make_form(form)(seen, held)
        assert got.dtype == seen.dtype
        if form == "hard":
            np.testing.assert_array_equal(got, expected)
        else:
            # The gate is computed in float32: its error stays below a few units of 2^-23. A
            # shifted bias rounds before the sum, not behind it.
            largest = np.abs(seen) + (held if way == "bias" else 0)
            assert (np.abs(got - expected) <= 1e-6 * largest).all()
        shown |= bool((got != seen).any())
    return shown


# What must change: the readers of each site, and nothing else

CASES = {
    "case 1: a Relu that one layer reads": (
        "h = Relu(x) a = MatMul(h, W) y = MatMul(a, W)",
        {"hard": {"h"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 1: a Relu that several layers read": (
        "h = Relu(x) a = MatMul(h, W) b = MatMul(W, h) d = Add(a, b) y = MatMul(d, W)",
        {"hard": {"h"}, "smooth": {"a", "b"}, "soft": {"a", "b"}},
    ),
    "case 3: a site of any sign": (
        "h = Erf(x) a = MatMul(h, W) y = MatMul(a, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 3: a residual Add reads it too": (
        "h = Relu(x) a = MatMul(h, W) r = Add(h, a) y = MatMul(r, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 3: a body reads it too": (
        "h = Relu(x) a = MatMul(h, W) b = If(YES) <then_branch = t () => (float[N,4] p) "
        "{ p = Abs(h) }, else_branch = e () => (float[N,4] q) { q = Neg(h) }> "
        "d = Add(a, b) y = MatMul(d, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 3: a max pool reads it too": (
        "h = Relu(x) a = MatMul(h, W) m = Identity(h) r = Mul(m, a) y = MatMul(r, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 1: hoisted over a shape operator": (
        "r = Relu(x) h = Identity(r) a = MatMul(h, W) y = MatMul(a, W)",
        {"hard": {"r"}, "smooth": {"h"}, "soft": {"h"}},
    ),
    "case 2: a bias in front of the Relu": (
        "z = Gemm(x, W, B) h = Relu(z) a = MatMul(h, W) y = MatMul(a, W)",
        {"hard": {"h"}, "smooth": {"a"}, "soft": {"h"}},
    ),
    "case 2: no bias yet": (
        "z = Gemm(x, W) h = Relu(z) a = MatMul(h, W) y = MatMul(a, W)",
        {"hard": {"h"}, "smooth": {"a"}, "soft": {"z", "h"}},
    ),
    "case 3: one form for two sites": (
        "h = Erf(x) f = Reshape(h, ROWS) a = MatMul(f, W) b = MatMul(h, W) d = Add(a, b) "
        "y = MatMul(d, W)",
        {"hard": {"f", "b"}, "smooth": {"f", "b"}, "soft": {"f", "b"}},
    ),
    "case 4: a QDQ pair": (
        "h = Relu(x) q = QuantizeLinear(h, S, U) d = DequantizeLinear(q, S, U) "
        "a = MatMul(d, W) y = MatMul(a, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 4: a pair that another reader shares": (
        "h = Relu(x) q = QuantizeLinear(h, S, U) d = DequantizeLinear(q, S, U) "
        "a = MatMul(d, W) r = Add(d, a) y = MatMul(r, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
    "case 4: one Q and a DQ per layer": (
        "h = Relu(x) q = QuantizeLinear(h, S, U) d = DequantizeLinear(q, S, U) "
        "a = MatMul(d, W) e = DequantizeLinear(q, S, U) b = MatMul(e, W) r = Add(a, b) "
        "y = MatMul(r, W)",
        {"hard": {"a", "b"}, "smooth": {"a", "b"}, "soft": {"a", "b"}},
    ),
    "case 4: with a Cast as PyTorch has it, and constants among the nodes": (
        "h = Relu(x) s = Identity(S) z = Constant<value = uint8 {0}>() "
        "q = QuantizeLinear(h, s, z) i = Cast<to = 2>(q) t = Identity(S) "
        "d = DequantizeLinear(i, t, z) a = MatMul(d, W) y = MatMul(a, W)",
        {"hard": {"a"}, "smooth": {"a"}, "soft": {"a"}},
    ),
}


@forms
@pytest.mark.parametrize(("body", "expected"), CASES.values(), ids=CASES)
def test_only_the_layers_inputs_change_and_the_form_is_computed(body, expected, form: str):
    quantised = "QuantizeLinear" in body
    before = model(body, opset=21 if quantised else 17)  # ONNX's reference has DQ from 19 on
    outcome = forge(before, form)
    assert changed(before, outcome.after) == expected[form]
    assert_forged(outcome.after, outcome.forged, form, rows())
    if not quantised or form == "hard":  # else a rounding may become a step
        assert_computes_the_reference(outcome, rows(), exact=form == "hard")


@forms
@pytest.mark.parametrize(("body", "expected"), CASES.values(), ids=CASES)
def test_inserted_nodes_carry_unique_names_and_marks(body, expected, form: str):
    before = model(body)
    after, forged = harden(before, form)
    names = [node.name for node in after.graph.node if node.name]
    values = [output for node in after.graph.node for output in node.output]
    assert len(names) == len(set(names))
    assert len(values) == len(set(values))
    for node in added(before, after):
        assert node.name.startswith("lipcompile/")
        assert all(output.startswith("lipcompile/") for output in node.output)
        marks = {prop.key: prop.value for prop in node.metadata_props}
        assert marks["lipcompile.form"] == form
        assert marks["lipcompile.site"] in forged
    for result in forged.values():
        way, node = result.plan.encoding.way, producer(after, result.tensor)
        if way != "insert":
            marks = {prop.key: prop.value for prop in node.metadata_props}
            assert node.op_type == ("ThresholdedRelu" if way == "relu" else "Relu")
            assert (marks["lipcompile.was"], marks["lipcompile.form"]) == ("Relu", form)


@forms
@pytest.mark.parametrize(("body", "expected"), CASES.values(), ids=CASES)
def test_result_is_the_same_each_time(body, expected, form: str):
    first, second = (harden(model(body), form)[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


# What must be left alone, and why


def test_relu_whose_output_is_a_graph_output_stays():
    before = model(
        "y = Relu(x) a = MatMul(y, W) z = MatMul(a, W)", "float[N,4] y, float[N,4] z"
    )
    after, _ = harden(before, "hard")
    assert changed(before, after) == {"a"}
    x = rows()
    np.testing.assert_array_equal(run(after, ["y"], x)[0], np.maximum(x, 0))


def test_relu_that_a_refused_layer_reads_stays():
    before = model(
        "h = Relu(x) a = MatMul(h, W) b = Gemm(h, W) d = Add(a, b) y = MatMul(d, W)"
    )
    after, _ = harden(before, "hard", exclude=("^b$",))
    assert changed(before, after) == {"a"}
    assert producer(after, "b").input[0] == "h"


def test_relu_stays_before_opset_10_which_has_no_thresholded_relu():
    before = model("h = Relu(x) a = MatMul(h, W) y = MatMul(a, W)", opset=9)
    after, forged = harden(before, "hard")
    assert changed(before, after) == {"a"}
    assert_forged(after, forged, "hard", rows())


def test_relu_in_float64_stays_since_no_kernel_takes_its_place():
    body = "h = Relu(x) w = Cast<to = 11>(W) a = MatMul(h, w) y = MatMul(a, w)"
    before = model(body, "double[N,4] y", "double[N,4] x")
    after, forged = harden(before, "hard")
    assert changed(before, after) == {"a"}
    assert_forged(after, forged, "hard", rows(dtype="float64"))


def test_relu_that_is_read_twice_by_one_operator_stays():
    before = model("h = Relu(x) a = Gemm(h, W, h) y = MatMul(a, W)")
    after, _ = harden(before, "hard")
    assert changed(before, after) == {"a"}
    assert list(producer(after, "a").input)[2] == "h"


@forms
def test_residual_reader_and_graph_output_keep_the_original(form: str):
    body = "h = Erf(x) a = MatMul(h, W) z = Identity(h) r = Add(h, a) y = MatMul(r, W)"
    before = model(body, "float[N,4] y, float[N,4] z, float[N,4] h")
    after, _ = harden(before, form)
    x = rows()
    for name in ("z", "h"):
        np.testing.assert_array_equal(run(after, [name], x)[0], run(before, [name], x)[0])
    assert list(producer(after, "r").input) == ["h", "a"]


@forms
def test_shared_site_is_forged_once(form: str):
    body = "h = Erf(x) a = MatMul(h, W) b = Gemm(h, W) d = Add(a, b) y = MatMul(d, W)"
    after, forged = harden(model(body), form)
    assert list(forged) == ["h"]
    read = producer(after, "a").input[0], producer(after, "b").input[0]
    assert set(read) == {forged["h"].tensor}
    counts = Counter(node.op_type for node in after.graph.node)
    assert counts[{"hard": "Where", "smooth": "Sigmoid", "soft": "Clip"}[form]] == 1


# QDQ

CONV = (
    "{o}w = DequantizeLinear(QK, S, Z) {o}c = Conv({i}, {o}w) {o}r = {f}({o}c) "
    "{o}q = QuantizeLinear({o}r, T, {z}) {o} = DequantizeLinear({o}q, T, {z}) "
)


def quantised_chain(activation: str, zero: str) -> onnx.ModelProto:
    body = f"xq = QuantizeLinear(x, T, {zero}) a = DequantizeLinear(xq, T, {zero}) "
    for source, target in zip("abcd", "bcde", strict=True):
        body += CONV.format(i=source, o=target, f=activation, z=zero)
    shape = "float[1,4,12,12] x", "float[1,4,4,4] y"
    return model(f"{body} y = Identity(e)", shape[1], shape[0])


def fused(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators of the graph as ONNX Runtime optimises it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimised = onnx.load(folder / "optimised.onnx")
    return Counter(node.op_type for node in optimised.graph.node)


@forms
@pytest.mark.parametrize(("activation", "zero"), [("Relu", "U"), ("Identity", "V")])
def test_quantised_convolutions_stay_fused(activation, zero, form, tmp_path: Path):
    before = quantised_chain(activation, zero)
    after, forged = harden(before, form)
    assert len(forged) == 2
    assert fused(before, tmp_path)["QLinearConv"] == 4
    assert fused(after, tmp_path)["QLinearConv"] == 4


def test_form_in_front_of_the_only_q_would_break_the_fusion(tmp_path: Path):
    """The planted failure: the check above sees what it is there to see."""
    planted = quantised_chain("Relu", "U")
    for node in planted.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Erf"
    assert fused(planted, tmp_path)["QLinearConv"] < 4


@forms
def test_quantised_layer_reads_the_form_through_a_copy_of_its_pair(form: str):
    after, forged = harden(quantised_chain("Relu", "U"), form)
    for site, result in forged.items():
        layer = next(
            n for n in after.graph.node if n.op_type == "Conv" and n.output[0] > f"{site}z"
        )
        dequantize = producer(after, layer.input[0])
        quantize = producer(after, dequantize.input[0])
        assert [dequantize.op_type, *dequantize.input[1:]] == ["DequantizeLinear", "T", "U"]
        assert [quantize.op_type, *quantize.input] == [
            "QuantizeLinear",
            result.tensor,
            "T",
            "U",
        ]


def test_copy_keeps_domain_and_attributes():
    body = (
        "h = Erf(x) q = com.microsoft.QuantizeLinear<axis = 1>(h, S, Z) "
        "d = com.microsoft.DequantizeLinear<axis = 1>(q, S, Z) a = MatMul(d, W) "
        "y = MatMul(a, W)"
    )
    before = model(body)
    after, forged = harden(before, "smooth")
    copies = [node for node in added(before, after) if "Quant" in node.op_type]
    copies += [node for node in added(before, after) if "Dequant" in node.op_type]
    assert [(n.domain, n.attribute[0].name, n.attribute[0].i) for n in copies] == [
        ("com.microsoft", "axis", 1),
        ("com.microsoft", "axis", 1),
    ]
    assert_forged(after, forged, "smooth", rows())


# Every small graph


@st.composite
def random_bodies(draw: st.DrawFn) -> str:
    """Up to twelve operators over 4 x 4 tensors; branches, residual sums, shared pairs."""
    unary = ["Relu({a})", "Tanh({a})", "Identity({a})", "Transpose({a})"]
    unary += ["DequantizeLinear(q, S, U)", "DequantizeLinear(q, T, V)"]
    layers = ["MatMul({a}, W)", "MatMul(W, {a})", "Gemm({a}, W, B)", "Gemm(W, {a})"]
    binary = ["Add({a}, {b})", "Sub({a}, {b})"]
    lines, values = ["q = QuantizeLinear(x, S, U) h = Tanh(x)"], ["h"]
    for index in range(draw(st.integers(1, 12))):
        a, b = draw(st.sampled_from(values[-3:])), draw(st.sampled_from(values))
        call = draw(st.sampled_from([*unary, *layers, *binary]))
        lines.append(f"v{index} = {call.format(a=a, b=b)}")
        values.append(f"v{index}")
    return " ".join([*lines, f"w = MatMul(h, W) y = Add(w, {values[-1]})"])


@given(random_bodies(), st.sampled_from(list(FORMS)))
@settings(max_examples=60, deadline=None)
def test_every_small_graph_is_hardened_by_definition(body: str, form: str):
    before = model(body)
    after, forged = harden(before, form, "all")
    forged_as_defined(after, forged, form, rows())
    again = find_sites(model_io.load(after).graph_ir, Selector("all"))
    assert again.sites == ()


# Types, versions and order


@forms
@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 15, 18, 21])
def test_every_opset_computes_the_form(opset: int, form: str):
    body = "h = Tanh(x) a = MatMul(h, W) r = Relu(a) b = Gemm(r, W, B) y = MatMul(b, W)"
    after, forged = harden(model(body, opset=opset), form)
    assert len(forged) == 2
    assert_forged(after, forged, form, rows())


@forms
@pytest.mark.parametrize(("dtype", "kind"), [("float16", 10), ("double", 11)])
def test_every_element_type_computes_the_form(dtype: str, kind: int, form: str):
    # LeakyRelu by a half is exact, so that it does not matter that ONNX Runtime keeps the site
    # in float32 between the Casts of two 16-bit operators.
    body = (
        f"h = LeakyRelu<alpha = 0.5>(x) w = Cast<to = {kind}>(W) a = MatMul(h, w) "
        "y = MatMul(a, w)"
    )
    after, forged = harden(model(body, f"{dtype}[N,4] y", f"{dtype}[N,4] x"), form)
    x = rows(dtype="float16" if dtype == "float16" else "float64")
    seen, got = run(after, ["h", forged["h"].tensor], x)
    expected = make_form(form)(seen, C)
    assert got.dtype == x.dtype
    if form == "hard":
        np.testing.assert_array_equal(got, expected)
    else:
        last_place = np.spacing(np.abs(expected))
        tolerance = np.maximum(last_place, 1e-6 * np.abs(seen.astype(np.float64)))
        assert (np.abs(got.astype(np.float64) - expected) <= tolerance).all()


@forms
def test_weights_that_are_graph_inputs_as_in_ir_version_3(form: str):
    body = "h = Tanh(x) a = MatMul(h, W) y = MatMul(a, W)"
    after, forged = harden(model(body, opset=8, ir_version=3), form)
    assert_forged(after, forged, form, rows())


@forms
def test_unsorted_graph_is_rewritten_too(form: str):
    proto = model("h = Relu(x) a = MatMul(h, W) r = Add(h, a) y = MatMul(r, W)")
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    outcome = forge(proto, form, check=False)  # the checker wants them sorted
    assert_forged(outcome.after, outcome.forged, form, rows())


# Names


def test_names_that_differ_by_a_slash_do_not_collide():
    proto = model(
        "h = Erf(x) [A] a = MatMul(h, W) s = Erf(a) [B] b = MatMul(s, W) t = Erf(b) "
        "[C] d = MatMul(t, W) y = MatMul(d, W)"
    )
    renamed = {"A": "/fc", "B": "fc", "C": "//fc"}
    for node in proto.graph.node:
        node.name = renamed.get(node.name, node.name)
    after, forged = harden(proto, "smooth")
    assert sorted(result.tensor for result in forged.values()) == [
        "lipcompile/fc.2/forged",
        "lipcompile/fc.3/forged",
        "lipcompile/fc/forged",
    ]
    names = [node.name for node in after.graph.node if node.name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("second", list(FORMS))
@pytest.mark.parametrize("first", list(FORMS))
def test_other_layers_can_be_hardened_afterwards(first: str, second: str):
    body = "h = Tanh(x) a = MatMul(h, W) b = Gemm(h, W) d = Add(a, b) f = Relu(d) "
    body += "g = MatMul(f, W) y = MatMul(g, W)"
    once, forged = harden(model(body), first, include=("^a$",))
    twice, rest = harden(once, second)
    assert (list(forged), list(rest)) == (["h"], ["h", "f"])
    assert forged["h"].tensor != rest["h"].tensor
    values = [output for node in twice.graph.node for output in node.output]
    assert len(values) == len(set(values))
    assert_forged(twice, forged, first, rows())
    assert_forged(twice, rest, second, rows())
    left = find_sites(model_io.load(twice).graph_ir)
    assert {r.layer: r.code for r in left.refusals} == {
        "a": "already-hardened",
        "b": "already-hardened",
        "g": "already-hardened",
        "y": "head",
    }


@forms
@pytest.mark.parametrize("activation", ["Relu", "Identity"])
def test_quantised_model_is_not_hardened_twice(activation: str, form: str):
    once, forged = harden(quantised_chain(activation, "Z"), form)
    selection = find_sites(model_io.load(once).graph_ir)
    assert selection.sites == ()
    assert Counter(r.code for r in selection.refusals) == {
        "already-hardened": len(forged),
        "stem": 1,
        "head": 1,
    }


def test_names_stripped_by_a_tool_do_not_collide():
    body = "h = Erf(x) [a] a = MatMul(h, W) b = Gemm(h, W) d = Add(a, b) y = MatMul(d, W)"
    once, _ = harden(model(body), "smooth", include=("^a$",))
    for node in once.graph.node:
        node.name = {"a": "other", "b": "a"}.get(node.output[0], "")
        del node.metadata_props[:]
    twice, forged = harden(once, "smooth", include=("^a$",))
    values = [output for node in twice.graph.node for output in node.output]
    assert len(values) == len(set(values))
    assert_forged(twice, forged, "smooth", rows())
