"""Which output holds the scores, and where the logits are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from lipcompile import model_io
from lipcompile.auditing.victim import Settings, Victim, open_victim
from lipcompile.errors import ModelError
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.scores import class_count, logits_behind, score_output

# What a graph gives -> which output that is, and how many classes.
FOUND = {
    "one row per image": ("float[n, 4] y", "y", 4),
    "batch of one": ("float[1, 4] y", "y", 4),
    "pooled to one pixel": ("float[n, 4, 1, 1] y", "y", 4),
    "unknown number of classes": ("float[n, k] y", "y", None),
    "axes that may be one": ("float[n, 4, h, w] y", "y", 4),
    "unknown rank": ("float y", "y", None),
    "half precision": ("float16[n, 4] y", "y", 4),
    "one score, which is told later": ("float[n, 1] y", "y", 1),
    "beside class indices": ("int64[n, 1] top, float[n, 4] y", "y", 4),
    "beside a mask": ("float[n, 4, 8, 8] mask, float[n, 4] y", "y", 4),
    "beside one number per image": ("float[n] confidence, float[n, 4] y", "y", 4),
}
REFUSED = {
    "segmentation": "float[n, 4, 8, 8] mask",
    "regression": "float[n] y",
    "class indices": "int64[n, 4] y",
    "a sequence of maps": "seq(float[4]) y",
}


def loaded(outputs: str, body: str | None = None) -> LoadedModel:
    """A model with these outputs, each the graph's input."""
    names = [part.split()[-1] for part in outputs.replace(", ", ",").split(",") if " " in part]
    nodes = body or " ".join(f"{name} = Identity (x)" for name in names)
    return model_io.load(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 4] x) => ({outputs}) '
            f"{{ {nodes} }}"
        )
    )


@pytest.mark.parametrize("case", FOUND)
def test_output_with_the_scores_is_found(case: str) -> None:
    outputs, name, classes = FOUND[case]
    model = loaded(outputs)
    if case == "unknown rank":
        model.proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert score_output(model).name == name
    assert class_count(model) == classes


@pytest.mark.parametrize("case", REFUSED)
def test_model_without_scores_is_refused(case: str) -> None:
    with pytest.raises(
        ModelError, match=r"no output with class scores .*it gives '.*': only classif"
    ):
        score_output(loaded(REFUSED[case]))


TWO = "float[n, 4] main, float[n, 9] auxiliary"


def test_two_candidates_are_told_apart_by_the_user() -> None:
    model = loaded(TWO)
    match = r"has 2 outputs that may hold class scores: it gives 'main: float32 \[n, 4\]', "
    with pytest.raises(ModelError, match=match + r"'auxiliary: .*name one with --scores"):
        score_output(model)
    for name, classes in (("main", 4), ("auxiliary", 9)):
        assert score_output(model, name).name == name
        assert class_count(model, name) == classes


@pytest.mark.parametrize("outputs", [TWO, "float[n, 4] main"])
def test_name_that_no_output_has(outputs: str) -> None:
    with pytest.raises(ModelError, match=r"has no output 'x': it gives 'main: float32"):
        score_output(loaded(outputs), "x")


def test_named_output_may_be_what_would_not_be_found() -> None:
    """Whether it holds scores is then seen when it is run."""
    model = loaded("float[n, 4, 8, 8] mask, float[n, 4] y")
    assert score_output(model, "mask").name == "mask"


# Graph -> the tensor that attacks read; "y" is the output itself.
LOGITS = {
    "logits": ("y = Identity (x)", "y"),
    "softmax": ("z = Neg (x) y = Softmax <axis = 1> (z)", "z"),
    "softmax of the input": ("y = Softmax (x)", "x"),
    "then cast": ("z = Neg (x) s = Softmax (z) y = Cast <to = 1> (s)", "z"),
    "then reshaped": (
        "z = Neg (x) s = Softmax (z) k = Shape (x) y = Reshape (s, k)",
        "z",
    ),
    "then several": (
        "z = Neg (x) s = Softmax (z) c = Cast <to = 1> (s) i = Identity (c) y = Flatten (i)",
        "z",
    ),
    "then squeezed": (
        "k = Constant <value_ints = [2]> () z = Unsqueeze (x, k) s = Softmax <axis = 1> (z) "
        "y = Squeeze (s, k)",
        "z",
    ),
    "log-softmax": ("z = Neg (x) y = LogSoftmax (z)", "y"),
    "sigmoid": ("z = Neg (x) y = Sigmoid (z)", "y"),
    "softmax in the middle": ("z = Softmax (x) y = Mul (z, x)", "y"),
    "softmax, then the logarithm": ("z = Softmax (x) y = Log (z)", "y"),
    "cast alone": ("y = Cast <to = 1> (x)", "y"),
}


@pytest.mark.parametrize("case", LOGITS)
def test_logits_are_what_goes_into_a_last_softmax(case: str) -> None:
    body, expected = LOGITS[case]
    assert logits_behind(loaded("float[n, 4] y", body).graph_ir, "y") == expected


def test_each_output_has_logits_of_its_own() -> None:
    body = "a = Softmax (x) z = Neg (x) s = Softmax (z) b = Identity (s) c = Neg (s)"
    graph = loaded("float[n, 4] a, float[n, 4] b, float[n, 4] c", body).graph_ir
    assert [logits_behind(graph, name) for name in "abc"] == ["x", "z", "c"]


# What only a run can tell


def opened(outputs: str, body: str, scores: str | None = None) -> Victim:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 2, 2] x) => ({outputs}) '
        f"{{ {body} }}"
    )
    pixels = np.random.default_rng(0).random((3, 4, 2, 2)).astype(np.float32)
    cpu, settings = torch.device("cpu"), Settings(scores)
    return open_victim(
        "original", model_io.load(model), Normalisation(), pixels, cpu, settings
    )


NOT_A_ROW = r"has shape \[3, 4, 2, 2\] for 3 images, which is not one row of class scores"


@pytest.mark.parametrize(
    ("outputs", "body", "scores", "match"),
    [
        ("float[n, 4, h, w] y", "y = Neg (x)", None, NOT_A_ROW),
        (
            "float[n, 4, 2, 2] y, float[n, 16] z",
            "y = Neg (x) z = Flatten (x)",
            "y",
            NOT_A_ROW,
        ),
        (
            "float[n, k] y",
            "y = ReduceMean <axes = [1, 2, 3], keepdims = 0> (x)",
            None,
            r"has shape \[3\] for 3 images",
        ),
        (
            "float[n, k] y",
            "f = Flatten (x) y = ReduceMean <axes = [1]> (f)",
            None,
            "output 'y' of 'net' has one value per image: only classifiers",
        ),
    ],
    ids=["segmentation", "named segmentation", "one number", "regression"],
)
def test_output_that_turns_out_to_hold_no_scores(
    outputs: str, body: str, scores: str | None, match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        opened(outputs, body, scores)


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("float[n, k] y", "y = Flatten (x)"),
        ("float[n, 4, h, w] y", "y = GlobalAveragePool (x)"),
    ],
)
def test_output_that_turns_out_to_hold_scores(outputs: str, body: str) -> None:
    assert opened(outputs, body).classes in (4, 16)
