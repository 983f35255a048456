"""The law of `layer_inputs`: the matrix times the vectors is what ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.linear_layers import LinearLayer, find_constants, find_linear_layers
from lipcompile.sweeping import layer_inputs
from lipcompile.sweeping.layer_inputs import as_matrices, draw_inputs, spread_features
from tests.counted_layers import session

_ALL = 10**9


@dataclass(frozen=True)
class Case:
    """One layer.

    Attributes:
        data: Shape of its data.
        weight: Shape of its weight.
        op: The operator with its attributes.
        left: Whether the weight is the left operand.
    """

    data: tuple[int, ...]
    weight: tuple[int, ...]
    op: str
    left: bool = field(default=False)


CONVS = {
    "plain": Case((2, 3, 6, 5), (4, 3, 3, 2), "Conv"),
    "1x1": Case((2, 3, 4, 4), (4, 3, 1, 1), "Conv"),
    "strides": Case((2, 3, 9, 8), (4, 3, 3, 2), "Conv<strides = [2, 3]>"),
    "strides over the kernel": Case((2, 3, 9, 8), (4, 3, 1, 2), "Conv<strides = [3, 4]>"),
    "pads": Case((2, 3, 5, 4), (4, 3, 3, 3), "Conv<pads = [1, 0, 2, 1]>"),
    "dilations": Case((2, 3, 9, 9), (4, 3, 3, 2), "Conv<dilations = [2, 3]>"),
    "all of them": Case(
        (2, 4, 9, 8),
        (6, 2, 3, 2),
        "Conv<group = 2, strides = [2, 1], pads = [2, 1, 0, 3], dilations = [1, 2]>",
    ),
    "groups": Case((2, 6, 5, 5), (4, 3, 3, 3), "Conv<group = 2>"),
    "depthwise": Case((2, 6, 5, 5), (12, 1, 3, 3), "Conv<group = 6>"),
    "same, upper": Case(
        (2, 3, 6, 7), (4, 3, 4, 2), 'Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>'
    ),
    "same, lower": Case(
        (2, 3, 6, 7), (4, 3, 4, 2), 'Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>'
    ),
    "same, lower, odd": Case((2, 3, 5, 5), (4, 3, 2, 4), 'Conv<auto_pad = "SAME_LOWER">'),
    "same, wide strides": Case(
        (2, 3, 7, 7), (4, 3, 2, 2), 'Conv<auto_pad = "SAME_UPPER", strides = [3, 3]>'
    ),
    "valid": Case((2, 3, 6, 5), (4, 3, 3, 2), 'Conv<auto_pad = "VALID">'),
    "one dimension": Case((2, 3, 9), (4, 3, 3), "Conv<strides = [2], pads = [1, 2]>"),
    "three dimensions": Case(
        (2, 2, 4, 5, 3),
        (4, 2, 2, 3, 2),
        "Conv<strides = [1, 2, 1], pads = [0, 1, 1, 1, 0, 0]>",
    ),
}
ROWS = {
    "Gemm": Case((5, 4), (4, 6), "Gemm"),
    "Gemm, transB": Case((5, 4), (6, 4), "Gemm<transB = 1>"),
    "Gemm, transA": Case((4, 5), (4, 6), "Gemm<transA = 1>"),
    "Gemm, both": Case((4, 5), (6, 4), "Gemm<transA = 1, transB = 1>"),
    "Gemm, left": Case((4, 5), (6, 4), "Gemm", True),
    "Gemm, left, transB": Case((5, 4), (6, 4), "Gemm<transB = 1>", True),
    "Gemm, left, transA": Case((4, 5), (4, 6), "Gemm<transA = 1>", True),
    "Gemm, left, both": Case((5, 4), (4, 6), "Gemm<transA = 1, transB = 1>", True),
    "MatMul": Case((5, 4), (4, 6), "MatMul"),
    "MatMul of a vector": Case((4,), (4, 6), "MatMul"),
    "MatMul, rank 3": Case((2, 5, 4), (4, 6), "MatMul"),
    "MatMul, rank 4": Case((2, 3, 5, 4), (4, 6), "MatMul"),
    "MatMul, vector weight": Case((5, 4), (4,), "MatMul"),
    "MatMul, left": Case((4, 5), (6, 4), "MatMul", True),
    "MatMul, left, of a vector": Case((4,), (6, 4), "MatMul", True),
    "MatMul, left, rank 3": Case((2, 4, 5), (6, 4), "MatMul", True),
    "MatMul, left, vector weight": Case((4, 5), (4,), "MatMul", True),
}


def built(case: Case, seed: int = 0) -> tuple[LinearLayer, np.ndarray, np.ndarray, np.ndarray]:
    """The layer, its weight, data of small integers, and what ONNX Runtime gives."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-4, 5, case.weight).astype(np.float32)
    data = rng.integers(-4, 5, case.data).astype(np.float32)
    name, _, attributes = case.op.partition("<")
    call = f"{name}{'<' if attributes else ''}{attributes}"
    operands = "w, h" if case.left else "h, w"
    letters = ",".join("abcde"[: len(case.data)])
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[{letters}] x) => (float y) '
        f"{{ h = Identity(x) y = {call}({operands}) }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    loaded = model_io.load(proto)
    constants = find_constants(loaded.graph_ir.graph)
    (layer,), _ = find_linear_layers(loaded.graph_ir, constants)
    (out,) = session(proto).run(None, {"x": data})
    return layer, weight, data, np.asarray(out)


