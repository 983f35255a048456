"""A small classifier, its variants, and images that it can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

SIDE, CLASSES, WIDTH = 6, 4, 12
_RNG = np.random.default_rng(3)
WEIGHTS = {
    "W1": (_RNG.normal(size=(SIDE * SIDE, WIDTH)) / SIDE).astype(np.float32),
    "B1": _RNG.normal(size=WIDTH).astype(np.float32) * np.float32(0.1),
    "W2": (_RNG.normal(size=(WIDTH, CLASSES))).astype(np.float32),
    "B2": np.zeros(CLASSES, np.float32),
    "SCALE": np.array(0.05, np.float32),
    "ZERO": np.array(0, np.int8),
}
PLAIN = "f = Flatten (x)  a = Gemm (f, W1, B1)  h = Relu (a)  y = Gemm (h, W2, B2)"
SOFTMAX = PLAIN.replace("y = Gemm", "z = Gemm") + "  y = Softmax <axis = 1> (z)"
ATTENTION = PLAIN.replace("h = Relu (a)", "s = Softmax <axis = 1> (a)  h = Mul (s, a)")
QDQ = PLAIN.replace("h = Relu (a)", "r = Relu (a)  q = QuantizeLinear (r, SCALE, ZERO)  "
                    "h = DequantizeLinear (q, SCALE, ZERO)")  # fmt: skip


def proto(
    body: str = PLAIN, *, dtype: str = "float", batch: str = "N", scale: float = 1.0
) -> onnx.ModelProto:
    """Nodes are named Relu_2 and the like; `scale` is a factor on the first weight."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({dtype}[{batch},1,{SIDE},{SIDE}] x) '
        f"=> ({dtype}[{batch},{CLASSES}] y) {{ {body} }}"
    )
    used = {name for node in model.graph.node for name in node.input}
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    for name, array in WEIGHTS.items():
        if name not in used:
            continue
        kept = array * np.float32(scale) if name == "W1" else array
        if dtype == "float16" and kept.dtype == np.float32:
            kept = kept.astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(kept, name))
    return model


def logits(pixels: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """float64 [N, CLASSES], by NumPy alone."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    hidden = np.maximum(flat @ (WEIGHTS["W1"] * np.float32(scale)) + WEIGHTS["B1"], 0)
    found: np.ndarray = hidden @ WEIGHTS["W2"].astype(np.float64) + WEIGHTS["B2"]
    return found


def images(count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and labels of which every sixth is wrong."""
    pixels = np.random.default_rng(1).random((count, 1, SIDE, SIDE), np.float32)
    labels = logits(pixels).argmax(axis=1)
    labels[::6] = (labels[::6] + 1) % CLASSES
    return pixels, labels


def fill(folder: Path) -> None:
    """model.onnx, other.onnx (its first weight is smaller), variants, and test.npz."""
    variants = {
        "model": proto(),
        "other": proto(scale=0.5),
        "softmax": proto(SOFTMAX),
        "attention": proto(ATTENTION),
        "qdq": proto(QDQ),
        "fixed": proto(batch="8"),
        "half": proto(dtype="float16"),
    }
    for name, model in variants.items():
        onnx.save(model, folder / f"{name}.onnx")
    pixels, labels = images()
    np.savez(folder / "test.npz", images=pixels, labels=labels)
    np.save(folder / "unlabelled.npy", pixels)
