"""The module: what it refuses, what it holds, and how it fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from lipcompile.errors import DataError, ModelError, RunFailure
from lipcompile.torchview import torch_view
from tests.torchview.graphs import graph, normal, runtime_values

Maker = Callable[[], onnx.ModelProto]
BRANCHES = """
    y = If <
        then_branch = a () => (float[n, 4] t) { m = Neg (w) t = Mul (x, m) },
        else_branch = b () => (float[n, 4] e) <float[4] k = {1, 2, 3, 4}> { e = Add (x, k) }
    > (yes)
"""


def branching() -> onnx.ModelProto:
    return graph(
        BRANCHES, inputs="float[n, 4] x, bool yes", weights="float[4] w = {1, 2, 3, 4}"
    )


# Values


@pytest.mark.parametrize("count", [1, 5])
def test_values_are_those_of_onnx_runtime(small_cnn: Maker, count: int) -> None:
    x = normal(count, 3, 8, 8)
    (expected,) = runtime_values(small_cnn(), x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(torch_view(small_cnn())(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("y = Softmax (x)", 11),
        ("y = LogSoftmax <axis = 0> (x)", 11),
        ("y = Hardmax <axis = 2> (x)", 11),
        ("y = Softmax (x)", 13),
        ("y = Clip <min = -0.5> (x)", 10),
        ("y = Clip (x, , top)", 12),
        ("y = ReduceSum <axes = [1, -1]> (x)", 11),
        ("y = ReduceSum <noop_with_empty_axes = 1> (x)", 13),
        ("y = ReduceMean <axes = [0], keepdims = 0> (x)", 17),
        ("y, i = TopK <k = 2, axis = 1> (x)", 9),
        ("y, m = Dropout <ratio = 0.9> (x)", 7),
        ("q = QuantizeLinear (x, top) y = DequantizeLinear (q, top)", 10),
    ],
)
def test_older_forms_of_operators(body: str, opset: int) -> None:
    """ONNX's node tests know only the newest."""
    model = graph(body, "float[n,3,4] x", "float[a,b,c] y", "float top = {0.25}", opset)
    model.ir_version = 4
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = normal(2, 3, 4)
    (expected,) = runtime_values(model, x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(torch_view(model)(x), expected, rtol=1e-5, atol=1e-6)


def test_chosen_outputs(small_cnn: Maker) -> None:
    view = torch_view(small_cnn(), outputs=["f", "y"])
    assert view.output_names == ("f", "y")
    features, logits = view(normal(2, 3, 8, 8))
    assert (features.shape, logits.shape) == ((2, 4), (2, 4))
    assert not (features < 0).any()


def test_random_nodes_draw_each_time() -> None:
    view = torch_view(graph("r = RandomNormal <shape = [4]> () y = Add (x, r)"))
    x = normal(2, 4)
    assert not torch.equal(view(x), view(x))


def test_dropout_passes_through() -> None:
    x = normal(2, 4)
    assert torch.equal(torch_view(graph("y = Dropout (x)"))(x), x)


# Weights


def test_weights_are_parameters_that_get_a_gradient(small_cnn: Maker) -> None:
    view = torch_view(small_cnn())
    view(normal(2, 3, 8, 8)).sum().backward()
    for tensor in small_cnn().graph.initializer:
        parameter = view.weight(tensor.name)
        np.testing.assert_array_equal(parameter.detach(), onnx.numpy_helper.to_array(tensor))
        assert parameter.grad is not None
        assert parameter.grad.any()
    assert len(list(view.parameters())) == len(small_cnn().graph.initializer)


def test_a_changed_weight_counts_although_only_weights_are_read() -> None:
    view = torch_view(graph("v = Neg (w) y = Mul (x, v)", weights="float w = {2}"))
    x = normal(2, 4)
    assert torch.equal(view(x), -2.0 * x)
    with torch.no_grad():
        view.weight("w").mul_(3.0)
    assert torch.equal(view(x), -6.0 * x)


def test_float64_view_of_a_float32_model(small_cnn: Maker) -> None:
    view = torch_view(small_cnn(), precision=torch.float64)
    assert {p.dtype for p in view.parameters()} == {torch.float64}
    x = normal(1, 3, 8, 8).double().requires_grad_()
    assert view(x).dtype == torch.float64
    assert torch.autograd.gradcheck(view, x, eps=1e-7)


def test_cast_to_float32_keeps_the_precision() -> None:
    model = graph("h = Cast <to = 1> (x) y = Mul (h, h)")
    assert torch_view(model, precision=torch.float64)(normal(2, 4).double()).dtype == (
        torch.float64
    )


# Subgraphs and functions


@pytest.mark.parametrize("yes", [True, False])
def test_if_runs_the_chosen_branch(yes: bool) -> None:
    x = normal(3, 4)
    (expected,) = runtime_values(branching(), x.numpy(), np.array(yes))
    found = torch_view(branching())(x, torch.tensor(yes))
    np.testing.assert_array_equal(found.detach(), expected)


def test_weight_that_a_branch_reads_gets_a_gradient() -> None:
    view = torch_view(branching())
    x = normal(3, 4)
    view(x, torch.tensor(True)).sum().backward()
    torch.testing.assert_close(view.weight("w").grad, -x.sum(0))


@pytest.mark.parametrize("attributes", ["", "<axes = [1]>"])
def test_function_body_is_expanded_with_its_defaults(attributes: str) -> None:
    model = graph(
        f"y = MeanVarianceNormalization {attributes} (x)",
        inputs="float[n, 3, 4, 5] x",
        outputs="float[n, 3, 4, 5] y",
    )
    x = normal(2, 3, 4, 5)
    (expected,) = runtime_values(model, x.numpy())
    np.testing.assert_allclose(torch_view(model)(x), expected, rtol=1e-4, atol=1e-5)


LOCAL = """
<ir_version: 8, opset_import: ["": 17, "mine": 1]>
g (float[n, 4] x) => (float[n, 4] y) {
    h = mine.twice (x)
    y = mine.twice (h)
}
<domain: "mine", opset_import: ["": 17]>
twice (a) => (b) { b = Add (a, a) }
"""


def test_local_functions_are_expanded() -> None:
    x = normal(2, 4)
    assert torch.equal(torch_view(onnx.parser.parse_model(LOCAL))(x), 4.0 * x)


# Refusals


def test_missing_operators_are_all_named() -> None:
    model = graph(
        "a = Det (x) b = NonMaxSuppression (boxes, scores) y = Cast <to = 1> (b)",
        inputs="float[4, 4] x, float[1, n, 4] boxes, float[1, 1, n] scores",
        outputs="float[m, 3] y",
    )
    with pytest.raises(
        ModelError,
        match=r"has no operator 'Det' \(node 'a'\), 'NonMaxSuppression' \(node 'b'\); export",
    ):
        torch_view(model)


def test_missing_operator_of_a_branch_is_named() -> None:
    model = graph(
        "y = If <then_branch = a () => (float t) { t = Det (x) },"
        " else_branch = b () => (float e) { e = ReduceMax <keepdims = 0> (x) }> (yes)",
        inputs="float[4, 4] x, bool yes",
        outputs="float y",
    )
    with pytest.raises(ModelError, match="no operator 'Det'"):
        torch_view(model)


def test_operator_of_a_foreign_domain_is_named_with_it() -> None:
    model = graph("y = Relu (x)")
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)
    with pytest.raises(ModelError, match="no operator 'com.microsoft.Relu'"):
        torch_view(model)