def products(layer: LinearLayer, weight: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The matrix of each group times every vector: [G, O, N]."""
    matrices = as_matrices(layer, weight)
    assert matrices is not None
    vectors = draw_inputs(layer, weight.shape, data, _ALL, np.random.default_rng(0))
    product: np.ndarray = matrices @ vectors
    return product


def columns(found: np.ndarray) -> list[tuple[float, ...]]:
    """The vectors [G * O], in an order of their own: the draw has another."""
    flat = found.reshape(-1, found.shape[-1]).T
    return sorted(tuple(row) for row in flat.tolist())


def features_last(case: Case, out: np.ndarray) -> np.ndarray:
    """The layer's output as [features, positions]."""
    if case.op.startswith("Conv"):
        axis = 1
    elif len(case.weight) == 1:
        return out.reshape(1, -1)
    elif case.left and case.op.startswith("Gemm"):
        axis = 0
    elif case.left:
        axis = max(out.ndim - 2, 0)
    else:
        axis = out.ndim - 1
    return np.moveaxis(out, axis, 0).reshape(out.shape[axis], -1)


@pytest.mark.parametrize("name", [*CONVS, *ROWS])
def test_matrix_times_inputs_is_the_layer(name: str) -> None:
    case = (CONVS | ROWS)[name]
    layer, weight, data, out = built(case)
    # Small integers: every sum is exact, whatever its order.
    assert columns(products(layer, weight, data)) == columns(features_last(case, out))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(2, 3), (1, 1)])
def test_a_transposed_convolution_spreads_each_position(
    groups: int, kernel: tuple[int, int]
) -> None:
    """With strides of the kernel's size nothing overlaps: each position makes one block."""
    strides = f"strides = [{kernel[0]}, {kernel[1]}], group = {groups}"
    case = Case((2, 4, 3, 2), (4, 3, *kernel), f"ConvTranspose<{strides}>")
    layer, weight, data, out = built(case)
    n, o, h, w = out.shape
    blocks = out.reshape(n, o, h // kernel[0], kernel[0], w // kernel[1], kernel[1])
    expected = blocks.transpose(1, 3, 5, 0, 2, 4).reshape(o * kernel[0] * kernel[1], -1)
    assert columns(products(layer, weight, data)) == columns(expected)


def test_a_stacked_weight_is_no_matrix() -> None:
    layer, weight, _, _ = built(Case((2, 5, 4), (2, 4, 6), "MatMul"))
    assert as_matrices(layer, weight) is None


@pytest.mark.parametrize("name", ["groups", "Gemm, transB", "MatMul, left, rank 3"])
def test_a_draw_takes_some_and_each_once(name: str) -> None:
    layer, weight, data, _ = built((CONVS | ROWS)[name])
    every = draw_inputs(layer, weight.shape, data, _ALL, np.random.default_rng(0))
    some = draw_inputs(layer, weight.shape, data, 3, np.random.default_rng(1))
    again = draw_inputs(layer, weight.shape, data, 3, np.random.default_rng(1))
    assert some.shape == (*every.shape[:2], 3)
    np.testing.assert_array_equal(some, again)
    left = columns(every)
    for row in columns(some):
        left.remove(row)  # fails where it is none of them, or drawn too often


@pytest.mark.parametrize("name", [*CONVS, *ROWS])
def test_features_spread_as_the_vectors_lie(name: str) -> None:
    """Masking a feature in the data masks just the rows that `spread_features` names."""
    case = (CONVS | ROWS)[name]
    layer, weight, data, _ = built(case)
    ones = np.ones_like(data)
    count = layer_inputs.columns_of(layer, weight.shape).count
    axis = layer_inputs.columns_of(layer, weight.shape).data_axis
    axis = 0 if data.ndim == 1 else axis
    kept = np.arange(count) % 2 == 0
    shape = [1] * data.ndim
    shape[axis] = count
    every = draw_inputs(layer, weight.shape, ones, _ALL, np.random.default_rng(0))
    masked = draw_inputs(
        layer, weight.shape, ones * kept.reshape(shape), _ALL, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(every * spread_features(layer, weight.shape, kept), masked)


def test_features_of_a_transposed_convolution_in_groups() -> None:
    layer, weight, _, _ = built(Case((2, 4, 3, 2), (4, 3, 2, 2), "ConvTranspose<group = 2>"))
    kept = np.array([True, False, False, True])
    spread = spread_features(layer, weight.shape, kept)
    assert spread.shape == (2, 2, 1)
    assert spread[..., 0].tolist() == [[True, False], [False, True]]


# Planted


def test_planted_padding_on_the_other_side_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = layer_inputs._padding

    def turned(*given: object) -> tuple[list[int], list[int]]:
        begins, totals = real(*given)  # type: ignore[arg-type]
        return [t - b for b, t in zip(begins, totals, strict=True)], totals

    monkeypatch.setattr(layer_inputs, "_padding", turned)
    for name in ("pads", "same, upper", "same, lower"):
        case = CONVS[name]
        layer, weight, data, out = built(case)
        assert columns(products(layer, weight, data)) != columns(features_last(case, out))


def test_planted_transposed_matrix_is_caught() -> None:
    case = Case((5, 4), (4, 4), "MatMul")
    layer, weight, data, out = built(case)
    found = columns(products(layer, weight.T, data))
    assert found != columns(features_last(case, out))
