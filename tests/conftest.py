"""Small models, built the same way each time, for any test that asks for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

# As in lipcompile/cli/audit_command.py: workers share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A suite that a shell started in the background ignores Ctrl-C, and so would the commands that
# tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_CNN = """
<ir_version: 8, opset_import: ["": 17], producer_name: "maker", doc_string: "a small net">
net (float[n, 3, 8, 8] x) => (float[n, 4] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, conv_w, conv_b)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    h = Gemm (f, fc1_w)
    s = Relu (h)
    y = Gemm (s, fc2_w)
}
"""
_SHAPES = {"conv_w": (4, 3, 3, 3), "conv_b": (4,), "fc1_w": (4, 8), "fc2_w": (8, 4)}


def _small_cnn() -> onnx.ModelProto:
    model = parser.parse_model(_CNN)
    rng = np.random.default_rng(0)
    for name, shape in _SHAPES.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    helper.set_model_props(model, {"author": "someone"})
    return model


def _externalise(tensor: TensorProto, file: Path, **changed: object) -> None:
    """Appends the tensor's bytes to `file`; `changed` overrides an entry, None drops it."""
    raw = numpy_helper.to_array(tensor).tobytes()
    offset = file.stat().st_size if file.exists() else 0
    with file.open("ab") as stream:
        stream.write(raw)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": file.name, "offset": offset, "length": len(raw)} | changed
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def _external_cnn(folder: Path, **changed: object) -> Path:
    """Writes net.onnx, with two of its weights in net.bin; `changed` is about the first."""
    folder.mkdir(parents=True, exist_ok=True)
    model = _small_cnn()
    _externalise(model.graph.initializer[2], folder / "net.bin")
    _externalise(model.graph.initializer[0], folder / "net.bin", **changed)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


@pytest.fixture
def small_cnn() -> Callable[[], onnx.ModelProto]:
    """Conv, Relu, pooling and two Gemm: `small_cnn()` is a fresh `ModelProto`."""
    return _small_cnn


@pytest.fixture
def externalise() -> Callable[..., None]:
    """`externalise(tensor, file)` moves a tensor's bytes into a file."""
    return _externalise


@pytest.fixture
def external_cnn() -> Callable[..., Path]:
    """`external_cnn(folder)` is the path of a small model with external weights."""
    return _external_cnn
