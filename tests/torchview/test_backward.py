"""Surrogates change gradients and no value: forged functions, rounding, quantisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

import lipcompile
from lipcompile import Selector
from lipcompile.errors import ModelError, OptionError
from lipcompile.forged import FORMS, TARGETS, Target
from lipcompile.records import read_sites
from lipcompile.torchview import torch_view
from lipcompile.torchview.backward import Gradient
from tests.forging import model as small_model
from tests.torchview.graphs import graph, normal, runtime_values

Maker = Callable[[], onnx.ModelProto]
# After the site of Gemm_y everything is linear, so that "identity" gives the gradient of the
# original model; in front of it stands a Relu, which `hard` replaces.
LAST = Selector("all", include=("^Gemm_y$",))
forms = pytest.mark.parametrize("form", list(FORMS))


def images(count: int = 16) -> torch.Tensor:
    return normal(count, 3, 8, 8)


def hardened(
    model: onnx.ModelProto, form: str, cr: float = 0.25, selector: Selector = LAST
) -> onnx.ModelProto:
    done = lipcompile.harden(model, images().numpy(), form=form, cr=cr, selector=selector)
    return done.model


def input_gradient(view: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of the first logit."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(view(leaf)[:, 0].sum(), leaf)[0]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


# Forged functions


@forms
@pytest.mark.parametrize("gradient", ["identity", "smooth"])
@pytest.mark.parametrize("selector", [LAST, Selector(), Selector("all")], ids=str)
def test_values_do_not_change(
    small_cnn: Maker, form: str, gradient: str, selector: Selector
) -> None:
    model = hardened(small_cnn(), form, selector=selector)
    exact = torch_view(model)(images())
    surrogate = torch_view(model, gradient=gradient)(images())
    assert torch.equal(exact, surrogate)
    assert not torch.equal(exact, torch_view(small_cnn())(images()))


@forms
def test_identity_has_the_gradient_of_the_original(small_cnn: Maker, form: str) -> None:
    model = hardened(small_cnn(), form)
    original = input_gradient(torch_view(small_cnn()), images())
    identity = input_gradient(torch_view(model, gradient="identity"), images())
    exact = input_gradient(torch_view(model), images())
    torch.testing.assert_close(identity, original)
    assert not torch.allclose(exact, original)


@forms
def test_smooth_has_the_gradient_of_a_gate(small_cnn: Maker, form: str) -> None:
    """x sigmoid(4 (|x| / c - 1)) at the site, everything else as in the original."""
    model = hardened(small_cnn(), form)
    c = read_sites(metadata(model))[0]["c"]
    to_site = torch_view(small_cnn(), outputs=["s"])
    weight = torch_view(small_cnn()).weight("fc2_w").detach()

    def gated(x: torch.Tensor) -> torch.Tensor:
        site = to_site(x)
        return site * torch.sigmoid(4.0 * (site.abs() / c - 1.0)) @ weight

    smooth = input_gradient(torch_view(model, gradient="smooth"), images())
    leaf = images().requires_grad_()
    expected = torch.autograd.grad(gated(leaf)[:, 0].sum(), leaf)[0]
    torch.testing.assert_close(smooth, expected)


def test_relu_was_replaced(small_cnn: Maker) -> None:
    """Without these the tests above would miss the encodings that take the Relu's input."""
    operators = [node.op_type for node in hardened(small_cnn(), "hard").graph.node]
    assert operators.count("Relu") == 1
    assert "ThresholdedRelu" in operators
    (record,) = read_sites(metadata(hardened(small_cnn(), "soft")))
    assert (record["way"], record["at"]) == ("bias", "s")


def test_surrogate_passes_where_exact_is_zero(small_cnn: Maker) -> None:
    model = hardened(small_cnn(), "hard", cr=0.99)
    x = 0.5 * images()
    assert not input_gradient(torch_view(model), x).any()
    assert input_gradient(torch_view(model, gradient="identity"), x).any()


def test_unknown_gradient_is_refused(small_cnn: Maker) -> None:
    with pytest.raises(
        OptionError, match="gradient = 'bpda' is unknown: use exact, quantised"
    ):
        torch_view(small_cnn(), gradient="bpda")


