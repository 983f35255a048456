"""Any batching, sharding and order of the same samples gives the same table, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import lipcompile
from lipcompile import CalibrationTable, ScanOptions, Selector, merge_tables
from lipcompile.errors import DataError, RunFailure

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 12, 12] x) => (float[N, 5] y)
{
    c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
    r0 = Relu (c0)
    c1 = Conv <pads = [1, 1, 1, 1]> (r0, w1)
    s = Add (c1, r0)
    g = GlobalAveragePool (s)
    f = Flatten (g)
    m = MatMul (f, w2)
    t = Tanh (m)
    y = MatMul (t, w3)
}
"""


def network() -> onnx.ModelProto:
    """Convolution, residual sum, pooling and dense layers: each with kernels of its own."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(3)
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 16, 3, 3), "w2": (16, 33), "w3": (33, 5)}
    for name, shape in shapes.items():
        weight = rng.normal(size=shape).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


NETWORK = network()
DATA = np.random.default_rng(4).normal(size=(23, 3, 12, 12)).astype("float32")
ALL = Selector("all")


def table(data: object, batch_size: int | None = None) -> CalibrationTable:
    options = ScanOptions(batch_size=batch_size)
    return lipcompile.calibrate(NETWORK, data, selector=ALL, scan=options)


WHOLE = table(DATA)


@given(batch_size=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_batching_and_order(batch_size: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(DATA))
    assert table(DATA[order], batch_size) == WHOLE


@given(cuts=st.sets(st.integers(1, 22), max_size=4), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sharding(cuts: set[int], seed: int) -> None:
    shards = np.split(DATA, sorted(cuts))
    tables = [table(shard, 1 + i) for i, shard in enumerate(shards)]
    order = np.random.default_rng(seed).permutation(len(tables))
    assert merge_tables([tables[i] for i in order]) == WHOLE


@pytest.mark.parametrize("how", ["iterable", "dicts", "batches", "reader", "dict"])
def test_any_kind_of_source_gives_the_same_maxima(how: str) -> None:
    class Reader:
        def __init__(self) -> None:
            self.batches = iter(np.split(DATA, [10, 15]))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch}

    sources = {
        "iterable": lambda: iter(DATA),
        "dicts": lambda: [{"x": row} for row in DATA],
        "batches": lambda: [DATA[:7], DATA[7:]],
        "reader": Reader,
        "dict": lambda: {"x": DATA},
    }
    assert table(sources[how]()).sites == WHOLE.sites


def test_samples_of_different_shapes_are_run_apart() -> None:
    model = network()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    mixed = [DATA[0], DATA[1][:, :9, :], DATA[2], DATA[3], DATA[4][:, :9, :]]
    whole = lipcompile.calibrate(model, mixed, selector=ALL)
    single = lipcompile.calibrate(model, mixed, selector=ALL, scan=ScanOptions(batch_size=1))
    assert whole == single
    assert whole.data.samples == 5


def test_a_batch_axis_that_is_dynamic_in_name_only() -> None:
    """An exporter's constant Reshape takes one sample: the scan goes on with one."""
    model = network()
    reshape = next(n for n in model.graph.node if n.op_type == "Flatten")
    reshape.op_type = "Reshape"
    del reshape.attribute[:]
    reshape.input.append("shape")
    shape = numpy_helper.from_array(np.array([1, 16], "int64"), "shape")
    model.graph.initializer.append(shape)
    result = lipcompile.calibrate(model, DATA, selector=ALL)
    assert [s.absmax for s in result.sites] == [s.absmax for s in WHOLE.sites]
    assert result.data.samples == len(DATA)


def test_a_model_that_fails_on_every_sample_says_so() -> None:
    model = network()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        dim.dim_param = "any"
    with pytest.raises(RunFailure, match=r"model on 'x' float32 \[1, 4, 12, 12\]"):
        lipcompile.calibrate(model, np.zeros((2, 4, 12, 12), "float32"), selector=ALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((2, 3, 12, 11), "float32"), "12"),
        (np.zeros((2, 3, 12, 12), "uint8"), "uint8"),
        ({"wrong": DATA, "too": DATA}, "wrong"),
        (np.full((2, 3, 12, 12), np.nan, "float32"), "NaN"),
    ],
)
def test_data_that_does_not_fit(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(data)


def test_planted_batch_dependence_is_caught() -> None:
    """A model whose activations depend on their neighbours breaks the law."""
    model = network()
    model.graph.node[1].op_type = "Identity"
    model.graph.node.insert(
        1, onnx.helper.make_node("ReduceMax", ["c0"], ["peak"], keepdims=1)
    )
    model.graph.node[2].op_type = "Div"
    model.graph.node[2].input.append("peak")
    tables = [
        lipcompile.calibrate(model, DATA, selector=ALL, scan=ScanOptions(batch_size=size))
        for size in (1, 8)
    ]
    assert tables[0] != tables[1]
