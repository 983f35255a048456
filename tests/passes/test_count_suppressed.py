"""The taps count exactly what NumPy counts, for every kind of layer, type and opset."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.passes.count_suppressed import CountTap, tap_suppressed
from lipcompile.sites import Selector, find_sites
from lipcompile.weights import Columns, columns_of, layer_columns, stored_weight
from tests.counted_layers import (
    CASES,
    HALF,
    QUANTISED,
    TYPES,
    Case,
    load,
    on_a_grid,
    session,
    site_of,
    suppressed,
)

OPSETS = [7, 12, 13, 17, 21]
THRESHOLDS = (0.25, 0.5, 1.0)


def taps_of(
    loaded: model_io.LoadedModel, thresholds: tuple[float, ...] = THRESHOLDS
) -> tuple[CountTap, ...]:
    sites = find_sites(loaded.graph_ir, Selector("all")).sites
    by_site = {site.tensor: thresholds for site in sites}
    return tap_suppressed(sites, by_site, loaded.opset)


def measure(
    loaded: model_io.LoadedModel, taps: tuple[CountTap, ...], x: np.ndarray
) -> list[tuple[int, list[np.ndarray]]]:
    serialised = model_io.with_extra_outputs(
        loaded.proto, [node for tap in taps for node in tap.nodes]
    )
    onnx.checker.check_model(serialised, full_check=True)
    names = [name for tap in taps for name in tap.outputs]
    results = session(serialised).run(names, {"x": x})
    by_name = dict(zip(names, results, strict=True))
    return [tap.read(by_name) for tap in taps]


def assert_counts(
    case: Case, op: str = "Identity", dtype: str = "float32", opset: int = 17
) -> None:
    loaded = load(case, op, dtype, opset)
    taps = taps_of(loaded)
    assert [(tap.tensor, tap.axis, tap.thresholds) for tap in taps] == [
        ("h", case.axis, THRESHOLDS)
    ]
    for seed in range(3):
        x = on_a_grid(case.shape, dtype, seed)
        h = np.maximum(x, 0) if op == "Relu" else x
        ((seen, counted),) = measure(loaded, taps, x)
        for c, counts in zip(THRESHOLDS, counted, strict=True):
            assert (seen, list(counts)) == suppressed(h, case.axis, c)
            assert counts.dtype == np.int64


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("op", ["Identity", "Relu"])
def test_counts_are_those_of_numpy(name: str, opset: int, op: str) -> None:
    assert_counts(CASES[name], op, opset=opset)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("name", [name for name in CASES if "Conv" not in name])
def test_counts_in_other_types(name: str, opset: int, dtype: str) -> None:
    """ONNX Runtime's CPU provider has no convolution in float64."""
    assert_counts(CASES[name], dtype=dtype, opset=opset)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("opset", OPSETS)
def test_taps_are_valid_onnx_in_every_type(dtype: str, opset: int) -> None:
    """bfloat16 as well, which the CPU provider does not run."""
    loaded = load(
        CASES["Gemm, transA"], dtype=dtype, opset=opset if dtype != "bfloat16" else 13
    )
    nodes = [node for tap in taps_of(loaded) for node in tap.nodes]
    serialised = model_io.with_extra_outputs(loaded.proto, nodes)
    onnx.checker.check_model(serialised, full_check=True)


@pytest.mark.parametrize("case", [QUANTISED, HALF], ids=["DequantizeLinear", "Cast"])
def test_counts_in_front_of_a_stored_form(case: Case) -> None:
    assert_counts(case)


