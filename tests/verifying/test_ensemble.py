"""Ensembles that are what they say pass; what is planted in a graph is caught, and by what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.ensembles.models import Network
from tests.ensembles.test_composition import ENSEMBLES, harden, wrap, write
from tests.verifying.test_verify import (
    COLUMNS,
    OUTPUTS,
    READERS,
    REBUILT,
    SIGNATURE,
    TENSORS,
    UNTOUCHED,
    evidence,
    failed,
    producer,
    scale,
    weight,
)
from tests.verifying.wrapped import ENSEMBLE, OURS, check, made

OF_VARIANT: dict[str, set[str]] = {
    "none": set(),
    "smooth": {READERS, TENSORS},
    "hard": {READERS, TENSORS},
    "soft": {READERS, TENSORS},
    "weight": {READERS, COLUMNS},
    "compact": {READERS},
}


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("variant", OF_VARIANT)
def test_ensembles_pass(variant: str, ensemble: str) -> None:
    result = check(*made(variant, ensemble))
    assert result.holds, str(result)
    said = {"none": "none", "weight": "weight", "compact": "weight"}.get(variant, "forged")
    assert result.variant == said
    held = {check.name for check in result.checks if check.decides and check.holds}
    always = {"belongs together", SIGNATURE, REBUILT, ENSEMBLE, OUTPUTS}
    untouched = set() if variant == "compact" else {UNTOUCHED}
    assert held == always | untouched | OF_VARIANT[variant]
    views = f"views ({ENSEMBLES[ensemble].views})"
    assert views in evidence(result, ENSEMBLE)
    assert "on 8 of 12 random samples" in evidence(result, ENSEMBLE)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_files_pass(ensemble: str, tmp_path: Path) -> None:
    path = write(Network().proto(), tmp_path)
    both = harden(path, "soft", "both.onnx", ensemble=ENSEMBLES[ensemble]).output
    for hardened in (both, wrap(path, ensemble, "wrapped.onnx")):
        assert hardened is not None
        result = check(path, hardened)
        assert result.holds, str(result)


def test_a_plain_hardened_model_has_no_such_check(tmp_path: Path) -> None:
    path = write(Network().proto(), tmp_path)
    hardened = harden(path, "hard", "hard.onnx").output
    assert hardened is not None
    result = check(path, hardened)
    assert ENSEMBLE not in {check.name for check in result.checks}


# What is planted


def last(model: onnx.ModelProto, op_type: str) -> Any:
    return [node for node in model.graph.node if node.op_type == op_type][-1]


def insert_before(model: onnx.ModelProto, node: Any, extra: onnx.NodeProto) -> None:
    place = next(i for i, n in enumerate(model.graph.node) if n.output == node.output)
    model.graph.node.insert(place, extra)


def give_a_branch_its_own_weight(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(weight(model, "W")) * np.float32(1.1)
    model.graph.initializer.append(numpy_helper.from_array(array, "mine"))
    producer(model, f"{OURS}/1/z").input[1] = "mine"


def change_a_node_of_a_branch(model: onnx.ModelProto) -> None:
    producer(model, f"{OURS}/5/y").op_type = "Softmax"


def skip_a_node_of_a_branch(model: onnx.ModelProto) -> None:
    producer(model, f"{OURS}/1/z").input[0] = f"{OURS}/2/f"


def take_the_largest(model: onnx.ModelProto) -> None:
    last(model, "Mean").op_type = "Max"


def drop_a_view(model: onnx.ModelProto) -> None:
    del last(model, "Mean").input[-1]


def count_a_view_twice(model: onnx.ModelProto) -> None:
    mean = last(model, "Mean")
    mean.input[1] = mean.input[0]


def mirror_top_and_bottom(model: onnx.ModelProto) -> None:
    slices = [node for node in model.graph.node if node.op_type == "Slice"]
    mirror = next(node for node in slices if len(node.input) == 5)  # has steps
    axes = producer(model, mirror.input[3]).attribute[0].t
    axes.CopyFrom(numpy_helper.from_array(np.array([2])))


def repeat_the_border(model: onnx.ModelProto) -> None:
    last(model, "Pad").attribute[0].s = b"edge"


def swap_views(model: onnx.ModelProto) -> None:
    joined = last(model, "Concat")
    first, second = joined.input[:2]
    joined.input[:2] = [second, first]


def scale_a_view(model: onnx.ModelProto) -> None:
    """By an operator that has the ensemble's own prefix."""
    mean = last(model, "Mean")
    names = [mean.input[0], mean.input[0]]
    insert_before(model, mean, helper.make_node("Add", names, [f"{OURS}/sneaked"]))
    mean.input[0] = f"{OURS}/sneaked"


def insert_a_node_that_does_nothing(model: onnx.ModelProto) -> None:
    mean = last(model, "Mean")
    extra = helper.make_node("Identity", [mean.input[0]], [f"{OURS}/sneaked"])
    insert_before(model, mean, extra)
    mean.input[0] = f"{OURS}/sneaked"


def insert_a_node_that_no_one_reads(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["y"], [f"{OURS}/unread"]))


def change_a_weight_inside(model: onnx.ModelProto) -> None:
    scale(weight(model, "W"), 1.1)


PLANTED: list[tuple[Callable[[onnx.ModelProto], None], str, set[str]]] = [
    (give_a_branch_its_own_weight, "branches", {REBUILT, ENSEMBLE, UNTOUCHED}),
    (change_a_node_of_a_branch, "branches", {REBUILT, ENSEMBLE}),
    (skip_a_node_of_a_branch, "branches", {REBUILT, ENSEMBLE}),
    *((take_the_largest, way, {REBUILT, ENSEMBLE}) for way in ("batch", "branches")),
    *((drop_a_view, way, {REBUILT, ENSEMBLE}) for way in ("batch", "branches")),
    *((count_a_view_twice, way, {REBUILT, ENSEMBLE}) for way in ("batch", "branches")),
    *((mirror_top_and_bottom, way, {REBUILT, ENSEMBLE}) for way in ("batch", "branches")),
    *((repeat_the_border, way, {REBUILT, ENSEMBLE}) for way in ("batch", "branches")),
    (swap_views, "batch", {REBUILT}),
    *((scale_a_view, way, {REBUILT, ENSEMBLE}) for way in ("batch", "branches")),
    *((insert_a_node_that_does_nothing, way, {REBUILT}) for way in ("batch", "branches")),
    *((insert_a_node_that_no_one_reads, way, {REBUILT}) for way in ("batch", "branches")),
    *((change_a_weight_inside, way, {REBUILT, UNTOUCHED}) for way in ("batch", "branches")),
]


@pytest.mark.parametrize("variant", ["none", "smooth"])
@pytest.mark.parametrize(
    ("edit", "way", "caught"), PLANTED, ids=[f"{e.__name__}-{way}" for e, way, _ in PLANTED]
)
def test_tampering_is_caught_by_the_right_checks(
    edit: Callable[[onnx.ModelProto], None],
    way: str,
    caught: set[str],
    variant: str,
) -> None:
    original, model = made(variant, way)
    edit(model)
    result = check(original, model)
    assert failed(result) == caught, str(result)
    assert result.verdict == "the file is NOT what its provenance says"


def test_the_part_that_is_off_is_named() -> None:
    for edit, part in ((mirror_top_and_bottom, "view 1"), (take_the_largest, "scores")):
        original, model = made("none", "batch")
        edit(model)
        assert f": {part} off by " in evidence(check(original, model), ENSEMBLE)
