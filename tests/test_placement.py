"""Where forms are computed: what is hoisted, what stays at its site and why, and that the
model computes the same as with f_c at each layer's own input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile import model_io
from lipcompile.forged import FORMS, TARGETS, Target
from lipcompile.placement import _Planner
from lipcompile.records import SITES
from lipcompile.sites import Selector, find_sites
from lipcompile.torchview.backward import surrogates
from tests.forging import (
    CONV_IN,
    CONV_OUT,
    Outcome,
    assert_computes_the_reference,
    evaluate,
    forge,
    model,
)

forms = pytest.mark.parametrize("form", list(FORMS))
targets = pytest.mark.parametrize("target", TARGETS)
LATER = Selector("all", exclude=("^z$",))
DENSE_IN, DENSE_OUT = "float[4,4] x", "float[4,4] y"


@dataclass(frozen=True)
class Case:
    """A graph, and the anchor of each site for every form on the portable target.

    Attributes:
        body: The graph; where it begins with a layer `z`, that is not forged.
        anchors: By site: the anchor, or one per form.
        outputs: Types and names of the outputs.
        inputs: Types and names of the inputs.
        c: The threshold, or one per layer.
    """

    body: str
    anchors: Mapping[str, str | Mapping[str, str]]
    outputs: str = CONV_OUT
    inputs: str = CONV_IN
    c: float | Mapping[str, float] = field(default=0.5)

    def forge(self, form: str, target: Target = "portable") -> Outcome:
        proto = model(self.body, self.outputs, self.inputs)
        begins_with_a_layer = self.body.startswith(("z = Conv", "z = Gemm"))
        selector = LATER if begins_with_a_layer else Selector("all")
        return forge(proto, form, selector, target=target, c=self.c)

    def expected(self, form: str) -> dict[str, str]:
        return {
            site: anchor if isinstance(anchor, str) else anchor[form]
            for site, anchor in self.anchors.items()
        }


def data(proto: onnx.ModelProto) -> np.ndarray:
    shape = [d.dim_value or 3 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def anchors(outcome: Outcome) -> dict[str, str | None]:
    return {tensor: plan.anchor.name for tensor, plan in outcome.plans.items()}


def ways(outcome: Outcome) -> dict[str, str]:
    return {tensor: plan.encoding.way for tensor, plan in outcome.plans.items()}


def assert_right(outcome: Outcome, form: str) -> None:
    assert_computes_the_reference(outcome, data(outcome.before), form == "hard", 2e-6)


# What is hoisted

FRONT = "z = Conv(x, E, B) r = Relu(z)"
DENSE = "z = Gemm(x, W, B) r = Relu(z)"
# With no operator of their own these forms go back over a MaxPool; with one they stay.
FOLDED: dict[str, str] = {"hard": "r", "soft": "r", "smooth": "m"}
POOL = "m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r)"
ONE = "float[1,4] y"

HOISTED = {
    "Flatten": Case(f"{FRONT} f = Flatten(r) y = Gemm(f, F, B)", {"f": "r"}, ONE),
    "Reshape": Case(f"{FRONT} f = Reshape(r, FLAT) y = Gemm(f, F, B)", {"f": "r"}, ONE),
    "Reshape to a shape that is read from the same tensor": Case(
        f"{FRONT} s = Shape(r) n = Gather<axis = 0>(s, FIRST) d = Concat<axis = 0>(n, REST) "
        "f = Reshape(r, d) y = Gemm(f, F, B)",
        {"f": "r"},
        ONE,
    ),
    "Squeeze": Case(
        "z = Conv(x, E, B) r = Relu(z) t = Unsqueeze(r, AXIS) f = Squeeze(t, AXIS) "
        "y = Conv(f, E)",
        {"f": "r"},
    ),
    "Identity": Case(
        f"{FRONT} i = Identity(r) y = Conv(i, K)", {"i": "r"}, "float[1,4,4,4] y"
    ),
    "a chain of Transpose": Case(
        f"{DENSE} t = Transpose(r) u = Transpose(t) y = MatMul(u, W)",
        {"u": "r"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "a transposed activation": Case(
        f"{DENSE} t = Transpose<perm = [1, 0]>(r) y = MatMul(W, t)",
        {"t": "r"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "no activation at all": Case(
        "z = Gemm(x, W, B) i = Tanh(z) t = Transpose(i) y = MatMul(t, W)",
        {"t": "i"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "MaxPool, for a form that leaves no operator": Case(
        f"{FRONT} {POOL} y = Conv(m, E)", {"m": FOLDED}
    ),
    "MaxPool and Flatten": Case(
        f"{FRONT} {POOL} f = Flatten(m) y = Gemm(f, F, B)",
        {"f": {**FOLDED, "smooth": "m"}},
        ONE,
    ),
    "one form for a layer and for one behind Flatten": Case(
        f"{FRONT} y = Conv(r, E) f = Flatten(r) g = Gemm(f, F, B)",
        {"r": "r", "f": "r"},
        f"{CONV_OUT}, float[1,4] g",
    ),
    "one for a layer and for one behind MaxPool": Case(
        f"{FRONT} y = Conv(r, E) {POOL} o = Conv(m, E)",
        {"r": "r", "m": FOLDED},
        f"{CONV_OUT}, float[1,4,6,6] o",
    ),
    "two branches that are arranged differently": Case(
        f"{DENSE} t = Transpose(r) u = Identity(r) a = MatMul(t, W) b = MatMul(u, W) "
        "y = Add(a, b)",
        {"t": "r", "u": "r"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "a site on the way of another": Case(
        f"{DENSE} t = Transpose(r) a = MatMul(t, W) u = Transpose(t) b = MatMul(u, W) "
        "y = Add(a, b)",
        {"t": "r", "u": "r"},
        DENSE_OUT,
        DENSE_IN,
    ),
}
HOISTED_CASES = pytest.mark.parametrize("case", HOISTED.values(), ids=HOISTED)


@forms
@HOISTED_CASES
def test_hoisted(case: Case, form: str) -> None:
    outcome = case.forge(form)
    assert anchors(outcome) == case.expected(form)
    assert_right(outcome, form)


@forms
@targets
@HOISTED_CASES
def test_every_target_computes_the_reference(case: Case, target: Target, form: str) -> None:
    assert_right(case.forge(form, target), form)


@pytest.mark.parametrize(("form", "way"), [("hard", "relu"), ("soft", "bias")])
@HOISTED_CASES
def test_where_an_activation_takes_the_form_in_no_operator_is_left(
    case: Case, form: str, way: str
) -> None:
    outcome = case.forge(form)
    if "Tanh" in case.body:
        assert set(ways(outcome).values()) == {"insert"}
        return
    assert set(ways(outcome).values()) == {way}
    assert outcome.added == []


@forms
def test_sites_with_one_anchor_share_its_nodes(form: str) -> None:
    outcome = HOISTED["one form for a layer and for one behind Flatten"].forge(form)
    assert len({forged.tensor for forged in outcome.forged.values()}) == 1
    if form == "smooth":
        assert sorted(outcome.added) == ["BatchNormalization", "Mul", "Sigmoid"]
    assert sum(bool(forged.changes) for forged in outcome.forged.values()) == (form == "soft")


@forms
@targets
@HOISTED_CASES
def test_nothing_is_forged_twice(case: Case, target: Target, form: str) -> None:
    """A second run, as --force makes it, finds every layer forged, whatever is in between."""
    once = case.forge(form, target)
    again = find_sites(model_io.load(once.after).graph_ir, LATER)
    assert again.sites == ()
    codes = {refusal.layer: refusal.code for refusal in again.refusals}
    layers = [layer.name for plan in once.plans.values() for layer in plan.site.layers]
    assert {codes[name] for name in layers} == {"already-hardened"}


# What is left alone, and why

LEFT = {
    "a residual sum reads it": Case(
        f"{DENSE} t = Transpose(r) a = MatMul(t, W) y = Add(r, a)",
        {"t": "t"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "it is an output": Case(
        f"{DENSE} t = Transpose(r) y = MatMul(t, W)",
        {"t": "t"},
        f"{DENSE_OUT}, float[4,4] r",
        DENSE_IN,
    ),
    "what lies between is an output": Case(
        f"{DENSE} t = Transpose(r) y = MatMul(t, W)",
        {"t": "t"},
        f"{DENSE_OUT}, float[4,4] t",
        DENSE_IN,
    ),
    "a body reads it": Case(
        f"{DENSE} t = Transpose(r) a = MatMul(t, W) b = If(YES) <then_branch = p () => "
        "(float[4,4] q) { q = Identity(r) }, else_branch = s () => (float[4,4] v) "
        "{ v = Neg(r) }> y = Add(a, b)",
        {"t": "t"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "a pooling that gives indices": Case(
        f"{FRONT} m, o = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r) "
        "y = Conv(m, E)",
        {"m": "m"},
        f"{CONV_OUT}, int64[1,4,6,6] o",
    ),
    "another pooling": Case(
        f"{FRONT} m = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r) "
        "y = Conv(m, E)",
        {"m": "m"},
    ),
    "unequal thresholds": Case(
        f"{FRONT} y = Conv(r, E) {POOL} o = Conv(m, E)",
        {"r": "r", "m": "m"},
        f"{CONV_OUT}, float[1,4,6,6] o",
        c={"y": 0.5, "o": 0.25},
    ),
    "unequal thresholds behind Flatten": Case(
        f"{FRONT} y = Conv(r, E) f = Flatten(r) g = Gemm(f, F, B)",
        {"r": "r", "f": "f"},
        f"{CONV_OUT}, float[1,4] g",
        c={"y": 0.5, "g": 0.25},
    ),
    "the model's input": Case(
        "f = Flatten(x) a = Gemm(f, F, B) i = Identity(x) y = Conv(i, E)",
        {"f": "f", "i": "i"},
        f"{CONV_OUT}, float[1,4] a",
    ),
    "a Concat": Case(
        f"{DENSE} t = Concat<axis = 0>(r) y = MatMul(t, W)",
        {"t": "t"},
        DENSE_OUT,
        DENSE_IN,
    ),
    "a Slice": Case(
        f"{DENSE} t = Slice(r, START, STOP) y = MatMul(t, W)",
        {"t": "t"},
        "float[M,4] y",
        DENSE_IN,
    ),
    "a dead end": Case(
        f"{DENSE} t = Transpose(r) i = Identity(r) y = MatMul(t, W)",
        {"t": "t"},
        DENSE_OUT,
        DENSE_IN,
    ),
}
LEFT_CASES = pytest.mark.parametrize("case", LEFT.values(), ids=LEFT)


@forms
@LEFT_CASES
def test_left_at_its_site(case: Case, form: str) -> None:
    outcome = case.forge(form)
    assert anchors(outcome) == case.expected(form)
    assert set(ways(outcome).values()) == {"insert"}
    assert_right(outcome, form)


@forms
@targets
@LEFT_CASES
def test_what_is_left_computes_the_reference(case: Case, target: Target, form: str) -> None:
    assert_right(case.forge(form, target), form)


@forms
def test_layer_that_is_left_out_reads_what_it_did(form: str) -> None:
    outcome = forge(
        model(
            f"{DENSE} t = Transpose(r) o = MatMul(r, W) y = MatMul(t, W)",
            f"{DENSE_OUT}, float[4,4] o",
            DENSE_IN,
        ),
        form,
        Selector("all", exclude=("^z$", "^o$")),
    )
    assert anchors(outcome) == {"t": "t"}
    x = data(outcome.before)
    original, forged = evaluate(outcome.before, x), evaluate(outcome.after, x)
    np.testing.assert_array_equal(original[1], forged[1])


@forms
def test_quantised_site_is_no_activation(form: str) -> None:
    """The form would lie in front of the only Q, and break up what the runtime fuses."""
    outcome = forge(
        model(
            f"{DENSE} q = QuantizeLinear(r, S, U) d = DequantizeLinear(q, S, U) "
            "y = MatMul(d, W)",
            DENSE_OUT,
            DENSE_IN,
            opset=21,
        ),
        form,
        LATER,
    )
    assert anchors(outcome) == {"d": "d"}
    assert ways(outcome) == {"d": "insert"}
    assert_right(outcome, form)


# Sites that share a way back must agree on where to stop

SHARED = {
    "a convolution's layout": Case(
        "z = Tanh(x) i = Transpose<perm = [0, 3, 1, 2]>(z) y = Conv(i, E) "
        "j = Reshape(i, ROWS) o = Gemm(j, W)",
        {},
        f"{CONV_OUT}, float[N,4] o",
        "float[1,6,6,4] x",
    ),
    "a pooling below": Case(
        f"{FRONT} i = Identity(r) y = Conv(i, E) m = MaxPool<kernel_shape = [1, 1]>(i) "
        "o = Conv(m, E)",
        {},
        f"{CONV_OUT}, float[1,4,6,6] o",
    ),
    "a pooling between two rearrangements": Case(
        f"{FRONT} i = Identity(r) m = MaxPool<kernel_shape = [1, 1]>(i) j = Identity(m) "
        "y = Conv(j, E) f = Flatten(m) o = Gemm(f, F) g = Flatten(i) p = Gemm(g, F)",
        {},
        f"{CONV_OUT}, float[1,4] o, float[1,4] p",
    ),
}


@forms
@targets
@pytest.mark.parametrize("case", SHARED.values(), ids=SHARED)
def test_no_site_is_forged_above_and_below(case: Case, target: Target, form: str) -> None:
    assert_right(case.forge(form, target), form)


def test_planted_disagreement_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Site i stays where it is, and site j goes back beyond it."""
    honest = _Planner._above
    monkeypatch.setattr(_Planner, "_costs", lambda *_: False)
    monkeypatch.setattr(
        _Planner,
        "_above",
        lambda self, value, asked: None if value.name == "i" else honest(self, value, asked),
    )
    outcome = SHARED["a convolution's layout"].forge("soft")
    assert anchors(outcome) == {"i": "i", "j": "z"}
    with pytest.raises(AssertionError, match="tolerance"):
        assert_right(outcome, "soft")


