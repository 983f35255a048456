"""Gradients of every operator: the float64 view against central finite differences.

`torch.autograd.gradcheck` moves each element of each float input by 1e-6 and compares with an
absolute tolerance of 1e-5 and a relative one of 1e-3. Inputs are distinct multiples of a step
far above 1e-6, so that no maximum and no kink lies within reach of a difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser
from torch.autograd.gradcheck import GradcheckError

import lipcompile
from lipcompile import Selector
from lipcompile.torchview import torch_view
from lipcompile.torchview.backward import straight_through
from lipcompile.torchview.registry import OPERATORS

NEWEST = 23

Operand = tuple[int, ...] | np.ndarray | None


@dataclass(frozen=True)
class Case:
    """One node.

    Attributes:
        operator: Its type.
        operands: A shape for an input to differentiate, an array for a constant, None for an
            operand that is left out.
        opset: Of the model.
        span: Where the values of the inputs lie.
        outputs: How many the node has.
        attributes: Of the node.
    """

    operator: str
    operands: tuple[Operand, ...]
    opset: int = NEWEST
    span: tuple[float, float] = (-1.9, 2.1)
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        given = [f"{name}={value}" for name, value in self.attributes.items()]
        shapes = [
            str(tuple(o.shape) if isinstance(o, np.ndarray) else o) for o in self.operands
        ]
        return f"{self.operator}-{self.opset} {' '.join([*shapes, *given])}"[:120]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs, by name."""
        return {f"x{i}": o for i, o in enumerate(self.operands) if isinstance(o, tuple)}

    def model(self) -> onnx.ModelProto:
        names = ["" if o is None else f"x{i}" for i, o in enumerate(self.operands)]
        constants = [
            numpy_helper.from_array(operand, name)
            for name, operand in zip(names, self.operands, strict=True)
            if isinstance(operand, np.ndarray)
        ]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.operator, names, outputs, **self.attributes)
        inputs = [helper.make_tensor_value_info(n, 1, s) for n, s in self.shapes.items()]
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph([node], "g", inputs, results, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])

    def inputs(self) -> list[torch.Tensor]:
        """Distinct values in random order; no two inputs share one."""
        rng = np.random.default_rng(len(self.operands))
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        values = np.split(
            rng.permutation(np.linspace(*self.span, sum(sizes))), np.cumsum(sizes)[:-1]
        )
        return [
            torch.tensor(v.reshape(shape), requires_grad=True)
            for v, shape in zip(values, self.shapes.values(), strict=True)
        ]


def case(
    operator: str,
    *operands: Operand,
    opset: int = NEWEST,
    span: tuple[float, float] = (-1.9, 2.1),
    outputs: int = 1,
    **attributes: Any,
) -> Case:
    return Case(operator, operands, opset, span, outputs, attributes)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


ABOVE_0, INSIDE_1, ABOVE_1 = (0.3, 2.1), (-0.85, 0.9), (1.2, 2.9)
ROW, IMAGE, VOLUME = (2, 3, 7), (2, 4, 5, 6), (1, 2, 4, 3, 4)
YES = np.array(True)