def test_the_grid_has_ties_and_both_signs() -> None:
    """The planted failures: >= in place of >, and x in place of |x|, count otherwise."""
    x = on_a_grid((7, 4))
    ((_, counted),) = measure(load(CASES["MatMul"]), taps_of(load(CASES["MatMul"])), x)
    for c, counts in zip(THRESHOLDS, counted, strict=True):
        assert list(counts) != list((~(np.abs(x) >= c)).sum(axis=0))
        assert list(counts) != list((~(x > c)).sum(axis=0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_threshold_between_neighbours_is_held_exactly(dtype: str) -> None:
    c = np.asarray(0.1, dtype)
    steps = [np.nextafter(c, np.asarray(k, dtype), dtype=dtype) for k in (0, 1)]
    x = np.array([[steps[0], c, steps[1], -steps[1]]], dtype)
    loaded = load(CASES["MatMul"], dtype=dtype)
    ((seen, (counts,)),) = measure(loaded, taps_of(loaded, (float(c),)), x)
    assert (seen, list(counts)) == (1, [1, 1, 0, 0])


def test_one_site_with_two_axes_is_tapped_once_for_each() -> None:
    case = Case(
        (4, 4),
        1,
        "a = Gemm(h, SQUARE) b = Gemm<transB = 1>(h, SQUARE) d = Gemm<transA = 1>(h, SQUARE) "
        "e = Add(a, b) y = Add(e, d)",
    )
    loaded = load(case)
    taps = taps_of(loaded)
    assert [(tap.tensor, tap.axis) for tap in taps] == [("h", 1), ("h", 0)]
    x = on_a_grid(case.shape)
    for tap, (seen, counted) in zip(taps, measure(loaded, taps, x), strict=True):
        for c, counts in zip(THRESHOLDS, counted, strict=True):
            assert (seen, list(counts)) == suppressed(x, tap.axis, c)


def test_a_rank_that_no_one_knows() -> None:
    """The shape of h is an input of the model."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x, int64[r] s) => '
        "(float[p,q] y) { h = Reshape(x, s) m = MatMul(h, W) y = Flatten(m) }"
    )
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "W")
    )
    loaded = model_io.load(proto)
    (tap,) = taps_of(loaded)
    runs = session(model_io.with_extra_outputs(loaded.proto, tap.nodes))
    x = on_a_grid((12, 4))
    for shape in ([12, 4], [3, 4, 4], [2, 3, 2, 4]):
        results = runs.run(list(tap.outputs), {"x": x, "s": np.array(shape)})
        seen, (counts, *_) = tap.read(dict(zip(tap.outputs, results, strict=True)))
        assert (seen, list(counts)) == suppressed(x, 1, THRESHOLDS[0])


def test_sums_of_runs_are_read_like_one_run() -> None:
    loaded = load(CASES["Conv"])
    (tap,) = taps_of(loaded)
    runs = session(model_io.with_extra_outputs(loaded.proto, tap.nodes))
    shards = [on_a_grid((n, 4, 5, 5), seed=n) for n in (1, 2, 5)]
    results = [runs.run(list(tap.outputs), {"x": x}) for x in shards]
    summed = [np.sum(parts, axis=0, dtype=np.int64) for parts in zip(*results, strict=True)]
    seen, (counts, *_) = tap.read(dict(zip(tap.outputs, summed, strict=True)))
    assert (seen, list(counts)) == suppressed(np.concatenate(shards), 1, THRESHOLDS[0])


def test_sites_without_a_threshold_or_an_editable_weight_are_left_out() -> None:
    loaded = load(CASES["MatMul"])
    assert tap_suppressed([site_of(loaded)], {}, 17) == ()
    assert tap_suppressed([site_of(loaded)], {"h": ()}, 17) == ()
    computed = load(Case((7, 4), -1, "v = Exp(W) y = MatMul(h, v)"))
    assert tap_suppressed([site_of(computed)], {"h": (1.0,)}, 17) == ()
    assert layer_columns(site_of(computed).layers[0]) == "is made by Exp"


@pytest.mark.parametrize("name", CASES)
def test_columns_are_found_without_reading_the_weight(name: str) -> None:
    (layer,) = site_of(load(CASES[name])).layers
    weight = stored_weight(layer.node, 1 - layer.data_index)
    assert not isinstance(weight, str)
    found = layer_columns(layer)
    assert isinstance(found, Columns)
    assert found == columns_of(layer, weight.array().shape)
    assert (found.data_axis, found.count) == (CASES[name].axis, 4)


def test_taps_have_names_of_their_own_and_leave_the_graph_alone() -> None:
    loaded = load(Case((7, 4), -1, "a = MatMul(h, SQUARE) b = Relu(a) y = MatMul(b, W)"))
    taps = taps_of(loaded)
    names = [node.outputs[0].name or "" for tap in taps for node in tap.nodes]
    assert [tap.tensor for tap in taps] == ["h", "b"]
    assert len(names) == len(set(names))
    assert all(name.startswith("lipcompile/count/") for name in names)
    assert model_io.render(loaded.proto, loaded.graph_ir) == loaded.proto