def test_damaged_provenance_is_refused(small_cnn: Maker) -> None:
    model = hardened(small_cnn(), "smooth")
    for entry in model.metadata_props:
        if entry.key == "lipcompile.sites":
            entry.value = entry.value[:-5]
    with pytest.raises(ModelError, match="'lipcompile.sites' is damaged"):
        torch_view(model, gradient="identity")


def renamed(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """The model as a tool leaves it that gives tensors names of its own."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("gradient", ["identity", "smooth"])
@pytest.mark.parametrize(
    ("form", "name"),
    [("smooth", "at"), ("smooth", "forged"), ("hard", "at"), ("soft", "at")],
)
def test_provenance_of_tensors_that_were_renamed_is_refused(
    small_cnn: Maker, form: str, name: str, gradient: Gradient
) -> None:
    """A surrogate that is silently left out would call the model robust."""
    model = hardened(small_cnn(), form)
    record = read_sites(metadata(model))[0]
    torch_view(model, gradient=gradient)
    renamed(model, record[name], "17")
    match = f"names the tensors '{record['at']}' and '{record['forged']}', and the graph"
    with pytest.raises(ModelError, match=match + " lacks one: a tool changed the file"):
        torch_view(model, gradient=gradient)
    torch_view(model)  # the exact gradient needs no names


def test_tensors_that_no_site_names_may_be_renamed(small_cnn: Maker) -> None:
    model = renamed(hardened(small_cnn(), "smooth"), "p", "17")
    torch_view(model, gradient="identity")


# Forms that were hoisted, or folded into a bias

TABLE = "float[n,4] y"
FRONT = "z = Conv(x, E, B) "
POOL = "m = MaxPool<kernel_shape = [2, 2]>(r) "
PLACED: dict[str, tuple[str, int]] = {
    "over Flatten": (FRONT + "r = Relu(z) f = Flatten(r) y = Gemm(f, F, D)", 17),
    "over two": (
        FRONT + "r = Relu(z) t = Transpose<perm = [0, 1, 3, 2]>(r) f = Flatten(t) "
        "y = Gemm(f, F, D)",
        17,
    ),
    "at no activation": (FRONT + "r = Tanh(z) f = Flatten(r) y = Gemm(f, F, D)", 17),
    "behind ReLU6": (FRONT + "r = Clip(z, ZERO, SIX) f = Flatten(r) y = Gemm(f, F, D)", 17),
    "behind ReLU6 of opset 10": (
        FRONT + "r = Clip<max = 2.0, min = 0.0>(z) f = Flatten(r) y = Gemm(f, F, D)",
        10,
    ),
}
placed_graphs = pytest.mark.parametrize(("body", "opset"), PLACED.values(), ids=PLACED)
HEAD = Selector("all", include=("^y$",))


def pixels() -> torch.Tensor:
    return normal(3, 4, 6, 6)


def placed(
    body: str, opset: int, form: str, target: Target
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The original, and hardened: both linear behind their only site."""
    original = small_model(body, TABLE, "float[n,4,6,6] x", opset)
    done = lipcompile.harden(
        original, pixels().numpy(), form=form, cr=0.2, target=target, selector=HEAD
    )
    return original, done.model


@forms
@pytest.mark.parametrize("target", TARGETS)
@placed_graphs
def test_surrogates_of_placed_forms_change_no_value_and_pass_the_gradient(
    body: str, opset: int, form: str, target: Target
) -> None:
    original, model = placed(body, opset, form, target)
    exact = torch_view(model)
    for gradient in ("identity", "smooth"):
        view = torch_view(model, gradient=gradient)
        assert torch.equal(exact(pixels()), view(pixels()))
    identity = input_gradient(torch_view(model, gradient="identity"), pixels())
    expected = input_gradient(torch_view(original), pixels())
    torch.testing.assert_close(identity, expected)
    assert not torch.allclose(input_gradient(exact, pixels()), expected)


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ("r = Relu(z)", [0, 0, 1, 1, 1]),
        ("r = Clip(z, ZERO, SIX)", [0, 0, 1, 1, 0]),
    ],
    ids=["Relu", "Clip"],
)
def test_gradient_passes_above_zero_not_above_the_threshold(
    body: str, passes: list[int]
) -> None:
    """At 0 < z < c, where relu(z - c) is flat; and a Clip stays flat above its bound."""
    eye = np.eye(4, dtype=np.float32)
    head = f"z = Gemm(x, W, D) {body} y = MatMul(r, W)"
    model = small_model(head, TABLE, W=eye, D=np.zeros(4, np.float32))
    row = np.array([[0, 0, 0, 10]], np.float32)
    done = lipcompile.harden(model, row, form="soft", cr=0.1, selector=HEAD)
    (record,) = read_sites(metadata(done.model))
    assert record["way"] == "bias"
    line = torch.tensor([-1.0, -0.1, 0.1 * record["c"], 2.0, 9.0])[:, None].repeat(1, 4)
    leaf = line.clone().requires_grad_()
    torch_view(done.model, gradient="identity")(leaf).sum().backward()
    assert leaf.grad[:, 0].tolist() == passes
    exact = line.clone().requires_grad_()
    torch_view(done.model)(exact).sum().backward()
    assert exact.grad[:, 0].tolist() == [0, 0, 0, *passes[3:]]


