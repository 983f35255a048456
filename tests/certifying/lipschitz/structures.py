"""Random classifiers of every structure that networks are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx

from tests.certifying.lipschitz.measuring import Dims, build


@dataclass(frozen=True)
class Structure:
    """A graph whose operands are drawn at random.

    Attributes:
        body: In ONNX's text form; weights have names in capitals.
        shapes: Of the weights.
        dims: Of the pixels.
        given: Constants that are not random.
        opset: Of the model.
    """

    body: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Dims = (2, 7, 6)
    given: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 21

    def model(self, seed: int = 0, *, positive: bool = False) -> onnx.ModelProto:
        """With weights of either sign, or all positive: then bounds are close to the truth."""
        rng = np.random.default_rng(seed)
        drawn = {
            name: _weight(name, shape, rng, positive) for name, shape in self.shapes.items()
        }
        return build(self.body, self.dims, self.opset, **drawn, **self.given)


def _weight(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, positive: bool
) -> np.ndarray:
    """V: a variance; else with a gain of about 1."""
    if name.startswith("V"):
        return rng.uniform(0.2, 2.0, shape)
    size = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return (rng.uniform(1, 1.5, shape) if positive else rng.standard_normal(shape)) / size**0.5


def batch_norm(source: str, made: str) -> str:
    return f"{made} = BatchNormalization({source}, G{made}, B{made}, M{made}, V{made}) "


def batch_norms(made: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{letter}{made}": (channels,) for letter in "GBMV"}


def head(source: str) -> str:
    """A flat layer, which needs "Z": [K, size]."""
    return f"flat = Flatten({source}) y = Gemm<transB = 1>(flat, Z)"


_MLP = " ".join(f"a{i} = Gemm<transB=1>(r{i}, W{i}) r{i + 1} = Relu(a{i})" for i in range(4))
STRUCTURES: dict[str, Structure] = {
    "MLP": Structure(
        f"r0 = Flatten(x) {_MLP} y = Gemm<alpha = 1.5>(r4, Z, B)",
        {"W0": (9, 12), "W1": (9, 9), "W2": (9, 9), "W3": (9, 9), "Z": (9, 4), "B": (4,)},
        (1, 3, 4),
    ),
    "strides of 1, 2 and 3, dilated, padded unevenly": Structure(
        """a = Conv<pads=[1,0,2,1]>(x, A, BA) b = Relu(a)
        c = Conv<strides=[2,2], pads=[1,1,0,1]>(b, C) d = Relu(c)
        e = Conv<dilations=[2,1], pads=[2,1,2,1], strides=[1,3]>(d, E) f = Relu(e) """
        + head("f"),
        {"A": (3, 2, 3, 3), "BA": (3,), "C": (3, 3, 3, 2), "E": (4, 3, 3, 3), "Z": (3, 16)},
    ),
    "auto_pad": Structure(
        """a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, A) b = Relu(a)
        c = Conv<auto_pad="SAME_LOWER">(b, C) d = Relu(c)
        e = Conv<auto_pad="VALID">(d, E) f = Relu(e) """
        + head("f"),
        {"A": (3, 2, 3, 3), "C": (3, 3, 2, 2), "E": (4, 3, 2, 2), "Z": (3, 24)},
    ),
    "residual blocks": Structure(
        "a = Conv<pads=[1,1,1,1]>(x, A) "
        + batch_norm("a", "an")
        + """b = Relu(an) c = Conv<strides=[2,2], pads=[1,1,1,1]>(b, C) """
        + batch_norm("c", "cn")
        + """d = Relu(cn) e = Conv<pads=[1,1,1,1]>(d, E) s = Conv<strides=[2,2]>(b, S)
        f = Add(e, s) g = Relu(f) h = Conv<pads=[1,1,1,1]>(g, H) i = Add(g, h) j = Relu(i)
        p = GlobalAveragePool(j) """
        + head("p"),
        {"A": (3, 2, 3, 3), "C": (4, 3, 3, 3), "E": (4, 4, 3, 3), "S": (4, 3, 1, 1)}
        | {"H": (4, 4, 3, 3), "Z": (3, 4), **batch_norms("an", 3), **batch_norms("cn", 4)},
    ),
    "a shortcut by slices and padded channels": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) b = Relu(a)
        c = Conv<strides=[2,2], pads=[1,1,1,1]>(b, C) d = Relu(c) e = Conv(d, E)
        s = Slice(b, START, STOP, AXES, STEPS) t = Pad(s, PADS) f = Add(e, t) g = Relu(f) """
        + head("g"),
        {"A": (3, 2, 3, 3), "C": (5, 3, 3, 3), "E": (5, 5, 1, 1), "Z": (3, 60)},
        given={
            "START": np.array([0, 0]),
            "STOP": np.array([99, 99]),
            "AXES": np.array([2, 3]),
            "STEPS": np.array([2, 2]),
            "PADS": np.array([0, 1, 0, 0, 0, 1, 0, 0]),
        },
    ),
    "inception": Structure(
        """a = Conv(x, A) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, C) d = Relu(c)
        e = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1]>(x) f = Conv(e, F)
        g = Relu(f) h = Concat<axis=1>(b, d, g, x) i = Conv<pads=[1,1,1,1]>(h, I) j = Relu(i)
        k = MaxPool<kernel_shape=[2,2], strides=[1,1], dilations=[2,3]>(j) """
        + head("k"),
        {"A": (3, 2, 1, 1), "C": (2, 3, 3, 3), "F": (2, 2, 1, 1), "I": (3, 9, 3, 3)}
        | {"Z": (3, 45)},
    ),
    "channels last": Structure(
        """t = Transpose<perm=[0,2,3,1]>(x) m = MatMul(t, M) n = Mul(m, N) r = Relu(n)
        u = Transpose<perm=[0,3,1,2]>(r) c = Conv<pads=[1,1,1,1]>(u, C) d = Relu(c)
        v = Transpose<perm=[0,2,3,1]>(d) o = MatMul(v, O) q = Relu(o) """
        + head("q"),
        {"M": (2, 4), "N": (4,), "C": (3, 4, 3, 3), "O": (3, 2), "Z": (3, 84)},
    ),
    "heights and widths exchanged": Structure(
        """a = Conv<pads=[0,1,0,1]>(x, A) t = Transpose<perm=[0,1,3,2]>(a)
        c = Conv<pads=[0,1,0,1]>(t, C) r = Relu(c) u = Transpose<perm=[0,1,3,2]>(r)
        d = Conv<strides=[1,2], pads=[1,0,0,1]>(u, D) s = Relu(d) """
        + head("s"),
        {"A": (2, 2, 1, 3), "C": (2, 2, 1, 3), "D": (2, 2, 2, 2), "Z": (3, 42)},
    ),
    "activations first, scales per channel": Structure(
        batch_norm("x", "n")
        + """a = Relu(n) c = Conv<pads=[1,1,1,1]>(a, C) m = Mul(c, S) o = Add(m, T)
        d = Div(o, VD) r = Relu(d) e = Conv<pads=[1,1,1,1]>(r, E) f = Sub(e, x) g = Neg(f)
        h = Relu(g) """
        + head("h"),
        {"C": (3, 2, 3, 3), "S": (3, 1, 1), "T": (3, 1, 1), "VD": (1, 3, 1, 1)}
        | {"E": (2, 3, 3, 3), "Z": (3, 84), **batch_norms("n", 2)},
    ),
    "average pooling": Structure(
        """a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x)
        c = Conv<pads=[1,1,1,1]>(a, C) r = Relu(c)
        d = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0], count_include_pad=1>(r)
        e = Conv<pads=[1,1,1,1]>(d, E) f = Relu(e)
        g = AveragePool<kernel_shape=[3,2], strides=[2,2], ceil_mode=1>(f) s = Relu(g) """
        + head("s"),
        {"C": (3, 2, 3, 3), "E": (3, 3, 3, 3), "Z": (3, 12)},
    ),
    "groups and depthwise": Structure(
        """a = Conv<pads=[1,1,1,1], group=2>(x, A) b = Clip(a, LOW, HIGH)
        c = Conv<pads=[1,1,1,1], group=4, strides=[2,2]>(b, C) d = Clip(c, LOW, HIGH)
        e = Conv(d, E) f = Conv<pads=[2,2,2,2], group=3>(e, F) g = Relu(f) """
        + head("g"),
        {"A": (4, 1, 3, 3), "C": (4, 1, 3, 3), "E": (6, 4, 1, 1), "F": (3, 2, 5, 5)}
        | {"Z": (3, 36)},
        given={"LOW": np.float32(0), "HIGH": np.float32(6)},
    ),
    "one dimension": Structure(
        """s = Reshape(x, FLAT) a = Conv<pads=[2,1], strides=[2]>(s, A) b = Relu(a)
        c = Conv<pads=[2,2], dilations=[2]>(b, C) d = Relu(c) e = Add(b, d) f = Relu(e)
        g = GlobalMaxPool(f) """
        + head("g"),
        {"A": (3, 2, 4), "C": (3, 3, 3), "Z": (4, 3)},
        given={"FLAT": np.array([0, 0, -1])},
    ),
    # So long that its ends hardly matter: bounds on the torus are close to the truth.
    "a long signal": Structure(
        """s = Reshape(x, FLAT) a = Conv<pads=[1,1]>(s, A) b = Conv<pads=[1,1]>(a, B)
        c = Relu(b) d = Conv<strides=[2], pads=[2,2]>(c, D) e = LeakyRelu<alpha=0.5>(d)
        f = Conv<pads=[1,1]>(e, F) g = LeakyRelu<alpha=0.5>(f) y = Flatten(g)""",
        {"A": (1, 1, 3), "B": (1, 1, 3), "D": (2, 1, 5), "F": (1, 2, 3)},
        (1, 8, 16),
        given={"FLAT": np.array([0, 0, -1])},
    ),
    "convolutions without activations between": Structure(
        """a = Conv<pads=[2,2,2,2]>(x, A) b = Conv<strides=[2,2], pads=[1,0,0,1]>(a, B)
        c = Add(b, OFFSET) d = Conv<pads=[0,1,1,0]>(c, D) r = Relu(d)
        e = Conv<pads=[1,1,1,1]>(r, E) f = Conv<pads=[1,1,1,1]>(e, F) s = Relu(f) """
        + head("s"),
        {"A": (2, 2, 3, 3), "B": (2, 2, 2, 2), "OFFSET": (2, 1, 1), "D": (2, 2, 2, 2)}
        | {"E": (2, 2, 3, 3), "F": (2, 2, 3, 3), "Z": (3, 40)},
    ),
    "pooling of convolutions that pad": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) p = Pad(a, PADS) b = Conv(p, B) r = Relu(b)
        q = Pad<mode="reflect">(r, PADS) d = Conv(q, D) s = Relu(d)
        o = Pad<mode="edge">(s, PADS) e = Conv<strides=[3,3]>(o, E) t = Relu(e) """
        + head("t"),
        {"A": (2, 2, 3, 3), "B": (2, 2, 3, 3), "D": (2, 2, 3, 3), "E": (2, 2, 3, 3)}
        | {"Z": (3, 12)},
        given={"PADS": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "crops": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) p = Pad(a, PADS) r = Relu(p)
        s = Slice(r, START, STOP, AXES, STEPS) b = Conv<pads=[1,1,1,1]>(s, B) t = Relu(b) """
        + head("t"),
        {"A": (3, 2, 3, 3), "B": (3, 3, 3, 3), "Z": (3, 36)},
        given={
            "PADS": np.array([0, 0, -1, 1, 0, 0, 2, -1]),
            "START": np.array([1, -1]),
            "STOP": np.array([99, -99]),
            "AXES": np.array([2, 3]),
            "STEPS": np.array([2, -2]),
        },
    ),
    "steep and falling activations": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) b = LeakyRelu<alpha=2.0>(a)
        c = Conv<pads=[1,1,1,1]>(b, C) d = LeakyRelu<alpha=-0.5>(c)
        e = Conv<strides=[2,2], pads=[1,1,1,1]>(d, E) f = LeakyRelu<alpha=0.6>(e)
        g = Conv<pads=[1,1,1,1]>(f, G) h = LeakyRelu<alpha=0.8>(g) """
        + head("h"),
        {"A": (3, 2, 3, 3), "C": (3, 3, 3, 3), "E": (3, 3, 3, 3), "G": (3, 3, 3, 3)}
        | {"Z": (3, 36)},
    ),
    "sigmoid, tanh and magnitudes": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) b = Tanh(a) c = Conv<strides=[2,2]>(b, C)
        d = Sigmoid(c) e = Conv<pads=[1,1,1,1]>(d, E) f = Abs(e) """
        + head("f"),
        {"A": (3, 2, 3, 3), "C": (3, 3, 3, 3), "E": (3, 3, 3, 3), "Z": (3, 18)},
    ),
    "gates in several operators": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) sa = Sigmoid(a) b = Mul(a, sa)
        c = Conv<strides=[2,2], pads=[1,1,1,1]>(b, C) three = Add(c, THREE)
        six = Clip(three, ZERO, SIX) prod = Mul(c, six) d = Div(prod, SIX)
        e = Conv<pads=[1,1,1,1]>(d, E) w = Div(e, ROOT) v = Erf(w) u = Add(v, ONE)
        m = Mul(e, u) n = Mul(m, HALF) """
        + head("n"),
        {"A": (3, 2, 3, 3), "C": (3, 3, 3, 3), "E": (3, 3, 3, 3), "Z": (3, 36)},
        given={
            "THREE": np.float32(3),
            "ZERO": np.float32(0),
            "SIX": np.float32(6),
            "ROOT": np.float32(2**0.5),
            "ONE": np.float32(1),
            "HALF": np.float32(0.5),
        },
    ),
    "smooth activations": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) b = Gelu(a) c = Conv<strides=[2,2]>(b, C)
        d = HardSwish(c) e = Conv<pads=[1,1,1,1]>(d, E) f = Mish(e) f2 = PRelu(f, P) """
        + head("f2"),
        {"A": (3, 2, 3, 3), "C": (3, 3, 3, 3), "E": (3, 3, 3, 3), "P": (3, 1, 1)}
        | {"Z": (3, 18)},
    ),
    "softmax inside": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) b = Softmax<axis=1>(a) c = Conv(b, C) r = Relu(c)
        f = Flatten(r) g = Gemm<transB=1>(f, W) s = Softmax(g) y = Gemm<transB=1>(s, Z)""",
        {"A": (3, 2, 3, 3), "C": (2, 3, 2, 2), "W": (5, 60), "Z": (4, 5)},
    ),
    "shuffled channels": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) b0, b1 = Split<axis=1, num_outputs=2>(a)
        r = Relu(b0) c = Conv<pads=[1,1,1,1]>(r, C) d = Concat<axis=1>(b1, c)
        e = Gather<axis=1>(d, ORDER) f = Relu(e) g = Conv<pads=[1,1,1,1], group=2>(f, G)
        h = Relu(g) """
        + head("h"),
        {"A": (4, 2, 3, 3), "C": (2, 2, 3, 3), "G": (4, 2, 3, 3), "Z": (3, 168)},
        given={"ORDER": np.array([3, 0, 2, 1])},
    ),
    "matrices from the left": Structure(
        """s = Reshape(x, FLAT) a = MatMul(LEFT, s) r = Relu(a) b = MatMul(r, RIGHT)
        t = Relu(b) o = MatMul(t, LAST) u = Relu(o) """
        + head("u"),
        {"LEFT": (5, 2), "RIGHT": (1, 42, 6), "LAST": (6,), "Z": (3, 5)},
        given={"FLAT": np.array([0, 0, -1])},
    ),
    "blocks of pixels, and back": Structure(
        """d = SpaceToDepth<blocksize=2>(x) a = Conv<pads=[1,1,1,1]>(d, A) r = Relu(a)
        t = ConvTranspose<strides=[2,2], pads=[1,0,0,1], output_padding=[1,0]>(r, T)
        s = Relu(t) """
        + head("s"),
        {"A": (3, 8, 3, 3), "T": (3, 2, 3, 3), "Z": (3, 108)},
        (2, 8, 6),
    ),
    "tensors that many read": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) r = Relu(a) b = Add(r, r) c = Conv(r, C)
        d = Sum(b, c, r, a) s = Relu(d) x2 = Conv(x, E) e = Mean(s, r, x2)
        t = Concat<axis=1>(e, s, e) u = Relu(t) """
        + head("u"),
        {"A": (2, 2, 3, 3), "C": (2, 2, 1, 1), "E": (2, 2, 1, 1), "Z": (3, 252)},
    ),
    "larger of multiples": Structure(
        """a = Conv<pads=[1,1,1,1]>(x, A) m = Mul(a, TENTH) b = Max(a, m)
        c = Conv<pads=[1,1,1,1]>(b, C) d = Min(c, TENTH) e = ReduceMax(d, TWO) """
        + head("e"),
        {"A": (3, 2, 3, 3), "C": (3, 3, 3, 3), "Z": (3, 18)},
        given={"TENTH": np.float32(0.1), "TWO": np.array([2])},
    ),
}


def names(pattern: str = "") -> list[str]:
    return [name for name in STRUCTURES if re.search(pattern, name)]
