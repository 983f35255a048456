"""Small graphs with weight columns that are zero, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from lipcompile import model_io
from lipcompile.passes.drop_dead_channels import CompactionReport, DropDeadChannels

IMAGE, ROWS = "float[N,3,6,6] x", "float[N,5] x"
SHAPES = {
    "K1": (4, 3, 3, 3),  # 3 -> 4 channels
    "K2": (5, 4, 1, 1),  # 4 -> 5
    "K8": (5, 8, 1, 1),  # 8 -> 5
    "K3": (4, 3, 3, 3),  # 3 -> 4 as well
    "KT": (3, 4, 2, 2),  # ConvTranspose, 3 -> 4
    "KD": (4, 1, 3, 3),  # depthwise on 4
    "KG": (4, 2, 1, 1),  # two groups on 4
    "B1": (4,),
    "A": (4, 1, 1),
    "P": (1, 4, 1, 1),
    "Q": (4, 4),
    "one": (1,),
    "S": (4,),
    "M": (4,),
    "V": (4,),
    "W1": (5, 4),  # MatMul, 5 -> 4
    "W2": (4, 6),  # 4 -> 6
    "T1": (4, 5),  # its transpose
    "T2": (6, 4),
    "F64": (64, 6),  # 4 channels at 16 positions
    "F4": (4, 6),
}
FIXED = {
    "V": np.array([0.5, 1.0, 2.0, 1.5], "f4"),  # a variance
    "axes": np.array([2, 3]),
    "starts": np.array([1, 1]),
    "ends": np.array([4, 4]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "scales": np.array([1, 1, 2, 2], "f4"),
    "zero": np.array(0),
    "minus": np.array([-1]),
    "keep": np.array([0, -1]),
    "flat": np.array([-1, 64]),
    "twice": np.array([-1, 1, 1, 64]),
    "again": np.array([-1, 64]),
    "odd": np.array([-1, 4, 16]),
    "low": np.array(-1, "f4"),
    "high": np.array(1, "f4"),
    "scale": np.array(0.02, "f4"),
    "point": np.array(0, "u1"),
    "NO": np.array(False),
    "YES": np.array(True),
    "roi": np.array([], "f4"),
    "ones": np.array([1, 1, 1, 1]),
    "zeros": np.array([0]),
    "features": np.random.default_rng(7).normal(size=64).astype("f4"),
    "SQ": np.full(4, 0.02, "f4"),
    "ZQ": np.zeros(4, "i1"),
}


@dataclass(frozen=True)
class Case:
    """A graph, and the entries of its weights that are zero.

    Attributes:
        body: The nodes, in ONNX's text form.
        zero: Weight -> entries of axis, index.
        dropped: Layer (its output's name) -> channels that go.
        inputs: The graph's inputs.
        arrays: Initializers of its own.
        opset: Version of the operators.
    """

    body: str
    zero: Mapping[str, tuple[int, Sequence[int]]]
    dropped: Mapping[str, tuple[int, ...]]
    inputs: str = IMAGE
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17


def build(
    case: Case, opset: int | None = None, ir_version: int = 8, rank: int | None = None
) -> onnx.ModelProto:
    last = case.body.partition(" y = ")[2] or case.body
    dims = ",".join("abcd"[: rank or (4 if "Conv" in last.partition("(")[0] else 2)])
    opset = opset or case.opset
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1]> '
        f"g ({case.inputs}) => (float[{dims}] y) {{ {case.body} }}"
    )
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
    arrays |= {**FIXED, **case.arrays}
    for name, (axis, indices) in case.zero.items():
        arrays[name] = np.moveaxis(arrays[name].copy(), axis, 0)
        arrays[name][list(indices)] = 0
        arrays[name] = np.moveaxis(arrays[name], 0, axis)
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & set(arrays)):
        proto.graph.initializer.append(numpy_helper.from_array(arrays[name], name))
        if ir_version < 4:
            expose(proto, name)
    return proto


def expose(proto: onnx.ModelProto, name: str) -> None:
    """Makes an initializer the default of a graph input."""
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    info = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
    proto.graph.input.append(info)


def compact(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, CompactionReport]:
    loaded = model_io.load(proto)
    report = DropDeadChannels(block=1)(loaded.graph_ir)
    result = model_io.render(loaded.proto, loaded.graph_ir)
    onnx.checker.check_model(result, full_check=True)
    return result, report


def run(proto: onnx.ModelProto) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(1)
    feeds = {}
    for info in session.get_inputs():
        shape = [n if isinstance(n, int) else 2 for n in info.shape]
        feeds[info.name] = rng.normal(size=shape).astype("f4")
    return session.run(None, feeds)


def assert_same_outputs(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """To rounding: sums of fewer terms are taken in another order (float32 has 1e-7)."""
    for old, new in zip(run(before), run(after), strict=True):
        assert old.shape == new.shape
        assert np.isfinite(old).all() and np.ptp(old, axis=0).any(), "nothing would be shown"
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * np.abs(old).max())


def floats(proto: onnx.ModelProto) -> int:
    """How many numbers the weights and constants hold; lengths and axes are integers."""
    attributes = [a for node in proto.graph.node for a in node.attribute]
    tensors = [*proto.graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
    listed = sum(len(a.floats) for a in attributes)
    return listed + sum(array.size for array in arrays if array.dtype.kind == "f")


def claimed(report: CompactionReport) -> dict[str, tuple[int, ...]]:
    return {row.layer: row.channels for row in report.dropped}