ELEMENTWISE = [
    *(case(name, (3, 4)) for name in ["Abs", "Neg", "Exp", "Erf", "Sin", "Cos", "Atan"]),
    *(case(name, (3, 4)) for name in ["Sinh", "Cosh", "Asinh", "Reciprocal", "Identity"]),
    *(case(name, (3, 4)) for name in ["Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"]),
    *(case(name, (3, 4)) for name in ["HardSwish", "Mish", "Elu", "Celu", "Selu", "Gelu"]),
    *(case(name, (3, 4), span=ABOVE_0) for name in ["Sqrt", "Log"]),
    *(case(name, (3, 4), span=INSIDE_1) for name in ["Tan", "Asin", "Acos", "Atanh"]),
    case("Acosh", (3, 4), span=ABOVE_1),
    case("Gelu", (3, 4), approximate="tanh"),
    case("Elu", (3, 4), alpha=0.7),
    case("Celu", (3, 4), alpha=0.7),
    case("Selu", (3, 4), alpha=0.7, gamma=1.3),
    case("Swish", (3, 4), opset=24, alpha=0.7),
    case("LeakyRelu", (3, 4), alpha=0.1),
    case("HardSigmoid", (3, 4), alpha=0.4),
    case("ThresholdedRelu", (3, 4), alpha=0.33),
    case("Shrink", (3, 4), lambd=0.33, bias=0.2),
    case("PRelu", (2, 3, 4), (3, 1)),
    *(case(name, (2, 3), (3,)) for name in ["Add", "Sub", "Mul", "Div"]),
    case("Pow", (2, 3), (3,), span=ABOVE_0),
    case("Pow", (2, 3), number(2)),
    case("Pow", (2, 3), floats([2, 3, 1])),
    case("Mod", (2, 3), (3,), fmod=1, span=(-1.83, 2.1)),
    *(case(name, (2, 3), (3,), (2, 1)) for name in ["Sum", "Max", "Min", "Mean"]),
    case("Clip", (3, 4), number(-0.5), number(0.7)),
    case("Clip", (3, 4), opset=7, min=-0.5, max=0.7),
    case("Where", np.array([[True], [False]]), (2, 3), (3,)),
    case("Cast", (3, 4), to=onnx.TensorProto.DOUBLE),
    case("CastLike", (3, 4), floats(1)),
    case("Dropout", (3, 4)),
]
PRODUCTS = [
    case("MatMul", (2, 3, 4), (4, 2)),
    case("MatMul", (4,), (4,)),
    case("Gemm", (2, 3), (4, 3), (4,), transB=1),
    case("Gemm", (3, 2), (3, 4), (2, 1), transA=1, alpha=0.5, beta=2.0),
    case("Gemm", (2, 3), (3, 4)),
    case("Einsum", (2, 3), (3, 4), equation="ij,jk->ki"),
]
REDUCTIONS = [
    *(
        case(f"Reduce{name}", (2, 3, 2), ints(0, 2), span=ABOVE_0)
        for name in ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp"]
    ),
    case("ReduceSumSquare", (2, 3), ints(), keepdims=0),
    case("ReduceL2", (2, 3), opset=11, axes=[-1], keepdims=0),
    case("Softmax", (2, 3, 2), axis=1),
    case("Softmax", (2, 3, 2), opset=11),
    case("LogSoftmax", (2, 3, 2), axis=1),
    case("CumSum", (2, 3), np.array(1), exclusive=1, reverse=1),
    case("TopK", (2, 5), ints(2), outputs=2),
]
WINDOWS = [
    case("Conv", ROW, (2, 3, 3), (2,), strides=[2]),
    case("Conv", (1, 4, 5, 4), (2, 2, 3, 2), pads=[0, 1, 2, 1], group=2, dilations=[2, 1]),
    case("Conv", (1, 2, 5, 4), (1, 2, 3, 3), (1,), auto_pad="SAME_LOWER", strides=[2, 1]),
    case("Conv", VOLUME, (1, 2, 2, 2, 2), pads=[1] * 6),
    case("ConvTranspose", ROW, (3, 2, 3), (2,), strides=[2], pads=[1, 1]),
    case("ConvTranspose", (1, 4, 3, 2), (4, 1, 3, 3), (2,), strides=[2, 3], group=2),
    case("ConvTranspose", (1, 2, 3, 3), (2, 1, 3, 3), pads=[0, 2, 1, 0], strides=[2, 2]),
    case("ConvTranspose", (1, 1, 3, 3), (1, 1, 2, 2), (1,), output_shape=[5, 4]),
    case("MaxPool", ROW, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], pads=[0, 1, 2, 0], outputs=2),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 1], ceil_mode=1, strides=[2, 3]),
    case("MaxPool", VOLUME, kernel_shape=[2, 2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", ROW, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[0, 1, 2, 0], count_include_pad=1),
    case("AveragePool", (1, 1, 5, 5), kernel_shape=[2, 2], dilations=[2, 1], ceil_mode=1),
    case("LpPool", (1, 2, 5, 4), kernel_shape=[3, 2], p=3, pads=[1, 0, 1, 1]),
    *(case(f"Global{n}Pool", (2, 3, 2, 3)) for n in ["Average", "Max", "Lp"]),
]
NORMALISATIONS = [
    case("BatchNormalization", (2, 3, 2, 2), *[(3,)] * 4, span=ABOVE_0),
    case("BatchNormalization", (2, 2, 3), *(floats(1, k) for k in (2, -1, 3, 4))),
    case("BatchNormalization", (3, 2, 2), *[(2, 2)] * 4, opset=7, spatial=0, span=ABOVE_0),
    case("InstanceNormalization", (2, 3, 4), (3,), (3,)),
    case("LayerNormalization", (2, 3, 4), (3, 4), (3, 4), axis=1, outputs=3, opset=17),
    case("LayerNormalization", (2, 3, 4), (3, 1), axis=-2, opset=17),
    case("GroupNormalization", (2, 4, 3), (2,), (2,), num_groups=2, opset=18),
    case("GroupNormalization", (2, 4, 3), (4,), (4,), num_groups=2),
    case("RMSNormalization", (2, 3, 4), (4,)),
    case("LRN", (1, 5, 2, 2), size=4, alpha=0.3, beta=0.6, bias=1.2),
    case("LpNormalization", (3, 4), axis=0, p=1),
    case("LpNormalization", (3, 4)),
]
SHAPES = [
    case("Reshape", (2, 3, 4), ints(0, -1)),
    case("Flatten", (2, 3, 4), axis=-1),
    case("Transpose", (2, 3, 4), perm=[2, 0, 1]),
    case("Squeeze", (2, 1, 3), ints(1)),
    case("Squeeze", (2, 1, 3), opset=11, axes=[1]),
    case("Unsqueeze", (2, 3), ints(-1, 0)),
    case("Expand", (3, 1), ints(2, 1, 4)),
    case("Tile", (2, 3), ints(2, 3)),
    case("DepthToSpace", (1, 8, 2, 1), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (1, 2, 2, 4), blocksize=2),
    case("Concat", (2, 3), (2, 1), axis=-1),
    case("Split", (2, 5), axis=1, num_outputs=2, outputs=2),
    case("Split", (2, 5), opset=11, axis=1, split=[2, 3], outputs=2),
    case("Slice", (5, 4), ints(4, 1), ints(-9, 9), ints(0, 1), ints(-2, 1)),
    case("Slice", (5, 4), opset=9, starts=[1], ends=[4]),
    case("Pad", (3, 4), ints(1, -1, 0, 2), number(0.5)),
    *(
        case("Pad", (3, 4), ints(1, -1, 0, 2), mode=mode)
        for mode in ["reflect", "edge", "wrap"]
    ),
]
INDICES = [
    case("Gather", (3, 4), ints([0, -1], [1, 1]), axis=1),
    case("Gather", (3, 4), np.array(-2), axis=0),
    case("GatherElements", (3, 2), ints([0, -1], [1, 1]), axis=0),
    case("GatherND", (2, 3, 2), ints([[1]], [[-1]]), batch_dims=1),
    *(
        case(name, (3, 3), ints([0, -1, 1]), (1, 3), opset=opset, axis=0)
        for name, opset in [("Scatter", 10), ("ScatterElements", NEWEST)]
    ),
    *(
        case("ScatterElements", (3, 2), ints([0, 0], [0, 1]), (2, 2), reduction=reduction)
        for reduction in ["add", "mul", "max", "min"]
    ),
    case("ScatterND", (3, 2), ints([0], [-1]), (2, 2)),
    case("ScatterND", (3, 2), ints([0], [0]), (2, 2), reduction="add"),
    case("OneHot", ints(0, 2, -1), np.array(3), (2,)),
    case("Compress", (3, 2), np.array([True, False, True]), axis=0),
    case("Trilu", (3, 4), np.array(1), upper=0),
]
SAMPLING = [
    case("Resize", (1, 2, 3, 2), None, floats(1, 1, 2, 2)),
    case("Resize", (1, 2, 3, 2), None, None, ints(1, 2, 5, 3), mode="linear"),
    case("Resize", (1, 1, 4, 3), None, floats(1, 1, 0.6, 1.7), mode="cubic"),
    case("Resize", (1, 1, 6, 3), None, floats(1, 1, 0.5, 1), mode="linear", antialias=1),
    case("Upsample", (1, 1, 3, 2), floats(1, 1, 2, 3), opset=9, mode="linear"),
    case("GridSample", (1, 1, 3, 3), (1, 2, 2, 2), span=(-0.87, 0.9)),
    case("DequantizeLinear", np.array([3, 250], np.uint8), (), np.array(7, np.uint8)),
]
CASES = [
    *ELEMENTWISE,
    *PRODUCTS,
    *REDUCTIONS,
    *WINDOWS,
    *NORMALISATIONS,
    *SHAPES,
    *INDICES,
    *SAMPLING,
]
NO_GRADIENT = {
    "gives integers or truth values": "And Or Xor Not Equal Greater GreaterOrEqual Less "
    "LessOrEqual IsInf IsNaN ArgMax ArgMin NonZero BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor QuantizeLinear DynamicQuantizeLinear",
    "is constant between its jumps": "Round Floor Ceil Sign Hardmax",
    "knows only the shape of its input": "Shape Size EyeLike ConstantOfShape RandomNormalLike "
    "RandomUniformLike",
    "reads its inputs as numbers": "Range",
    "has no input": "Constant RandomNormal RandomUniform",
    "draws": "Bernoulli Multinomial",
}
ELSEWHERE = {"If"}  # has a test of its own


def check(model: onnx.ModelProto, inputs: list[torch.Tensor]) -> None:
    """Raises GradcheckError where a gradient is not that of finite differences."""
    view = torch_view(model, precision=torch.float64).requires_grad_(False)
    assert torch.autograd.gradcheck(view, inputs)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_gradient_is_that_of_finite_differences(one: Case) -> None:
    check(one.model(), one.inputs())


@pytest.mark.parametrize("one", CASES, ids=str)
def test_mapped_rows_are_those_of_one_run_each(one: Case) -> None:
    """As attacks run a model whose batch is fixed to 1: with `torch.func.vmap`."""
    view = torch_view(one.model(), precision=torch.float64).requires_grad_(False)
    runs = [[x.detach() * scale for x in one.inputs()] for scale in (1.0, 0.9)]
    mapped = torch.func.vmap(view)(*map(torch.stack, zip(*runs, strict=True)))
    single = [view(*run) for run in runs]
    for index in range(one.outputs):
        rows = [run[index] if one.outputs > 1 else run for run in single]
        found = mapped[index] if one.outputs > 1 else mapped
        torch.testing.assert_close(found, torch.stack(rows))


def test_every_operator_has_a_case_or_a_reason() -> None:
    excused = [name for names in NO_GRADIENT.values() for name in names.split()]
    tried = {one.operator for one in CASES} | ELSEWHERE
    assert len(excused) == len(set(excused))
    assert not tried & set(excused)
    assert tried | set(excused) == set(OPERATORS)


@pytest.mark.parametrize("condition", [True, False])
def test_gradient_flows_through_the_branch_that_runs(condition: bool) -> None:
    model = parser.parse_model(
        """
        <ir_version: 10, opset_import: ["": 21]>
        g (float[3] x) => (float[3] y) <bool yes = {1}> {
            s = Sin (x)
            y = If (yes) <
                then_branch = t () => (float[3] a) { a = Mul (s, x) },
                else_branch = e () => (float[3] b) { b = Exp (s) }
            >
        }
        """
    )
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(condition), "yes"))
    check(model, [torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64, requires_grad=True)])