@forms
@pytest.mark.parametrize("target", TARGETS)
def test_two_sites_with_one_anchor_have_one_surrogate(form: str, target: Target) -> None:
    body = FRONT + "r = Relu(z) y = Conv(r, E) f = Flatten(r) o = Gemm(f, F, D)"
    original = small_model(body, "float[n,4,6,6] y, float[n,4] o", "float[n,4,6,6] x")
    later = Selector("all", include=("^y$", "^o$"))
    done = lipcompile.harden(
        original, pixels().numpy(), form=form, cr=0.2, target=target, selector=later
    )
    assert {r["at"] for r in read_sites(metadata(done.model))} == {"r"}

    def gradients(view: torch.nn.Module) -> torch.Tensor:
        leaf = pixels().requires_grad_()
        return torch.autograd.grad(sum(part.sum() for part in view(leaf)), leaf)[0]

    identity = gradients(torch_view(done.model, gradient="identity"))
    torch.testing.assert_close(identity, gradients(torch_view(original)))


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_gradient_passes_a_pooling_that_a_form_was_hoisted_over(form: str) -> None:
    """In a window that is suppressed as a whole it reaches one element, as exactly none."""
    body = FRONT + f"r = Relu(z) {POOL} f = Flatten(m) y = Gemm(f, P, D)"
    weights = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    original = small_model(body, TABLE, "float[n,4,6,6] x", P=weights)
    done = lipcompile.harden(original, pixels().numpy(), form=form, cr=0.99, selector=HEAD)
    (record,) = read_sites(metadata(done.model))
    assert record["at"] == "r"
    x = 0.5 * pixels()
    assert not input_gradient(torch_view(done.model), x).any()
    found = input_gradient(torch_view(done.model, gradient="identity"), x)
    assert found.any(dim=(1, 2, 3)).all()


# Steps without provenance


LINE = torch.tensor([[-2.0, -0.25, 0.25, 2.0]])


@pytest.mark.parametrize("gradient", ["identity", "smooth"])
@pytest.mark.parametrize(
    ("body", "exact", "surrogate"),
    [
        ("y = Shrink <lambd = 0.5> (x)", [1, 0, 0, 1], [1, 1, 1, 1]),
        ("y = Shrink <lambd = 0.5, bias = 0.5> (x)", [1, 0, 0, 1], [1, 1, 1, 1]),
        ("y = ThresholdedRelu <alpha = 0.5> (x)", [0, 0, 0, 1], [0, 0, 1, 1]),
        ("y = Relu (x)", [0, 0, 1, 1], [0, 0, 1, 1]),  # nothing to replace
    ],
    ids=["hard shrink", "soft shrink", "thresholded relu", "relu"],
)
def test_steps_are_known_without_provenance(
    body: str, exact: list[int], surrogate: list[int], gradient: Gradient
) -> None:
    """As in a file whose metadata was stripped, or a defence of someone else's."""
    model, gradients, values = graph(body), [], []
    both: tuple[Gradient, Gradient] = ("exact", gradient)
    for chosen in both:
        view, leaf = torch_view(model, gradient=chosen), LINE.clone().requires_grad_()
        values.append(view(leaf).detach())
        gradients.append(torch.autograd.grad(view(leaf).sum(), leaf)[0][0].tolist())
    assert gradients == [exact, surrogate]
    assert torch.equal(*values)


