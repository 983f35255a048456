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
from lipcompile.passes.count_suppressed import layer_columns
from lipcompile.passes.zero_columns import ColumnPlan, ZeroColumns, plan_columns
from lipcompile.sites import find_sites
from tests.counted_layers import session, suppressed

ALL = Selector("all")
SAMPLES = 6
BATCH = 4
C_RS = (2.0**-8, 2.0**-5)
NO_LAYER = {"mnist_lr_scikit"}
# Their weights are made by ConstantOfShape, and hold no stored numbers to zero.
NO_NUMBERS = {"light_resnet50", "light_squeezenet", "light_inception_v2"}


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
    if pack_model.entry["id"] in NO_NUMBERS:
        assert table.counts == ()
        return
    assert table.counts
    expected = counted_by_numpy(loaded, samples, table)
    assert [(row.seen, list(row.suppressed)) for row in table.counts] == expected
    plans = []
    for layer in find_sites(loaded.graph_ir, ALL).layers:
        columns = layer_columns(layer)
        for row in table.counts if not isinstance(columns, str) else ():
            if row.key[:2] == (layer.data.name, columns.data_axis):
                plan = plan_columns(layer, row)
                plans += [plan] if isinstance(plan, ColumnPlan) else []
    ZeroColumns(tuple(plans))(loaded.graph_ir)
    session(model_io.render(loaded.proto, loaded.graph_ir))
