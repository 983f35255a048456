"""The two ways to run an ensemble: what each does to a graph, and which one is taken."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import ModelError
from tests.ensembles.models import Network, in_runtime, small, wrapped
from tests.ensembles.seen import VIEWS
from tests.ensembles.test_wrapped_structure import as_bytes, unwrapped

# Branches


def test_what_does_not_depend_on_the_image_is_shared() -> None:
    """Nor is what no score needs copied, nor what stands behind the scores."""
    proto = small(
        "w = Mul(W, TWO) c = Constant<value = float[1] {0.5}>() f = Flatten(p) "
        "n = Neg(f) o = Abs(n) m = MatMul(f, w) z = Add(m, c) y = Softmax(z)"
    )
    model = wrapped(proto, "flip*shift:1", "branches", mean="logits")
    counts = Counter(node.op_type for node in model.graph.node)
    assert len(VIEWS["flip*shift:1"]) == 10
    for once in ("Mul", "Neg", "Abs", "Softmax", "Mean"):
        assert counts[once] == 1
    for each in ("Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul", "Add"):
        assert counts[each] == 10
    constants = [n for n in model.graph.node if n.op_type == "Constant"]
    assert sum("c" in n.output for n in constants) == 1
    readers = [n.input[1] for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Add")]
    assert set(readers) == {"K", "w", "c"}


def test_copies_are_named_after_what_they_copy() -> None:
    proto = small("f = Flatten(p) y = MatMul(f, W)")
    for node in proto.graph.node[:3]:
        node.name = f"node of {node.output[0]}"
    model = wrapped(proto, "flip", "branches")
    names = Counter(node.name for node in model.graph.node if node.name)
    assert set(names.values()) == {1}
    mark = "lipcompile.ensemble/1/"
    copies = [node for node in model.graph.node if node.output[0].startswith(mark)]
    assert [n.op_type for n in copies] == [n.op_type for n in proto.graph.node]
    assert [n.name for n in copies[:3]] == [f"{mark}node of {output}" for output in "arp"]


def test_outputs_that_are_left_out_stay_left_out() -> None:
    proto = small(
        "q = MaxPool<kernel_shape = [2, 2]>(r) s = GlobalAveragePool(q) "
        "f = Flatten(s) y = MatMul(f, W)"
    )
    next(n for n in proto.graph.node if n.op_type == "MaxPool").output.append("")
    for way in ("batch", "branches"):
        model = wrapped(proto, "flip", way)
        onnx.checker.check_model(model, full_check=True)
        pools = [n for n in model.graph.node if n.op_type == "MaxPool"]
        assert {name for n in pools for name in n.output[1:]} <= {""}
        assert as_bytes(unwrapped(model)) == proto.SerializeToString(deterministic=True)


def test_another_input_is_shared() -> None:
    proto = small(
        "f = Flatten(p) m = MatMul(f, W) y = Add(m, o)", more_inputs=", float[N,5] o"
    )
    with pytest.raises(ModelError, match="takes 2 inputs, so its batch cannot hold all views"):
        wrapped(proto, "flip", "batch")
    model = wrapped(proto, "flip", "branches")
    feeds = [node.input[1] for node in model.graph.node if node.op_type == "Add"]
    assert feeds == ["o", "o"]
    assert as_bytes(unwrapped(model)) == proto.SerializeToString(deterministic=True)


IF = (
    "f = Flatten(p) c = If(YES) <then_branch = t () => (float[N,6] q) { q = Neg(f) }, "
    "else_branch = e () => (float[N,6] s) { s = Identity(f) }> y = MatMul(c, W)"
)


def test_subgraphs_are_not_copied() -> None:
    with pytest.raises(ModelError, match=r"\(If\) stands between image and scores and has a "):
        wrapped(small(IF), "flip", "branches")


def test_subgraphs_run_in_one_batch() -> None:
    proto = small(IF)
    model = lipcompile.harden(proto, ensemble="flip").model
    x = np.random.default_rng(1).normal(size=(3, 3, 12, 16)).astype(np.float32)
    mean = (in_runtime(proto, x) + in_runtime(proto, x[..., ::-1].copy())) / 2
    np.testing.assert_allclose(in_runtime(model, x), mean, rtol=1e-5, atol=1e-5)


# One batch


def shapes(proto: onnx.ModelProto) -> dict[str, list[str]]:
    return {
        info.name: [d.dim_param or str(d.dim_value) for d in info.type.tensor_type.shape.dim]
        for info in proto.graph.value_info
    }


@pytest.mark.parametrize("name", ["flip", "shift:2"])
def test_what_is_said_of_tensors_inside_is_renamed_and_restored(name: str) -> None:
    proto = onnx.shape_inference.infer_shapes(Network().proto())
    before = shapes(proto)
    assert {shape[0] for shape in before.values()} == {"N"}
    model = wrapped(proto, name, "batch")
    count = len(VIEWS[name])
    assert shapes(model) == {k: [f"{count}*N", *v[1:]] for k, v in before.items()}
    onnx.checker.check_model(model, full_check=True)
    assert as_bytes(unwrapped(model)) == proto.SerializeToString(deterministic=True)
    assert shapes(wrapped(proto, name, "branches")) == before


@pytest.mark.parametrize(("opset", "said"), [(13, None), (18, 6), (21, 6)])
def test_split_says_how_many_parts_where_it_must(opset: int, said: int | None) -> None:
    """ONNX Runtime and the checker let it pass without; the operator's page does not."""
    model = wrapped(Network(opset).proto(), "flip+shift:1", "batch")
    (split,) = (node for node in model.graph.node if node.op_type == "Split")
    assert len(split.output) == 6
    assert {a.name: a.i for a in split.attribute}.get("num_outputs") == said


def test_a_fixed_batch_with_such_words_is_run_in_branches() -> None:
    proto = onnx.shape_inference.infer_shapes(Network(batch="4").proto())
    with pytest.raises(ModelError, match="takes batches of exactly 4 and says so of tensors"):
        wrapped(proto, "flip", "batch")
    assert way_taken(proto) == "branches"


# The way that holds


MIXED = "f = Flatten(p) m = ReduceMean<axes = [0]>(f) g = Sub(f, m) y = MatMul(g, W)"
ONE_ROW = "f = Reshape(p, ONE_ROW) y = MatMul(f, W)"


def way_taken(proto: onnx.ModelProto, **options: Any) -> str:
    result = lipcompile.harden(proto, ensemble=EnsembleOptions("flip", **options))
    assert result.ensemble is not None
    return result.ensemble.way


def test_the_cheaper_way_is_taken_where_it_gives_the_mean() -> None:
    assert way_taken(small("f = Flatten(p) y = MatMul(f, W)")) == "batch"
    assert way_taken(small("f = Flatten(p) y = MatMul(f, W)", batch="1")) == "batch"
    assert way_taken(small("f = Flatten(p) y = MatMul(f, W)"), by="branches") == "branches"


@pytest.mark.parametrize(
    ("body", "batch", "reason"),
    [
        (MIXED, "N", "has a ReduceMean .* that reduces over the batch, so its batch cannot"),
        (ONE_ROW, "1", "does not run on all views in one batch"),
        (ONE_ROW, "N", "does not run on all views in one batch"),
    ],
)
def test_a_model_whose_batch_cannot_be_larger_runs_in_branches(
    body: str, batch: str, reason: str
) -> None:
    proto = small(body, batch)
    assert way_taken(proto) == "branches"
    with pytest.raises(ModelError, match=reason):
        way_taken(proto, by="batch")