# Every small graph


@st.composite
def random_bodies(draw: st.DrawFn) -> tuple[str, str]:
    """Up to ten operators over [1, 4, 6, 6] and [36, 4] tensors, and the names they end in.

    Rearrangements, poolings and layers of both kinds; activations with and without biases;
    tensors with any number of readers, sums of two among them.
    """
    lines = ["v = Conv(x, E, B)", "w = Reshape(x, ROWS)"]
    images, tables = ["v"], ["w"]
    image_calls = [
        *["Relu({0})", "Clip({0}, ZERO, SIX)", "Tanh({0})", "Identity({0})"],
        *[
            "Conv({0}, E, B)",
            "Conv({0}, E)",
            "Add({0}, {1})",
            "Transpose<perm=[0,1,3,2]>({0})",
        ],
        "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>({0})",
        "BatchNormalization({0}, ONES, D, B, ONES)",
    ]
    table_calls = [
        *["Relu({0})", "Identity({0})", "Gemm({0}, W, B)", "Gemm({0}, W)", "Add({0}, B)"],
        *["MatMul({0}, W)", "Add({0}, {1})", "Tanh({0})"],
    ]
    for index in range(draw(st.integers(2, 10))):
        name = f"n{index}"
        kind = draw(st.sampled_from(["image", "image", "table", "down", "up"]))
        if kind in ("image", "up"):
            source = [draw(st.sampled_from(images[-3:])), draw(st.sampled_from(images))]
            call = draw(st.sampled_from(image_calls)).format(*source)
            if kind == "up":
                call = f"Reshape({draw(st.sampled_from(tables[-3:]))}, IMAGE)"
            images.append(name)
        else:
            source = [draw(st.sampled_from(tables[-3:])), draw(st.sampled_from(tables))]
            call = draw(st.sampled_from(table_calls)).format(*source)
            if kind == "down":
                call = f"Reshape({draw(st.sampled_from(images[-3:]))}, ROWS)"
            tables.append(name)
        lines.append(f"{name} = {call}")
    lines += [f"y = Conv({images[-1]}, E)", f"o = Gemm({tables[-1]}, W)"]
    return " ".join(lines), "float[1,4,6,6] y, float[36,4] o"


