"""Zeroed columns: which ones go, what stays, and that `hard` in front makes it exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import lipcompile
from lipcompile import Selector, model_io, runtime
from lipcompile.calibration.counting import SiteCounts
from lipcompile.errors import OptionError, TableError
from lipcompile.forged.hard import Hard
from lipcompile.linear_layers import LinearLayer, Refusal
from lipcompile.passes.zero_columns import ColumnPlan, ZeroColumns, plan_columns
from lipcompile.sites import find_sites
from lipcompile.weights import Columns, layer_columns, stored_weight
from tests.counted_layers import (
    CASES,
    FIXED,
    HALF,
    QUANTISED,
    WEIGHTS,
    Case,
    load,
    on_a_grid,
    session,
    site_of,
    suppressed,
)

C = 0.5
ALL = Selector("all")
STORED = {"DequantizeLinear": QUANTISED, "Cast": HALF}


def small_features(case: Case, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Features 1 and 3 never pass C, though they reach it; 0 and 2 do."""
    x = on_a_grid(case.shape, dtype, seed)
    rows = np.moveaxis(x, 0 if x.ndim == 1 else case.axis, 0)
    rows[[1, 3]] = np.clip(rows[[1, 3]], -C, C)
    rows[[0, 2]] = np.where(np.abs(rows[[0, 2]]) > C, rows[[0, 2]], 2)
    return x


def counts_of(case: Case, x: np.ndarray, c: float = C) -> SiteCounts:
    seen, below = suppressed(x, case.axis, c)
    return SiteCounts("h", case.axis, c, seen, tuple(below))


def layer_of(loaded: model_io.LoadedModel) -> LinearLayer:
    (layer,) = site_of(loaded).layers
    return layer


def planned(
    loaded: model_io.LoadedModel, counts: SiteCounts, zero_rate: float = 1.0
) -> ColumnPlan:
    plan = plan_columns(layer_of(loaded), counts, zero_rate)
    assert isinstance(plan, ColumnPlan)
    return plan


def zeroed(loaded: model_io.LoadedModel, *plans: ColumnPlan) -> onnx.ModelProto:
    ZeroColumns(plans)(loaded.graph_ir)
    proto = model_io.render(loaded.proto, loaded.graph_ir)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: onnx.ModelProto, x: np.ndarray, optimize: bool = True) -> np.ndarray:
    return session(proto, optimize=optimize).run(None, {"x": x})[0]


# What is decided


@pytest.mark.parametrize(
    ("zero_rate", "columns"),
    [(1.0, (3,)), (0.9, (2, 3)), (0.91, (3,)), (0.5, (1, 2, 3)), ("0.9", (2, 3))],
)
def test_columns_go_from_the_zero_rate_on(zero_rate: float, columns: tuple[int, ...]) -> None:
    loaded = load(CASES["MatMul"])
    counts = SiteCounts("h", -1, C, 10, (4, 5, 9, 10))
    plan = planned(loaded, counts, zero_rate)
    assert plan == ColumnPlan(layer_of(loaded), columns, 4, "h", C)


def test_planning_edits_nothing() -> None:
    loaded = load(CASES["Conv"])
    planned(loaded, counts_of(CASES["Conv"], small_features(CASES["Conv"])))
    assert model_io.render(loaded.proto, loaded.graph_ir) == loaded.proto


@pytest.mark.parametrize(
    ("body", "counts", "code", "reason"),
    [
        (
            "v = Exp(W) y = MatMul(h, v)",
            (0, 0, 0, 10),
            "weight-form",
            "its weight is made by Exp",
        ),
        (
            "y = MatMul(h, W)",
            (10, 10, 10, 10),
            "all-suppressed",
            "would be left with its bias: every element of each input feature is suppressed",
        ),
        (
            "v = DequantizeLinear<axis = 1>(Q, QS, QZ) a = MatMul(h, v) b = MatMul(x, v) "
            "y = Add(a, b)",
            (0, 0, 0, 10),
            "weight-form",
            "its weight is quantised, and shared with another operator",
        ),
    ],
)
def test_a_layer_that_is_left_alone_says_why(
    body: str, counts: tuple[int, ...], code: str, reason: str
) -> None:
    layer = layer_of(load(Case((7, 4), -1, body)))
    refusal = plan_columns(layer, SiteCounts("h", -1, C, 10, counts))
    assert refusal == Refusal(layer.name, "MatMul", code, reason, layer.position)


def test_all_suppressed_at_a_lower_rate_names_it() -> None:
    layer = layer_of(load(CASES["MatMul"]))
    refusal = plan_columns(layer, SiteCounts("h", -1, C, 10, (9, 9, 9, 10)), 0.9)
    assert isinstance(refusal, Refusal)
    assert "90.00 % or more of each input feature" in refusal.reason