def test_stripped_metadata_leaves_the_surrogate_of_a_thresholded_relu(
    small_cnn: Maker,
) -> None:
    model = hardened(small_cnn(), "hard")
    known = input_gradient(torch_view(model, gradient="identity"), images())
    model.ClearField("metadata_props")
    stripped = input_gradient(torch_view(model, gradient="identity"), images())
    assert torch.equal(known, stripped)
    assert not torch.equal(known, input_gradient(torch_view(model), images()))


# Rounding


@pytest.mark.parametrize("op", ["Round", "Floor", "Ceil", "Sign"])
def test_rounding_passes_the_gradient_through(op: str) -> None:
    model, x = graph(f"y = {op} (x)"), normal(3, 4)
    exact, identity = torch_view(model), torch_view(model, gradient="identity")
    assert torch.equal(exact(x), identity(x))
    assert not input_gradient(exact, x).any()
    assert input_gradient(identity, x)[:, 0].eq(1.0).all()


def test_rounding_in_a_branch_passes_the_gradient_through() -> None:
    model = graph(
        "y = If <then_branch = a () => (float[n, 4] t) { t = Round (x) },"
        " else_branch = b () => (float[n, 4] e) { e = Identity (x) }> (yes)",
        inputs="float[n, 4] x, bool yes",
    )
    x = normal(3, 4).requires_grad_()
    torch_view(model, gradient="identity")(x, torch.tensor(True)).sum().backward()
    assert x.grad.eq(1.0).all()


# Where an exact gradient is a convention


def exact_gradient(model: onnx.ModelProto, x: torch.Tensor) -> list[list[float]]:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(torch_view(model)(leaf).sum(), leaf)[0].tolist()


def test_l2_has_gradient_zero_at_zero() -> None:
    model = graph("y = ReduceL2 (x)", outputs="float y")
    assert exact_gradient(model, torch.zeros(1, 4)) == [[0.0] * 4]


@pytest.mark.parametrize("opset", [10, 13])
def test_clip_has_gradient_one_at_its_bounds(opset: int) -> None:
    weights = "float l = {-1}, float h = {1}" if opset > 10 else ""
    body = "y = Clip (x, l, h)" if opset > 10 else "y = Clip <min = -1.0, max = 1.0> (x)"
    x = torch.tensor([[-2.0, -1.0, 1.0, 2.0]])
    assert exact_gradient(graph(body, weights=weights, opset=opset), x) == [[0, 1, 1, 0]]


def test_square_of_negatives_brings_no_nan() -> None:
    view = torch_view(graph("y = Pow (x, two)", weights="float two = {2}"))
    x = torch.full((1, 4), -3.0, requires_grad=True)
    view(x).sum().backward()
    assert x.grad.tolist() == [[-6.0] * 4]
    assert view.weight("two").grad is None


# Quantisation

PAIR = "q = QuantizeLinear {attributes} (x, s, z) y = DequantizeLinear {attributes} (q, s, z)"
UINT8 = (PAIR.format(attributes=""), "float s = {0.5}, uint8 z = {10}")
INT8 = (PAIR.format(attributes=""), "float s = {0.25}, int8 z = {-3}")
PER_AXIS = (
    PAIR.format(attributes="<axis = 1>"),
    "float[4] s = {0.5, 0.25, 1, 2}, int8[4] z = {0, 10, -10, 1}",
)
LEVELS = {
    "uint8": (UINT8, 0.5, 10.0, 0, 255),
    "int8": (INT8, 0.25, -3.0, -128, 127),
    "per axis": (
        PER_AXIS,
        torch.tensor([0.5, 0.25, 1.0, 2.0]),
        torch.tensor([0.0, 10.0, -10.0, 1.0]),
        -128,
        127,
    ),
}


