"""Which output an ensemble averages, and which models are no classifiers."""

from __future__ import annotations

import onnx
import pytest

from lipcompile import model_io
from lipcompile.ensembles.classifier import find_scores
from lipcompile.errors import ModelError
from lipcompile.model_io import LoadedModel

CONV = "c = Conv (x, w)"  # two channels of 8 by 8 pixels
POOLED = f"{CONV} p = GlobalAveragePool (c) f = Flatten (p)"
FLAT = f"{CONV} f = Flatten (c)"
WHOLE = "c = Conv (x, whole) f = Flatten (c)"  # two channels of one pixel


def loaded(body: str, outputs: str = "float[n, 2] y") -> LoadedModel:
    """A model of images with three channels and 8 by 8 pixels; only its graph is read."""
    few, many, takes = ", ".join(["1"] * 6), ", ".join(["1"] * 384), "float[n, 3, 8, 8] x"
    return model_io.load(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> net ({takes}) => ({outputs}) '
            f"<float[2, 3, 1, 1] w = {{{few}}}, float[2, 3, 8, 8] whole = {{{many}}}, "
            f"float two = {{2}}> {{ {body} }}"
        )
    )


# What is found: graph -> outputs, of which "y" holds the scores
FOUND = {
    f"{POOLED} y = Softmax (f)": "float[n, 2] y",
    f"{POOLED} y = Identity (f)": "float[n, 2] y",
    f"{POOLED} y = Cast <to = 10> (f)": "float16[n, 2] y",
    f"{CONV} y = GlobalAveragePool (c)": "float[n, 2, 1, 1] y",
    f"{WHOLE} y = Identity (f)": "float[n, 2] y",
    f"{WHOLE} y = Softmax (f)": "float[n, 2] y",
    "y = Conv (x, whole)": "float[n, 2, 1, 1] y",
    f"{FLAT} y = Gemm <transB = 1> (f, whole)": "float[n, 2] y",
    "y = Flatten (x)": "float[n, 192] y",
    f"{POOLED} y = Neg (f)": "float[n, k] y",
}


@pytest.mark.parametrize("body", FOUND)
def test_scores_are_found(body: str) -> None:
    assert find_scores(loaded(body, FOUND[body]), None).name == "y"


# What is refused, and why: graph -> outputs, and the reason
BESIDE = r"'net' gives 'm: .*' beside 'y: float32 \[n, 2\]', .*: if that will do, say so with "
LAID_FLAT = r"'y: .* \[n, 128\]', which is the map of a convolution \(boxes or a mask\)"
NO_SCORES = r"'net' has no output with class scores \(float \[N, classes\]\)"
REFUSED = {
    f"{POOLED} y = ReduceMean <axes = [1]> (f)": (
        "float[n, 1] y",
        r"'net' gives 'y: float32 \[n, 1\]', one value per image, and no class scores: an "
        "ensemble takes classifiers; if its scores .*, say so with --scores",
    ),
    f"{CONV} s = Sigmoid (c) y = GlobalMaxPool (s)": ("float[n, 1, 1, 1] y", "one value per"),
    f"{CONV} y = Flatten (c)": ("float[n, 128] y", LAID_FLAT + ".* say so with --scores"),
    f"{FLAT} y = Sigmoid (f)": ("float[n, 128] y", LAID_FLAT),
    f"{FLAT} a = Add (f, two) b = Mul (a, two) y = Cast <to = 10> (b)": (
        "float16[n, 128] y",
        LAID_FLAT,
    ),
    f"{CONV} t = Transpose <perm = [0, 2, 3, 1]> (c) f = Flatten (t) y = Softmax (f)": (
        "float[n, 128] y",
        LAID_FLAT,
    ),
    f"{POOLED} y = Identity (f) m = Identity (c)": (
        "float[n, 2] y, float[n, 2, 8, 8] m",
        f"{BESIDE}--scores 'y'$",
    ),
    f"{POOLED} y = Identity (f) m = ArgMax <axis = 1> (f)": (
        "int64[n, 1] m, float[n, 2] y",
        BESIDE,
    ),
    f"{POOLED} y = Identity (f) m = Neg (f)": (
        "float[n, 2] y, float[n, 2] m",
        "'net' has 2 outputs that may hold class scores: .*; name one with --scores",
    ),
    f"{CONV} y = Sigmoid (c)": ("float[n, 2, 8, 8] y", NO_SCORES),
    f"{POOLED} y = ArgMax <axis = 1> (f)": ("int64[n, 1] y", NO_SCORES),
}


@pytest.mark.parametrize("body", REFUSED)
def test_model_that_is_no_classifier(body: str) -> None:
    outputs, match = REFUSED[body]
    with pytest.raises(ModelError, match=match):
        find_scores(loaded(body, outputs), None)


def test_every_other_output_is_listed() -> None:
    body = f"{POOLED} y = Identity (f) m = Identity (c) k = ArgMax <axis = 1> (f)"
    model = loaded(body, "float[n, 2, 8, 8] m, float[n, 2] y, int64[n, 1] k")
    match = r"gives 'm: float32 \[n, 2, 8, 8\]', 'k: int64 \[n, 1\]' beside 'y: "
    with pytest.raises(ModelError, match=match):
        find_scores(model, None)


# The user's word

FLOAT = [
    body for body, (outputs, _) in REFUSED.items() if not outputs.endswith("int64[n, 1] y")
]


@pytest.mark.parametrize("body", FLOAT)
def test_named_output_is_taken(body: str) -> None:
    outputs, _ = REFUSED[body]
    assert find_scores(loaded(body, outputs), "y").name == "y"


@pytest.mark.parametrize(
    ("dtype", "match"),
    [
        ("int64[n, 2]", r"output 'y: int64 \[n, 2\]' of 'net' is int64: only float scores"),
        ("bool[n, 2]", "is bool: only float scores have a mean"),
        ("string[n, 2]", "of 'net' is no tensor: only float scores have a mean"),
        ("seq(float[2])", "of 'net' is no tensor: only float scores have a mean"),
    ],
)
def test_named_output_without_a_mean(dtype: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        find_scores(loaded("y = Identity (x)", f"{dtype} y"), "y")


def test_name_that_no_output_has() -> None:
    model = loaded(f"{POOLED} y = Identity (f)")
    with pytest.raises(ModelError, match=r"'net' has no output 'z': it gives 'y: float32"):
        find_scores(model, "z")