@pytest.mark.parametrize("rate", [0, -0.5, 1.0001, float("nan"), float("inf"), "x", None])
def test_a_zero_rate_out_of_range(rate: float) -> None:
    layer = layer_of(load(CASES["MatMul"]))
    message = r"zero rate = .* (is out of range: .* 0 < zero rate <= 1|is no number: write it)"
    with pytest.raises(OptionError, match=message):
        plan_columns(layer, SiteCounts("h", -1, C, 10, (1, 2, 3, 4)), rate)


@pytest.mark.parametrize(("axis", "features"), [(-2, 4), (1, 4), (-1, 3), (-1, 5)])
def test_the_counts_of_another_layer(axis: int, features: int) -> None:
    layer = layer_of(load(CASES["MatMul"]))
    message = rf"reads 4 features along axis -1, .* 'h' are of {features} along axis {axis}"
    with pytest.raises(TableError, match=message):
        plan_columns(layer, SiteCounts("h", axis, C, 10, (10,) * features))


# What is edited


def weights_of(loaded: model_io.LoadedModel, proto: onnx.ModelProto) -> np.ndarray:
    again = model_io.load(proto)
    layer = layer_of(again)
    weight = stored_weight(layer.node, 1 - layer.data_index)
    assert not isinstance(weight, str)
    return weight.array()


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_planned_columns_become_zero(name: str) -> None:
    loaded = load(CASES[name])
    before = weights_of(loaded, loaded.proto)
    columns = layer_columns(layer_of(loaded))
    assert isinstance(columns, Columns)
    proto = zeroed(
        loaded, planned(loaded, counts_of(CASES[name], small_features(CASES[name])))
    )
    after = weights_of(loaded, proto)
    gone = np.broadcast_to(columns.spread(np.arange(4) % 2 == 1), before.shape)
    assert (after[gone] == 0).all()
    np.testing.assert_array_equal(after[~gone], before[~gone])
    assert (before[gone] != 0).all(), "a weight of zeros would fool this test"
    assert list(proto.graph.node) == list(loaded.proto.graph.node)


@pytest.mark.parametrize("name", [*CASES, *STORED])
def test_a_layer_without_such_columns_keeps_every_byte(name: str) -> None:
    case = (CASES | STORED)[name]
    loaded = load(case)
    before = loaded.proto.SerializeToString(deterministic=True)
    counts = SiteCounts("h", case.axis, C, 10, (9, 0, 9, 9))
    edited = ZeroColumns((planned(loaded, counts),))(loaded.graph_ir)
    assert edited == {}
    after = model_io.render(loaded.proto, loaded.graph_ir)
    assert after.SerializeToString(deterministic=True) == before


def test_a_shared_weight_changes_for_the_planned_layer_alone() -> None:
    body = "a = MatMul(h, SQUARE) b = Relu(a) y = MatMul(b, SQUARE)"
    x = on_a_grid((7, 4))
    weight = WEIGHTS["SQUARE"].astype("f4")
    first, second = weight.copy(), weight.copy()
    first[[0, 2]], second[1] = 0, 0
    for wanted, (w1, w2) in {
        (0,): (first, weight),
        (1,): (weight, second),
        (0, 1): (first, second),
    }.items():
        loaded = load(Case((7, 4), -1, body))
        layers = [s.layers[0] for s in find_sites(loaded.graph_ir, ALL).sites]
        columns = [(0, 2), (1,)]
        plans = [ColumnPlan(layers[i], columns[i], 4, "h", C) for i in wanted]
        edited = ZeroColumns(tuple(plans))(loaded.graph_ir)
        assert list(edited) == [layers[i].name for i in wanted]
        proto = model_io.render(loaded.proto, loaded.graph_ir)
        held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        reads = [node.input[1] for node in proto.graph.node if node.op_type == "MatMul"]
        assert [edited[layers[i].name] for i in wanted] == [reads[i] for i in wanted]
        np.testing.assert_array_equal(held[reads[0]], w1)
        np.testing.assert_array_equal(held[reads[1]], w2)
        expected = np.maximum(x @ w1, 0) @ w2
        np.testing.assert_allclose(run(proto, x), expected, rtol=1e-5, atol=1e-5)


