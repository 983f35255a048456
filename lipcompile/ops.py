"""What LipCompile knows of operators: families by name, shared by sites, forms and passes."""

from __future__ import annotations

import onnx_ir as ir


def names_in(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def default_opset(model: ir.Model) -> int:
    """Version of ONNX's own operator set, whose domain has two spellings."""
    imports = model.opset_imports
    return imports.get("") or imports.get("ai.onnx", 1)


# Operators whose constant weight makes them a linear layer.
LINEAR_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# Linear inside, but not rewritten: operator -> code and reason of the refusal.
_QUANTISED = (
    "quantised-operator",
    "reads integers, and forged functions need floats: use QDQ",
)
_FUSED = ("fused-operator", "is a runtime's fused operator: export without its optimisation")
_RECURRENT = ("recurrent", "is recurrent: its hidden state is no tensor of the graph")
UNSUPPORTED_LINEAR = {
    "QLinearConv": _QUANTISED,
    "QLinearMatMul": _QUANTISED,
    "ConvInteger": _QUANTISED,
    "MatMulInteger": _QUANTISED,
    "DynamicQuantizeMatMul": _QUANTISED,
    "MatMulIntegerToFloat": _QUANTISED,
    "MatMulNBits": _QUANTISED,
    "MatMulBnb4": _QUANTISED,
    "QGemm": _QUANTISED,
    "QAttention": _QUANTISED,
    "NhwcConv": _FUSED,
    "FusedConv": _FUSED,
    "FusedGemm": _FUSED,
    "FusedMatMul": _FUSED,
    "FusedMatMulActivation": _FUSED,
    "GemmFastGelu": _FUSED,
    "Attention": _FUSED,
    "RNN": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "DeformConv": ("deformable", "samples where its input says, so it is not linear in it"),
    "Einsum": ("einsum", "is an Einsum with a constant operand: export it as MatMul"),
}

# Rearrange, repeat or drop elements of the data inputs; operands such as shapes are not data.
SHAPE_ONLY = names_in(
    "Identity Reshape Flatten Transpose Squeeze Unsqueeze Expand Slice Split Gather Dropout "
    "DepthToSpace SpaceToDepth Tile Concat Pad"
)
# Only rearrange the elements of their first input: a function of each element alone may be
# computed before them as well. Before MaxPool, if it grows with its argument.
REARRANGES = names_in("Reshape Flatten Transpose Squeeze Unsqueeze Identity")
# Act on each element alone (or interpolate between elements) once other operands are constant.
AFFINE_WITH_CONSTANT = names_in(
    "Add Sub Mul Div Neg Cast CastLike BatchNormalization QuantizeLinear DequantizeLinear "
    "Clip Resize Upsample"
)
# Pointwise and not linear: what stands between FC1 and FC2.
NONLINEAR = names_in(
    "Relu LeakyRelu PRelu Elu Selu Celu Gelu FastGelu QuickGelu BiasGelu Sigmoid "
    "HardSigmoid HardSwish Swish Mish Softplus Softsign Tanh Erf ThresholdedRelu Pow Clip "
    "Max Min Exp Where Abs Sqrt"
)
# Multiply two activations inside one operator, as attention does.
ATTENTION_OPS = names_in(
    "Attention MultiHeadAttention GroupQueryAttention PackedMultiHeadAttention "
    "DecoderMaskedMultiHeadAttention PagedAttention"
)
# Multiply two operands; with two activations they are the core of a decomposed attention.
PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "FusedMatMul"})
# Never negative, whatever the input.
NONNEGATIVE = names_in("Relu Sigmoid HardSigmoid Softmax Abs Exp Sqrt Softplus")
# Not negative when none of the data inputs is. (Pad and Resize may bring in other values.)
KEEPS_SIGN = names_in(
    "Identity Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Concat Dropout Add "
    "Mul MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax"
)
# Operators whose every input is data; of other shape-only operators only input 0 is.
ALL_INPUTS_ARE_DATA = frozenset({"Concat"})
# Give another result each time, so that a weight made by them is not constant.
RANDOM = names_in(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli"
)
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
# Prefix of every node and value that LipCompile inserts, and of its metadata keys.
MARK = "lipcompile"


def standard_op(node: ir.Node) -> str:
    """The operator's name if it is ONNX's own (or a runtime's Q or DQ), else "".

    A local function, or an operator of another domain, may bear the name of a standard one.
    """
    own = node.domain in STANDARD_DOMAINS or node.op_type in QDQ
    return node.op_type if own else ""


def commutes(node: ir.Node) -> bool:
    """Whether a form may be computed on the node's first input instead of its output."""
    if standard_op(node) == "MaxPool":  # its indices are no function of what a form gives
        return len(node.outputs) == 1
    return standard_op(node) in REARRANGES
