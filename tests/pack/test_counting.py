"""Counts on every model of the pack are those of NumPy over the exposed activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import CalibrationTable, ScanOptions, Selector, model_io
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.sources.opening import open_source
from lipcompile.linear_layers import LinearLayer
from lipcompile.passes.zero_columns import ColumnPlan, ZeroColumns, plan_columns
from lipcompile.sites import find_sites
from lipcompile.weights import Weight, columns_of, layer_columns, stored_weight
from tests.counted_layers import session, suppressed

ALL = Selector("all")
SAMPLES = 6
BATCH = 4
C_RS = (2.0**-8, 2.0**-5)
ZERO_RATE = 0.7  # real activations are rarely below c on every sample
NO_LAYER = {"mnist_lr_scikit"}
# Why no weight of these models can be zeroed, so that nothing is counted.
FIXED = {
    "collins_rul_20": "is a graph input, and a caller may replace it",
    "ultraface_rfb320": "is a graph input, and a caller may replace it",
    "light_resnet50": "is made by ConstantOfShape",
    "light_squeezenet": "is made by ConstantOfShape",
    "light_inception_v2": "is made by ConstantOfShape",
}


def counted_by_numpy(
    loaded: model_io.LoadedModel, samples: list[Any], table: CalibrationTable
) -> list[tuple[int, list[int]]]:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(loaded.proto)
    given = {value.name for value in exposed.graph.output}
    tensors = sorted({row.tensor for row in table.counts})
    missing = [onnx.ValueInfoProto(name=name) for name in tensors if name not in given]
    exposed.graph.output.extend(missing)
    run = session(exposed)
    batcher = Batcher(loaded.inputs, BATCH)
    sums = [(0, np.zeros(len(row.suppressed), int)) for row in table.counts]
    for batch in batcher.group(open_source(samples, loaded.inputs, preprocess=None)):
        assert not batcher.padding(batch), "tests/calibration counts padded batches"
        found = dict(zip(tensors, run.run(tensors, batcher.feeds(batch)), strict=True))
        for index, row in enumerate(table.counts):
            seen, below = suppressed(found[row.tensor], row.axis, row.c)
            sums[index] = sums[index][0] + seen, sums[index][1] + below
    return [(seen, below.tolist()) for seen, below in sums]


def test_counts_are_exact_and_columns_can_be_zeroed(pack_model: Any) -> None:
    if pack_model.entry["id"] in NO_LAYER:
        pytest.skip("this model has no linear layer")
    samples = pack_model.samples(SAMPLES)
    loaded = model_io.load(pack_model.path)
    scan = ScanOptions(batch_size=BATCH)
    table = lipcompile.calibrate(
        pack_model.path, samples, selector=ALL, count_cr=C_RS, scan=scan
    )
    layers = find_sites(loaded.graph_ir, ALL).layers
    reason = FIXED.get(pack_model.entry["id"])
    if reason is not None:
        assert {layer_columns(layer) for layer in layers} == {reason}
        assert table.counts == ()
        return
    assert table.counts
    expected = counted_by_numpy(loaded, samples, table)
    assert [(row.seen, list(row.suppressed)) for row in table.counts] == expected
    plans = [plan for layer in layers for plan in plans_of(layer, table)]
    originals = [stored(plan) for plan in plans]
    names = ZeroColumns(tuple(plans))(loaded.graph_ir)
    edited = [plan.layer.name for plan in plans if plan.columns]
    assert sorted(names) == sorted(edited)
    assert edited
    for plan, original in zip(plans, originals, strict=True):
        assert_zeroed(plan, original)
    session(model_io.render(loaded.proto, loaded.graph_ir))


def plans_of(layer: LinearLayer, table: CalibrationTable) -> list[ColumnPlan]:
    """The plan for the largest threshold that leaves the layer a column."""
    columns = layer_columns(layer)
    found: list[ColumnPlan] = []
    for row in table.counts if not isinstance(columns, str) else ():
        if row.key[:2] == (layer.data.name, columns.data_axis):
            plan = plan_columns(layer, row, ZERO_RATE)
            found += [plan] if isinstance(plan, ColumnPlan) else []
    return sorted(found, key=lambda plan: plan.c)[-1:]


def stored(plan: ColumnPlan) -> np.ndarray:
    weight = stored_weight(plan.layer.node, 1 - plan.layer.data_index)
    assert isinstance(weight, Weight)
    return weight.array()


def assert_zeroed(plan: ColumnPlan, original: np.ndarray) -> None:
    """The columns of the plan are 0.0, and every other number has its old bits."""
    weight = stored_weight(plan.layer.node, 1 - plan.layer.data_index)
    assert isinstance(weight, Weight)
    after = weight.array()
    dead = np.isin(np.arange(plan.count), plan.columns)
    mask = np.broadcast_to(columns_of(plan.layer, after.shape).spread(dead), after.shape)
    zeros = np.broadcast_to(weight.zeros(), after.shape)
    np.testing.assert_array_equal(after[mask], zeros[mask])
    np.testing.assert_array_equal(after[~mask], original[~mask])
    assert mask.sum() == len(plan.columns) * after.size // plan.count
