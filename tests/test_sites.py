"""Which tensors are sites, what the selection options do, and what is said when they fail."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile.errors import OptionError, SelectionError
from lipcompile.sites import Selection, Selector, find_sites, require_sites
from tests.small_graphs import model


def grouped(selection: Selection) -> dict[str, list[str]]:
    return {site.tensor: [layer.name for layer in site.layers] for site in selection.sites}


def refused(selection: Selection) -> dict[str, str]:
    return {refusal.layer: refusal.code for refusal in selection.refusals}


MLP = (
    "n = Identity(x) stem = MatMul(n, W) h = Relu(stem) fc1 = MatMul(h, W) a = Relu(fc1) "
    "fc2 = MatMul(a, W) b = Relu(fc2) conv = Conv(b, K) c = Relu(conv) y = MatMul(c, W)"
)
ALL_OF_MLP = ["stem", "fc1", "fc2", "conv", "y"]


# Rules


RULES = {
    "auto": (["fc1", "fc2", "conv"], {"stem": "stem", "y": "head"}),
    "mlp": (["fc1", "fc2"], {"stem": "stem", "conv": "not-mlp", "y": "head"}),
    "all": (ALL_OF_MLP, {}),
}


@pytest.mark.parametrize(("rule", "expected"), RULES.items(), ids=RULES)
def test_rule_chooses_layers_and_says_why_not_the_others(rule, expected):
    selection = find_sites(model(MLP), Selector(rule))
    assert [layer.name for layer in selection.layers] == expected[0]
    assert refused(selection) == expected[1]
    assert selection.rule == rule


REASONS = {
    "stem": ("auto", "stem", "reads the model's input"),
    "head": ("auto", "y", "gives the model's output"),
    "not-mlp": ("mlp", "conv", "is not FC1 or FC2 of an MLP (rule mlp)"),
}


@pytest.mark.parametrize(("code", "case"), REASONS.items(), ids=REASONS)
def test_refusal_carries_its_reason(code, case):
    rule, layer, reason = case
    selection = find_sites(model(MLP), Selector(rule))
    refusal = next(r for r in selection.refusals if r.layer == layer)
    assert (refusal.code, refusal.reason) == (code, reason)


def test_attention_is_refused_by_auto_and_mlp_and_taken_by_all():
    subject = "h = Relu(x) f = MatMul(h, W) g = Relu(f) q = MatMul(g, W) k = MatMul(h, W) "
    subject += "p = MatMul(q, k) m = Softmax(p) o = MatMul(m, W) r = Relu(o) y = MatMul(r, W)"
    assert refused(find_sites(model(subject)))["q"] == "attention"
    assert refused(find_sites(model(subject), Selector("mlp")))["q"] == "attention"
    assert refused(find_sites(model(subject), Selector("all"))) == {}


def test_refusals_stand_in_graph_order():
    body = (
        "h = Relu(x) a = com.microsoft.FusedMatMul(h, W) b = MatMul(a, W) c = MatMul(x, W) "
        "d = com.microsoft.FusedMatMul(b, W) y = MatMul(d, W)"
    )
    selection = find_sites(model(body), Selector(exclude=("b",)))
    assert list(refused(selection)) == ["a", "b", "c", "d", "y"]


# Sites


def test_layers_that_share_an_input_share_a_site():
    body = "h = Relu(x) a = MatMul(h, W) b = Gemm(h, W) c = Add(a, b) y = MatMul(c, W)"
    assert grouped(find_sites(model(body))) == {"h": ["a", "b"]}
    assert grouped(find_sites(model(body), Selector("all"))) == {"h": ["a", "b"], "c": ["y"]}


def test_excluded_reader_leaves_the_site_to_the_others():
    body = "h = Relu(x) a = MatMul(h, W) b = Gemm(h, W) c = Add(a, b) y = MatMul(c, W)"
    selection = find_sites(model(body), Selector(exclude=("^a$",)))
    assert grouped(selection) == {"h": ["b"]}
    assert refused(selection) == {"a": "excluded", "y": "head"}


def test_operands_of_either_side_share_a_site():
    body = "h = Relu(x) a = MatMul(h, W) b = MatMul(W, h) c = Add(a, b) y = MatMul(c, W)"
    assert grouped(find_sites(model(body))) == {"h": ["a", "b"]}


QDQ = {
    "what DequantizeLinear gives": (
        "h = Relu(x) q = QuantizeLinear(h, S, Z) d = DequantizeLinear(q, S, Z) "
        "a = MatMul(d, W) y = MatMul(a, W)",
        {"d": ["a"]},
    ),
    "several equal DequantizeLinear of one tensor": (
        "h = Relu(x) q = QuantizeLinear(h, S, Z) d = DequantizeLinear(q, S, Z) "
        "a = MatMul(d, W) e = DequantizeLinear(q, S, Z) b = MatMul(e, W) c = Add(a, b) "
        "y = MatMul(c, W)",
        {"d": ["a", "b"]},
    ),
    "unequal DequantizeLinear of one tensor": (
        "h = Relu(x) q = QuantizeLinear(h, S, Z) d = DequantizeLinear(q, S, Z) "
        "a = MatMul(d, W) e = DequantizeLinear(q, SIX, Z) b = MatMul(e, W) "
        "f = DequantizeLinear<axis = 0>(q, S, Z) g = MatMul(f, W) c = Sum(a, b, g) "
        "y = MatMul(c, W)",
        {"d": ["a"], "e": ["b"], "f": ["g"]},
    ),
    "beside a reader of the tensor before": (
        "h = Relu(x) q = QuantizeLinear(h, S, Z) d = DequantizeLinear(q, S, Z) "
        "a = MatMul(d, W) b = MatMul(h, W) c = Add(a, b) y = MatMul(c, W)",
        {"d": ["a"], "h": ["b"]},
    ),
}


@pytest.mark.parametrize(("body", "sites"), QDQ.values(), ids=QDQ)
def test_site_of_a_quantised_model(body: str, sites: dict[str, list[str]]):
    assert grouped(find_sites(model(body))) == sites


def test_site_knows_its_element_type():
    body = "h = Relu(x) w = Cast<to = 10>(W) a = MatMul(h, w) y = MatMul(a, w)"
    subject = model(body, "float16[4,4] x", "float16[4,4] y")
    assert [site.dtype for site in find_sites(subject).sites] == ["float16"]


# Options


def test_include_narrows_the_rule_and_does_not_widen_it():
    selection = find_sites(model(MLP), Selector(include=("fc", "stem")))
    assert [layer.name for layer in selection.layers] == ["fc1", "fc2"]
    assert refused(selection) == {"stem": "stem", "conv": "not-included", "y": "head"}


def test_include_and_exclude_are_searched_not_matched_in_full():
    selection = find_sites(model(MLP), Selector("all", include=("c",), exclude=("[12]$",)))
    assert [layer.name for layer in selection.layers] == ["conv"]
    assert refused(selection) == {
        "stem": "not-included",
        "fc1": "excluded",
        "fc2": "excluded",
        "y": "not-included",
    }


def test_op_types_narrow_the_rule():
    selection = find_sites(model(MLP), Selector("all", op_types=("Conv",)))
    assert [layer.name for layer in selection.layers] == ["conv"]
    refusal = selection.refusals[0]
    assert (refusal.code, refusal.reason) == ("op-type", "is not one of --op-types Conv")


def test_pattern_may_match_a_layer_that_is_refused_anyway():
    selection = find_sites(model(MLP), Selector(exclude=("stem",)))
    assert [layer.name for layer in selection.layers] == ["fc1", "fc2", "conv"]


BAD_SELECTORS = {
    "rule": (
        {"rule": "every"},
        "rule 'every' is unknown: use auto, mlp or all",
    ),
    "include": (
        {"include": ("fc(",)},
        r"pattern 'fc\(' is not a regular expression \(.+\): escape special characters",
    ),
    "exclude": (
        {"exclude": ("*",)},
        r"pattern '\*' is not a regular expression \(.+\): escape special characters",
    ),
    "op type": (
        {"op_types": ("conv",)},
        "operator 'conv' is no linear layer: use Conv, ConvTranspose, Gemm, MatMul",
    ),
    "a single pattern, whose letters would be patterns": (
        {"exclude": "fc1"},
        r"exclude = 'fc1' is one text, and many are expected: write \('fc1',\)",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_SELECTORS.values(), ids=BAD_SELECTORS)
def test_selector_is_refused(options, message: str):
    with pytest.raises(OptionError, match=message):
        Selector(**options)


UNMATCHED = {
    "include": (
        Selector(include=("fc3",)),
        "'fc3' matches none of 5 linear layers: the nearest are 'fc[12]', 'fc[12]', '",
    ),
    "exclude": (
        Selector(exclude=("fc2", "convolution")),
        "--exclude 'convolution' matches none of 5 linear layers: the nearest are 'conv', ",
    ),
    "case": (
        Selector(include=("CONV",)),
        "--include 'CONV' matches none of 5 linear layers: the nearest are ",
    ),
    "op type": (
        Selector(op_types=("ConvTranspose",)),
        "--op-types ConvTranspose matches nothing: the model has Conv, MatMul",
    ),
}


@pytest.mark.parametrize(("selector", "message"), UNMATCHED.values(), ids=UNMATCHED)
def test_pattern_that_matches_nothing_is_an_error(selector: Selector, message: str):
    with pytest.raises(SelectionError, match=message):
        find_sites(model(MLP), selector)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (
            Selector(include=("a",)),
            "--include 'a' matches none of 0 linear layers: it has none",
        ),
        (
            Selector(op_types=("Conv",)),
            "--op-types Conv matches nothing: the model has no linear layer",
        ),
    ],
)
def test_pattern_for_a_model_without_layers(selector: Selector, message: str):
    with pytest.raises(SelectionError, match=message):
        find_sites(model("y = Relu(x)"), selector)


def test_model_without_linear_layers_cannot_be_hardened():
    selection = find_sites(model("y = Relu(x)"))
    message = r"'m' has no linear layer \(Conv, .+ weight\), so there is nothing to harden"
    with pytest.raises(SelectionError, match=message):
        require_sites(selection, "m")


def test_nothing_selected_lists_the_reasons():
    selection = find_sites(
        model("a = MatMul(x, W) b = Relu(a) c = MatMul(b, W) y = MatMul(c, W)"),
        Selector(exclude=("c",)),
    )
    message = (
        r"'m': none of 3 linear layers is selected \(1 excluded, 1 graph-input, 1 head\): "
        "see 'lipcompile inspect', or pass --rule all"
    )
    with pytest.raises(SelectionError, match=message):
        require_sites(selection, "m")


def test_selection_with_sites_is_accepted():
    require_sites(find_sites(model(MLP)), "m")


# Every small graph


@st.composite
def random_bodies(draw: st.DrawFn) -> str:
    """Fifteen operators over tensors of one shape, drawn from what exporters write."""
    unary = ["Relu", "Sigmoid", "Identity", "Softmax", "Erf", "Transpose", "LeakyRelu"]
    lines, values = [], ["x"]
    for index in range(draw(st.integers(1, 15))):
        kind = draw(st.sampled_from(["unary", "layer", "layer", "bias", "binary"]))
        a, b = draw(st.sampled_from(values[-4:])), draw(st.sampled_from(values))
        call = {
            "unary": f"{draw(st.sampled_from(unary))}({a})",
            "layer": draw(
                st.sampled_from(
                    [f"MatMul({a}, W)", f"Gemm({a}, W, B)", f"MatMul(W, {a})", f"Conv({a}, K)"]
                )
            ),
            "bias": f"{draw(st.sampled_from(['Add', 'Mul', 'Sub']))}({a}, B)",
            "binary": f"{draw(st.sampled_from(['Add', 'Mul', 'MatMul', 'Sub']))}({a}, {b})",
        }[kind]
        lines.append(f"v{index} = {call}")
        values.append(f"v{index}")
    return " ".join([*lines, f"y = Identity({values[-1]})"])


@given(random_bodies())
@settings(max_examples=150, deadline=None)
def test_each_rule_is_a_subset_of_the_next_and_no_layer_is_lost(body: str):
    chosen = {}
    for rule in ("mlp", "auto", "all"):
        selection = find_sites(model(body), Selector(rule))
        names = [layer.name for layer in selection.layers]
        listed = [*names, *refused(selection)]
        assert len(listed) == len(set(listed))
        linear = [n for n in body.split(" ") if n.startswith(("Gemm", "Conv"))]
        assert len(linear) <= len(listed)
        chosen[rule] = set(names)
    assert chosen["mlp"] <= chosen["auto"] <= chosen["all"]