@pytest.mark.parametrize("form", ["smooth", "hard"])
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_gradient_of_a_hardened_model(form: str, activation: str) -> None:
    """Every encoding: in front of Conv and Gemm, after an activation of either kind."""
    model = parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 2, 4, 4] x) => (float[n, 3] y) {{
            a = Conv (x, k1)
            b = {activation} (a)
            c = Conv (b, k2)
            d = {activation} (c)
            f = Flatten (d)
            y = Gemm (f, w)
        }}
        """
    )
    rng = np.random.default_rng(0)
    for name, shape in {"k1": (3, 2, 2, 2), "k2": (2, 3, 2, 2), "w": (8, 3)}.items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    images = [{"x": rng.normal(size=(2, 4, 4)).astype(np.float32)} for _ in range(4)]
    result = lipcompile.harden(model, images, form=form, cr=0.25, selector=Selector("all"))
    assert isinstance(result.model, onnx.ModelProto)
    x = torch.tensor(rng.normal(size=(1, 2, 4, 4)), requires_grad=True)
    hardened = torch_view(result.model, precision=torch.float64)
    original = torch_view(model, precision=torch.float64)
    assert not torch.allclose(hardened(x), original(x))  # thresholds are within reach
    check(result.model, [x])


def test_planted_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = lambda _: lambda x: straight_through(torch.tanh(x), x)  # noqa: E731
    monkeypatch.setitem(OPERATORS, "Tanh", wrong)
    one = case("Tanh", (3, 4))
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        check(one.model(), one.inputs())