def wide_range() -> torch.Tensor:
    """Inside and outside of every clipping range; halves of a level among them."""
    return torch.linspace(-300.0, 300.0, 4801).repeat_interleave(4).reshape(-1, 4)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("gradient", ["exact", "identity", "smooth"])
def test_quantised_values_are_those_of_onnx_runtime(kind: str, gradient: str) -> None:
    body, weights = LEVELS[kind][0]
    model, x = graph(body, weights=weights), wide_range()
    (expected,) = runtime_values(model, x.numpy())
    np.testing.assert_array_equal(
        torch_view(model, gradient=gradient)(x).detach().numpy(), expected
    )


@pytest.mark.parametrize("kind", LEVELS)
def test_quantising_passes_the_gradient_inside_the_range(kind: str) -> None:
    (body, weights), scale, zero, low, high = LEVELS[kind]
    model, x = graph(body, weights=weights), wide_range()
    level = torch.round(x / scale) + zero
    inside = (level >= low) & (level <= high)
    assert inside.any()
    assert not inside.all()
    for gradient in ("identity", "smooth"):
        leaf = x.clone().requires_grad_()
        torch_view(model, gradient=gradient)(leaf).sum().backward()
        torch.testing.assert_close(leaf.grad, inside.float(), msg=gradient)


def test_exact_gradient_of_quantising_is_zero() -> None:
    body, weights = UINT8
    assert not input_gradient(torch_view(graph(body, weights=weights)), normal(3, 4)).any()


@pytest.mark.parametrize("gradient", ["exact", "identity"])
@pytest.mark.parametrize(
    "body",
    [
        "q = QuantizeLinear (x, s, z) y = Identity (q)",
        "y = QuantizeLinear (x, s, z) w = DequantizeLinear (y, s, z)",
    ],
    ids=["other reader", "output"],
)
def test_quantised_tensor_that_others_see_holds_integers(body: str, gradient: str) -> None:
    model = graph(
        body, outputs="uint8[n,4] y", weights="float s = {0.5}, uint8 z = {10}", opset=21
    )
    x = normal(3, 4)
    found = torch_view(model, gradient=gradient)(x)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), runtime_values(model, x.numpy())[0])


FINE = "float s = {0.0009765625}, int16 z = {0}"
AFTER = {
    "nothing": ("y = Identity (d)", [1, 1, 1, 1]),
    "ThresholdedRelu": ("y = ThresholdedRelu <alpha = 0.5> (d)", [0, 0, 0, 1]),
    "Shrink": ("y = Shrink <lambd = 0.5> (d)", [1, 0, 0, 1]),
    "Round": ("y = Round (d)", [0, 0, 0, 0]),
    "Sign": ("y = Sign (d)", [0, 0, 0, 0]),
}


@pytest.mark.parametrize("after", AFTER)
def test_quantised_passes_quantisation_alone(after: str) -> None:
    """What a plain attacker of an int8 graph uses: everything else keeps its own gradient."""
    body, expected = AFTER[after]
    qdq = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
    model, found = graph(qdq + body, weights=FINE, opset=21), {}
    gradients: tuple[Gradient, ...] = ("exact", "quantised", "identity")
    for gradient in gradients:
        leaf = LINE.clone().requires_grad_()
        total = torch_view(model, gradient=gradient)(leaf).sum()
        found[gradient] = torch.autograd.grad(total, leaf)[0][0].tolist()
    assert found["exact"] == [0, 0, 0, 0]
    assert found["quantised"] == expected
    assert found["identity"] == ([0, 0, 1, 1] if after == "ThresholdedRelu" else [1] * 4)


@forms
def test_quantised_leaves_forged_functions_exact(small_cnn: Maker, form: str) -> None:
    model = hardened(small_cnn(), form)
    gradients: tuple[Gradient, ...] = ("exact", "quantised", "identity")
    exact, quantised, identity = (
        input_gradient(torch_view(model, gradient=gradient), images())
        for gradient in gradients
    )
    assert torch.equal(exact, quantised)
    assert not torch.equal(exact, identity)
