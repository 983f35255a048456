"""Which elementwise operators does ONNX Runtime's CPU provider compute in its blocked layout?

Between two convolutions each candidate reads an activated convolution. Where ONNX Runtime
leaves the blocked layout for it, the optimised graph has a ReorderOutput in front of it and a
ReorderInput behind it. Nothing is timed.

    python benchmarks/blocked_layout.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
SCALAR = "scalar"
# Operator -> its second operand: none, a scalar, or a second tensor of the same shape.
UNARY = (
    "Relu Sigmoid Tanh HardSigmoid Gelu Identity HardSwish LeakyRelu ThresholdedRelu Elu Selu "
    "Softplus Softsign Abs Neg Exp Sqrt Erf Floor Sign Shrink"
)
CANDIDATES: dict[str, str | None] = {
    **dict.fromkeys(UNARY.split()),
    "Add": "other",
    "Mul": "other",
    "Sub": "other",
    "Max": "other",
    "Add a scalar": SCALAR,
    "Mul by a scalar": SCALAR,
    "Max with a scalar": SCALAR,
    "Clip": SCALAR,
}


def sandwich(candidate: str, second: str | None) -> onnx.ModelProto:
    """Conv -> Relu -> candidate -> Conv, with the candidate's second operand."""
    weight = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)
    constants = {"W": weight, SCALAR: np.array(0.5, np.float32)}
    reads = ["r", second] if second else ["r"]
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["z"], pads=[1] * 4),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Conv", ["x", "W"], ["other"], pads=[1] * 4),
        helper.make_node(candidate.split()[0], reads, ["f"]),
        helper.make_node("Conv", ["f", "W"], ["g"], pads=[1] * 4),
        helper.make_node("Add", ["g", "r"], ["y"]),
    ]
    shape = [1, 16, 32, 32]
    graph = helper.make_graph(
        nodes,
        "sandwich",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def optimised(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of the graph as ONNX Runtime runs it."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def main() -> None:
    print(f"onnxruntime {ort.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for candidate, second in CANDIDATES.items():
            operators = optimised(sandwich(candidate, second), Path(folder))
            stays = operators.count("ReorderOutput") == 1
            print(f"{'stays ' if stays else 'leaves'}  {candidate}: {' '.join(operators)}")


if __name__ == "__main__":
    main()