@pytest.mark.parametrize(
    ("body", "output", "reason"),
    [
        (
            "y = Cast <to = 17> (x)",
            "float8e4m3fn[n,4] y",
            "Cast node 'y': it gives element type FLOAT8E4M3FN, which torch lacks",
        ),
        (
            'y = Constant <value_string = "a"> ()',
            "string y",
            "Constant node 'y': it gives 'value_string', which is no tensor of numbers",
        ),
    ],
    ids=["float8", "string"],
)
def test_use_of_an_operator_is_refused(body: str, output: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"cannot run {reason}"):
        torch_view(graph(body, outputs=output, opset=21))


def test_number_of_inputs_is_checked(small_cnn: Maker) -> None:
    x = normal(1, 3, 8, 8)
    with pytest.raises(DataError, match=r"takes 1 inputs \(x\), got 2: give one tensor"):
        torch_view(small_cnn())(x, x)


# Failures


def test_failing_step_names_its_node(small_cnn: Maker) -> None:
    with pytest.raises(RunFailure, match=r"run Conv node 'Conv_c' on inputs of shape \[1, 2,"):
        torch_view(small_cnn())(normal(1, 2, 8, 8))


def test_failing_step_of_a_branch_names_its_node() -> None:
    with pytest.raises(RunFailure, match=r"Mul node 't' on inputs of shape \[3, 5\], \[4\]"):
        torch_view(branching())(normal(3, 5), torch.tensor(True))


def test_static_batch_runs_its_own_size_only() -> None:
    model = graph(
        "h = Reshape (x, shape) y = Relu (h)",
        inputs="float[2, 2, 2] x",
        outputs="float[2, 4] y",
        weights="int64[2] shape = {2, 4}",
    )
    view = torch_view(model)
    assert view(normal(2, 2, 2)).shape == (2, 4)
    with pytest.raises(RunFailure, match="Reshape node 'h'"):
        view(normal(3, 2, 2))
