"""Target tensorrt emits nothing that TensorRT's ONNX parser does not know."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import pytest

from lipcompile.forged import FORMS, TARGETS, Emitter, EncodingContext, Target, make_form

# Operators marked Y in docs/operators.md of onnx/onnx-tensorrt for TensorRT 8.4, the oldest
# that is looked at: of what a form could be made of, later lists (8.5, which adds Shrink, and
# on) hold all of it and more.
NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GRU HardSigmoid Identity If InstanceNormalization IsNaN LeakyRelu
    Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool
    Mean Min Mul Neg NonMaxSuppression Not Or Pad Pow PRelu QuantizeLinear RandomUniform
    RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RNN Round Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign
    Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
    Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where Xor
"""
SUPPORTED = frozenset(NAMES.split())
# The same list: data types of the operators that forms are made of.
FLOATS = frozenset({"float32", "float16"})


def emitted(target: Target, form: str) -> dict[str, set[str]]:
    """Operators by the element type of the site, over everything a form may find there."""
    found: dict[str, set[str]] = {}
    for dtype, opset, nonnegative, channels, relu, biased in itertools.product(
        ("float32", "float16", "float64", "bfloat16"),
        (7, 8, 9, 10, 11, 13, 14, 16, 17, 20, 22),
        (False, True),
        (None, 16),
        (False, True),
        (False, True),
    ):
        chosen = make_form(form)
        c = chosen.threshold(0.25, dtype)
        context = EncodingContext(
            dtype, opset, nonnegative, channels, relu, biased, target=target, c=c
        )
        build = chosen.encoding(context).build
        if build is not None:
            found.setdefault(dtype, set()).update(operators(build, dtype, c))
    return found


def operators(build: object, dtype: str, c: float) -> Iterable[str]:
    assert callable(build)
    emit = Emitter("layer")
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    build(emit, ir.Value(name="x", type=kind), c)
    return [
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in emit.nodes
    ]


def unknown(found: dict[str, set[str]]) -> set[str]:
    """Operators of any type that are not on the list."""
    return set().union(*found.values()) - SUPPORTED


@pytest.mark.parametrize("form", list(FORMS))
def test_every_operator_is_on_the_list(form: str) -> None:
    found = emitted("tensorrt", form)
    assert set(found) >= FLOATS
    assert unknown(found) == set()


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_planted_operator_of_another_target_is_reported(form: str) -> None:
    """Shrink, which is one kernel for CUDA, is not among them."""
    assert unknown(emitted("ort-cuda", form)) == {"Shrink"}


def test_planted_operator_of_another_domain_is_reported() -> None:
    def build(emit: Emitter, x: ir.Value, c: float) -> None:
        emit.nodes.append(ir.node("QuickGelu", [emit("Abs", x)], domain="com.microsoft"))

    found = {"float32": set(operators(build, "float32", 0.5))}
    assert unknown(found) == {"com.microsoft.QuickGelu"}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("target", TARGETS)
def test_no_target_has_an_operator_of_another_domain(target: Target, form: str) -> None:
    names = set().union(*emitted(target, form).values())
    assert all("." not in name for name in names)


def test_the_list_holds_what_forms_are_made_of_there() -> None:
    """The list was copied, and this was not."""
    names = "BatchNormalization Sigmoid Mul Sub Abs Greater Where Clip Relu ThresholdedRelu"
    assert {*names.split(), "Cast", "Constant", "QuantizeLinear"} <= SUPPORTED
    assert not {"Shrink", "Mod", "QLinearConv", "Reciprocal", "NonZero"} & SUPPORTED