@given(
    random_bodies(),
    st.sampled_from(list(FORMS)),
    st.sampled_from(TARGETS),
    st.lists(st.sampled_from([0.3, 0.3, 0.2]), min_size=12, max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_every_small_graph_computes_the_reference(
    graph: tuple[str, str], form: str, target: Target, thresholds: list[float]
) -> None:
    proto = model(*graph, CONV_IN)
    sites = find_sites(model_io.load(proto).graph_ir, Selector("all")).sites
    names = [site.layers[0].name for site in sites]
    c = dict(zip(names, thresholds, strict=False))
    outcome = forge(proto, form, Selector("all"), target=target, c=c)
    x = data(proto)
    expected, found = evaluate(outcome.reference, x), evaluate(outcome.after, x)
    for y, wanted in zip(found, expected, strict=True):
        if form == "hard":
            np.testing.assert_array_equal(y, wanted)
        else:
            # Up to ten layers of gain 3 carry the roundings of the first one to the end.
            scale = float(np.abs(wanted).max()) + 1.0
            np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-3 * scale)
    after = model_io.load(outcome.after)
    assert find_sites(after.graph_ir, Selector("all")).sites == ()
    assert_surrogates_find_their_tensors(outcome, after.graph_ir.graph)


def assert_surrogates_find_their_tensors(outcome: Outcome, graph: ir.Graph) -> None:
    """An adaptive attack differentiates a surrogate at each form, found by provenance."""
    records = [
        {
            "tensor": plan.site.tensor,
            "at": plan.anchor.name,
            "forged": forged.tensor,
            "c": plan.c,
            "way": way,
        }
        for forged in outcome.forged.values()
        for plan in [forged.plan]
        for way in [plan.encoding.way]
    ]
    found = surrogates(graph, {SITES: json.dumps(records)}, "identity")
    for record in records:
        source = None if record["way"] != "insert" else record["at"]
        assert found[record["forged"]].source == source