def test_constants_of_layers_whose_names_differ_by_a_slash_are_two() -> None:
    body = "a = MatMul(h, SQUARE) b = MatMul(h, SQUARE) d = MatMul(h, SQUARE) e = Add(a, b) "
    loaded = load(Case((7, 4), -1, body + "y = Add(e, d)"))
    for node, name in zip(loaded.graph_ir.graph, ("", "/fc", "fc", "other"), strict=False):
        node.name = name
    (site,) = find_sites(loaded.graph_ir, ALL).sites
    plans = [ColumnPlan(layer, (1,), 4, "h", C) for layer in site.layers[:2]]
    edited = ZeroColumns(tuple(plans))(loaded.graph_ir)
    assert edited == {"/fc": "lipcompile/fc/weight", "fc": "lipcompile/fc/weight.2"}


def test_an_external_weight_becomes_inline(
    external_cnn: Callable[[Path], Path], tmp_path: Path
) -> None:
    loaded = model_io.load(external_cnn(tmp_path))
    ir.external_data.set_base_dir(loaded.graph_ir.graph, tmp_path)
    layer = next(
        layer
        for site in find_sites(loaded.graph_ir, ALL).sites
        for layer in site.layers
        if layer.node.inputs[1].name == "fc1_w"
    )
    edited = ZeroColumns((ColumnPlan(layer, (2,), 4, "f", C),))(loaded.graph_ir)
    assert edited == {layer.name: "fc1_w"}
    proto = model_io.render(loaded.proto, loaded.graph_ir)
    inline = next(t for t in proto.graph.initializer if t.name == "fc1_w")
    assert not inline.external_data
    assert (numpy_helper.to_array(inline)[2] == 0).all()
    assert any(t.external_data for t in proto.graph.initializer)
    whole = runtime.open_session(
        model_io.serialize(proto), runtime.RuntimeOptions(), loaded.base_dir
    )
    feeds = {"x": np.ones((2, 3, 8, 8), np.float32)}
    assert np.isfinite(whole.run(["y"], feeds)["y"]).all()


# The exactness statement: layer(hard(x); W) has the bits of layer(hard(x); W zeroed)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", [*CASES, *STORED])
def test_behind_hard_zeroing_changes_no_bit(name: str, optimize: bool) -> None:
    case = (CASES | STORED)[name]
    loaded = load(case)
    samples = [small_features(case, seed=seed) for seed in range(3)]
    axis = 0 if len(case.shape) == 1 else case.axis
    counts = counts_of(case, np.stack(samples) if axis < 0 else np.concatenate(samples))
    if axis == 0 and len(case.shape) == 2:
        counts = counts_of(case, np.concatenate(samples, axis=1))
    if len(case.shape) == 1:
        counts = SiteCounts("h", case.axis, C, 3, tuple(np.array([0, 3, 0, 3]).tolist()))
    plan = planned(loaded, counts)
    assert plan.columns == (1, 3)
    proto = zeroed(loaded, plan)
    for x in samples:
        forged = Hard()(x, C)
        before, after = (run(m, forged, optimize) for m in (loaded.proto, proto))
        assert same_bits(before, after)
        # The planted failure: without `hard` the small features still count.
        assert not same_bits(run(loaded.proto, x, optimize), run(proto, x, optimize))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", ["MatMul", "Gemm", "Gemm, transA", "MatMul of rank 4"])
def test_behind_hard_zeroing_changes_no_bit_in_other_types(name: str, dtype: str) -> None:
    case = CASES[name]
    loaded = load(case, dtype=dtype)
    x = small_features(case, dtype)
    proto = zeroed(loaded, planned(loaded, counts_of(case, x)))
    forged = Hard()(x, C)
    assert same_bits(run(loaded.proto, forged), run(proto, forged))
    assert not same_bits(run(loaded.proto, x), run(proto, x))


@pytest.mark.parametrize("name", [*CASES, *STORED])
def test_zeroing_a_column_that_was_not_always_suppressed_is_caught(name: str) -> None:
    """The planted failure: the statement above fails for the wrong columns."""
    case = (CASES | STORED)[name]
    loaded = load(case)
    forged = Hard()(small_features(case), C)
    wrong = ColumnPlan(layer_of(loaded), (0, 1), 4, "h", C)
    assert not same_bits(run(loaded.proto, forged), run(zeroed(loaded, wrong), forged))


def test_a_quantised_column_becomes_the_zero_point() -> None:
    loaded = load(QUANTISED)
    proto = zeroed(loaded, planned(loaded, counts_of(QUANTISED, small_features(QUANTISED))))
    (stored,) = (numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "Q")
    np.testing.assert_array_equal(stored[[1, 3]], np.stack([FIXED["QZ"]] * 2))
    np.testing.assert_array_equal(stored[[0, 2]], FIXED["Q"][[0, 2]])


