"""Small models around one linear layer, and NumPy's count of suppressed elements."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import onnx
import onnxruntime as ort

from lipcompile import model_io
from lipcompile.sites import Selector, Site, find_sites

RNG = np.random.default_rng(0)
WEIGHTS = {
    "W": RNG.normal(size=(4, 6)),
    "T": RNG.normal(size=(6, 4)),
    "L": RNG.normal(size=(5, 4)),
    "B": RNG.normal(size=(3, 4, 2)),
    "V": RNG.normal(size=4),
    "K": RNG.normal(size=(6, 4, 3, 3)),
    "KG": RNG.normal(size=(6, 2, 3, 3)),
    "K1": RNG.normal(size=(3, 4, 3)),
    "KT": RNG.normal(size=(4, 3, 3, 3)),
    "C": RNG.normal(size=1),  # which Gemm needs before opset 11
    "SQUARE": RNG.normal(size=(4, 4)),
}
FIXED = {
    "Q": RNG.integers(-127, 127, (4, 6)).astype("i1"),
    "QS": np.full(6, 0.02, "f4"),
    "QZ": np.array([3, -5, 0, 7, 1, 2], "i1"),
    "H": WEIGHTS["W"].astype("f2"),
}


@dataclass(frozen=True)
class Case:
    """One layer that reads h, which is made from x and has its shape.

    Attributes:
        shape: Shape of x; letters in the declaration follow from it.
        axis: Axis of the input features, as the layer counts it.
        body: The nodes after h.
    """

    shape: tuple[int, ...]
    axis: int
    body: str


CASES = {
    "Conv": Case((3, 4, 5, 5), 1, "y = Conv(h, K)"),
    "Conv in groups": Case((3, 4, 5, 5), 1, "y = Conv<group = 2>(h, KG)"),
    "Conv of one dimension": Case((3, 4, 7), 1, "y = Conv(h, K1)"),
    "ConvTranspose": Case((3, 4, 5, 5), 1, "y = ConvTranspose(h, KT)"),
    "ConvTranspose in groups": Case((3, 4, 5, 5), 1, "y = ConvTranspose<group = 2>(h, KT)"),
    "Gemm": Case((7, 4), 1, "y = Gemm(h, W, C)"),
    "Gemm, transB": Case((7, 4), 1, "y = Gemm<transB = 1>(h, T, C)"),
    "Gemm, transA": Case((4, 7), 0, "y = Gemm<transA = 1>(h, W, C)"),
    "Gemm, weight on the left": Case((4, 7), 0, "y = Gemm(L, h, C)"),
    "Gemm, weight on the left, transB": Case((7, 4), 1, "y = Gemm<transB = 1>(L, h, C)"),
    "MatMul": Case((7, 4), -1, "y = MatMul(h, W)"),
    "MatMul of rank 4": Case((2, 3, 5, 4), -1, "y = MatMul(h, W)"),
    "MatMul, stacked weight": Case((3, 7, 4), -1, "y = MatMul(h, B)"),
    "MatMul, vector weight": Case((7, 4), -1, "y = MatMul(h, V)"),
    "MatMul of a vector": Case((4,), -1, "y = MatMul(h, W)"),
    "MatMul, weight on the left": Case((4, 7), -2, "y = MatMul(L, h)"),
    "MatMul, weight on the left, rank 4": Case((2, 3, 4, 7), -2, "y = MatMul(L, h)"),
    "MatMul, weight on the left of a vector": Case((4,), -2, "y = MatMul(L, h)"),
    "Transpose": Case((7, 4), -1, "v = Transpose(T) y = MatMul(h, v)"),
    "Transpose with perm": Case(
        (7, 4), -1, "v = Transpose<perm = [1, 0]>(T) y = MatMul(h, v)"
    ),
}
# One type or opset each: the other cases run in all of them.
QUANTISED = Case((7, 4), -1, "v = DequantizeLinear<axis = 1>(Q, QS, QZ) y = MatMul(h, v)")
HALF = Case((7, 4), -1, "v = Cast<to = 1>(H) y = MatMul(h, v)")
TYPES = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}


def load(
    case: Case, op: str = "Identity", dtype: str = "float32", opset: int = 17
) -> model_io.LoadedModel:
    """The model x -> h = op(x) -> the layers of `case`."""
    letters = ",".join("nabcd"[: len(case.shape)])
    output = ",".join("pqrst"[: len(case.shape) - ("h, V" in case.body)])
    kind = TYPES[dtype]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({kind}[{letters}] x) => '
        f"({kind}[{output}] y) {{ h = {op} (x) {case.body} }}"
    )
    h = onnx.ValueInfoProto()
    h.CopyFrom(proto.graph.input[0])
    h.name = "h"
    if len(case.shape) == 1:
        proto.graph.value_info.append(h)
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & (WEIGHTS.keys() | FIXED.keys())):
        array = FIXED[name] if name in FIXED else WEIGHTS[name].astype(dtype)
        if array.dtype.name == "bfloat16":
            tensor = onnx.helper.make_tensor(
                name, onnx.TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True
            )
        else:
            tensor = onnx.numpy_helper.from_array(array, name)
        proto.graph.initializer.append(tensor)
    return model_io.load(proto)


def site_of(loaded: model_io.LoadedModel) -> Site:
    (site,) = find_sites(loaded.graph_ir, Selector("all")).sites
    return site


def on_a_grid(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Multiples of 1/8 in [-2, 2], so that elements lie on thresholds."""
    return (np.random.default_rng(seed).integers(-16, 17, shape) / 8).astype(dtype)


def suppressed(h: np.ndarray, axis: int, c: float) -> tuple[int, list[int]]:
    """How often each feature occurs, and how many of its elements are not above c."""
    axis = 0 if h.ndim == 1 else axis
    rows = np.moveaxis(h, axis, 0).reshape(h.shape[axis], -1)
    below = ~(np.abs(rows) > np.asarray(c, h.dtype))
    return rows.shape[1], [int(n) for n in below.sum(axis=1)]


def session(model: onnx.ModelProto | bytes, *, optimize: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    serialised = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
