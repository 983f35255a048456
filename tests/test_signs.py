"""Which tensors are seen to hold no negative value, and which are not."""

from __future__ import annotations

import pytest

from lipcompile.linear_layers import find_constants
from lipcompile.signs import is_nonnegative
from tests.small_graphs import model

NONNEGATIVE = {
    "Relu": "h = Relu(x)",
    "Relu6 as Clip with inputs": "h = Clip(x, ZERO, SIX)",
    "Clip without a maximum": "h = Clip(x, S)",
    "Clip with Constant nodes": (
        "l = Constant<value = float {0}>() u = Constant<value = float {6}>() h = Clip(x, l, u)"
    ),
    "Sigmoid": "h = Sigmoid(x)",
    "Softmax": "h = Softmax(x)",
    "MaxPool of a Relu": "a = Relu(x) h = MaxPool<kernel_shape = [1, 1]>(a)",
    "a mean": "a = Relu(x) b = ReduceMean(a, AXIS) h = GlobalAveragePool(b)",
    "shape operators": "a = Relu(x) b = Transpose(a) c = Reshape(b, SHAPE) h = Flatten(c)",
    "Slice": "a = Relu(x) h = Slice(a, AXIS, AXIS)",
    "sum of two Relus": "a = Relu(x) n = Neg(x) b = Relu(n) h = Add(a, b)",
    "sum with a residual sum": (
        "a = Relu(x) n = Neg(x) b = Relu(n) c = Add(a, b) d = Identity(c) h = Add(d, a)"
    ),
    "product of two Relus": "a = Relu(x) b = Sigmoid(x) h = Mul(a, b)",
    "Concat of Relus": "a = Relu(x) b = Abs(x) h = Concat<axis = 0>(a, b)",
    "ThresholdedRelu": "h = ThresholdedRelu<alpha = 0.1>(x)",
    "unsigned integers above 0": "h = DequantizeLinear(U, S, UZ)",
    "a tensor quantised to unsigned integers above 0": (
        "q = QuantizeLinear(x, S, UZ) c = Cast<to = 2>(q) s = Identity(S) z = Identity(UZ) "
        "h = DequantizeLinear(c, s, z)"
    ),
    "ThresholdedRelu by default": "h = ThresholdedRelu(x)",
}

ANY_SIGN = {
    "a graph input": "h = Identity(x)",
    "Add with a constant": "a = Relu(x) h = Add(a, B)",
    "Mul with a constant": "a = Relu(x) h = Mul(M, a)",
    "Concat with a constant": "a = Relu(x) h = Concat<axis = 0>(a, W)",
    "Add with a graph input": "a = Relu(x) h = Add(a, x)",
    "sum with a branch of any sign": "a = Relu(x) b = MatMul(a, W) h = Add(a, b)",
    "LeakyRelu": "h = LeakyRelu(x)",
    "PRelu": "h = PRelu(x, S)",
    "Gelu": "h = Gelu(x)",
    "Sub": "a = Relu(x) h = Sub(a, a)",
    "Clip from below zero": "h = Clip(x, M, SIX)",
    "Clip without a minimum": "h = Clip(x, , SIX)",
    "Clip with a computed minimum": "m = ReduceMax(x, AXIS) h = Clip(x, m)",
    "a linear layer": "a = Relu(x) h = MatMul(a, W)",
    "Pad, whose filling may be negative": "a = Relu(x) h = Pad(a, AXIS, M)",
    "Resize, whose cubic kernel undershoots": 'a = Relu(x) h = Resize<mode = "cubic">(a, , B)',
    "BatchNormalization": "a = Relu(x) h = BatchNormalization(a, B, B, B, B)",
    "ThresholdedRelu below zero": "h = ThresholdedRelu<alpha = -1.0>(x)",
    "unsigned integers above another zero point": "h = DequantizeLinear(U, S, U)",
    "signed integers": "a = Relu(x) q = QuantizeLinear(a, S, Z) h = DequantizeLinear(q, S, Z)",
    "integers without a zero point": "h = DequantizeLinear(U, S)",
    "integers with a negative scale": "h = DequantizeLinear(U, M, UZ)",
    "integers with a computed scale": "s = Abs(x) h = DequantizeLinear(U, s, UZ)",
    "a body": (
        "h = If(YES) <then_branch = t () => (float[4,4] a) { a = Relu(x) }, "
        "else_branch = e () => (float[4,4] b) { b = Neg(x) }>"
    ),
}


def sign_of(body: str, opset: int = 21) -> bool:
    subject = model(f"{body} y = Identity(h)", opset=opset)
    value = subject.graph[-1].inputs[0]
    assert value is not None
    return is_nonnegative(value, find_constants(subject.graph))


@pytest.mark.parametrize("body", NONNEGATIVE.values(), ids=NONNEGATIVE)
def test_tensor_is_never_negative(body: str):
    assert sign_of(body)


@pytest.mark.parametrize("body", ANY_SIGN.values(), ids=ANY_SIGN)
def test_tensor_may_be_negative(body: str):
    assert not sign_of(body)


def test_clip_with_attributes_as_before_opset_11():
    assert sign_of("h = Clip<min = 0.0, max = 6.0>(x)", opset=10)
    assert not sign_of("h = Clip<min = -1.0, max = 6.0>(x)", opset=10)
    assert not sign_of("h = Clip<max = 6.0>(x)", opset=10)


def test_sign_takes_time_linear_in_the_graph():
    ladder = " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(300))
    assert sign_of(f"a0 = Relu(x) {ladder} h = Identity(a300)")