NETWORK = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N, 3, 9, 9] x) => (float[N, 5] y)
{
    c0 = Conv (x, w0, b0)
    r0 = Relu (c0)
    c1 = Conv <group = 2> (r0, w1)
    r1 = Relu (c1)
    c2 = ConvTranspose (r1, w2)
    l2 = LeakyRelu (c2)
    g = GlobalAveragePool (l2)
    f = Flatten (g)
    d = Gemm <transB = 1> (f, w3)
    t = Tanh (d)
    y = MatMul (t, w4)
}
"""
SHAPES = {
    "w0": (8, 3, 3, 3),
    "w1": (12, 4, 3, 3),
    "w2": (12, 6, 2, 2),
    "w3": (16, 6),
    "w4": (16, 5),
}
DATA = np.random.default_rng(7).normal(size=(9, 3, 9, 9)).astype("float32")


def network(bias: float) -> onnx.ModelProto:
    """Channels 1 and 6 of r0 have this bias: a large negative one makes their Relu dead."""
    model = onnx.parser.parse_model(NETWORK)
    rng = np.random.default_rng(5)
    for name, shape in SHAPES.items():
        scale = 10.0 ** rng.uniform(-3, 0, size=(shape[0], *[1] * (len(shape) - 1)))
        weight = (rng.normal(size=shape) * scale).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    offset = np.zeros(8, np.float32)
    offset[[1, 6]] = bias
    model.graph.initializer.append(numpy_helper.from_array(offset, "b0"))
    return model


def plans_of(
    loaded: model_io.LoadedModel, c_r: float, zero_rate: float = 1.0
) -> list[ColumnPlan]:
    table = lipcompile.calibrate(loaded.proto, DATA, selector=ALL, count_cr=[c_r])
    plans = []
    for site in find_sites(loaded.graph_ir, ALL).sites:
        for layer in site.layers:
            columns = layer_columns(layer)
            assert isinstance(columns, Columns)
            c = Hard().threshold(c_r * table[site.tensor], site.dtype)
            counts = table.counts_at(site.tensor, columns.data_axis, c)
            plan = plan_columns(layer, counts, zero_rate)
            assert isinstance(plan, ColumnPlan)
            plans.append(plan)
    return plans


def layer_alone(proto: onnx.ModelProto, layer: LinearLayer) -> onnx.ModelProto:
    """The layer with its weight, as a model from its data operand to its output."""
    node = next(n for n in proto.graph.node if n.output[0] == layer.node.outputs[0].name)
    data = node.input[layer.data_index]
    kept = [t for t in proto.graph.initializer if t.name in node.input]
    made = onnx.helper.make_tensor_value_info
    rank = len(next(t for t in kept).dims)
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [made(data, onnx.TensorProto.FLOAT, [f"i{k}" for k in range(rank)])],
        [made(node.output[0], onnx.TensorProto.FLOAT, [f"o{k}" for k in range(rank)])],
        kept,
    )
    return onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=8)


def test_for_every_layer_and_sample_of_a_network() -> None:
    loaded = model_io.load(network(bias=0.0))
    plans = plans_of(loaded, c_r=0.05)
    assert sum(len(plan.columns) for plan in plans) >= 5
    assert len(plans) == 4
    proto = zeroed(loaded, *plans)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(loaded.proto)
    for plan in plans:
        exposed.graph.output.append(onnx.ValueInfoProto(name=plan.tensor))
    whole = session(exposed)
    for sample in DATA:
        for plan in plans:
            x = whole.run([plan.tensor], {"x": sample[None]})[0]
            forged = Hard()(x, plan.c)
            before, after = (
                session(layer_alone(model, plan.layer)).run(None, {plan.tensor: forged})[0]
                for model in (loaded.proto, proto)
            )
            assert same_bits(before, after)


def test_dead_channels_cost_no_bit_of_the_whole_model() -> None:
    loaded = model_io.load(network(bias=-1e4))
    plans = plans_of(loaded, c_r=2.0**-40)
    assert [plan.columns for plan in plans] == [(1, 6), (), (), ()]
    proto = zeroed(loaded, *plans)
    assert proto != loaded.proto
    for batch in (DATA, DATA[:1], -DATA):
        assert same_bits(run(loaded.proto, batch), run(proto, batch))
    # The planted failure: the same columns of a model where they are alive.
    alive = model_io.load(network(bias=0.0))
    layer = find_sites(alive.graph_ir, ALL).sites[0].layers[0]
    wrong = zeroed(alive, ColumnPlan(layer, (1, 6), 8, "r0", 1.0))
    assert not same_bits(run(alive.proto, DATA), run(wrong, DATA))
