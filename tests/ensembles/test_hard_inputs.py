"""Inputs, shapes, options and files of an ensemble that are out of the ordinary."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from lipcompile.errors import ModelError, OptionError
from tests.ensembles.models import Network, in_runtime, wrapped
from tests.ensembles.seen import expected
from tests.ensembles.test_hard_models import (
    FIXED,
    SCORES,
    check_mean,
    hardened,
    images,
    made,
    run,
    way_of,
    ways,
)
from tests.ensembles.test_ways import shapes
from tests.ensembles.test_wrapped_structure import as_bytes, unwrapped
from tests.ensembles.test_wrapping import apart

POOLED = "r = Conv(x, K) p = GlobalMaxPool(r) f = Flatten(p)"

# Inputs beside the image


@pytest.mark.parametrize(
    ("more", "body", "shape"),
    [
        ("float t", "y = Mul(z, t)", ()),
        ("float[M,7] t", "s = ReduceMax<keepdims = 0>(t) y = Mul(z, s)", (6, 7)),
    ],
    ids=["a number", "another batch"],
)
def test_another_input_goes_into_every_view(
    more: str, body: str, shape: tuple[int, ...]
) -> None:
    proto = made(f"{POOLED} z = MatMul(f, W) {body}", f"{FIXED}, {more}")
    result = hardened(proto, "flip+shift:1")
    assert way_of(result) == "branches"
    t = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    check_mean(proto, result.model, "flip+shift:1", images(2), t=t)
    assert not np.allclose(run(result.model, x=images(2), t=t), run(proto, x=images(2), t=t))


NO_BATCH = {
    "float[8,8,3] x": "has not the axes of a batch of images",
    "float[3,8,8] x": "has not the axes of a batch of images",
    "float[64,64] x": "may be one image without a batch axis, or a batch of flat ones",
}


@pytest.mark.parametrize("inputs", NO_BATCH)
def test_an_image_without_a_batch_is_refused(inputs: str) -> None:
    """A view would mirror its colours, or pieces of its rows."""
    proto = made("f = Reshape(x, ROW) y = ReduceMax<axes = [1]>(f)", inputs)
    for layout in (None, "NHWC"):
        with pytest.raises(ModelError, match=NO_BATCH[inputs]):
            hardened(proto, image_input="x", layout=layout, scores="y")


@ways
def test_a_batch_of_one_grey_image(way: str) -> None:
    proto = made("a = ReduceL2<axes = [1], keepdims = 0>(x) y = Neg(a)", "float[1,28,28] x")
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [1, 28]))
    model = hardened(proto, image_input="x", by=way).model
    x = np.random.default_rng(0).normal(size=(1, 28, 28)).astype(np.float32)
    check_mean(proto, model, "flip", x)


# The first opsets


@ways
@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize(("layout", "views"), [("NCHW", "flip"), ("flat", "flip+scale:1.2")])
def test_first_opsets_are_valid_onnx(layout: str, views: str, opset: int, way: str) -> None:
    network = Network(opset, layout=layout)
    onnx.checker.check_model(network.proto(), full_check=True)
    said = {"image_input": "x", "layout": "NCHW"} if layout == "flat" else {}
    model = hardened(network.proto(), views, by=way, **said).model
    onnx.checker.check_model(model, full_check=True)
    batch = network.batch_of(3)
    assert apart(in_runtime(model, batch), expected(network, batch, views, "scores")) <= 1e-5


@ways
@pytest.mark.parametrize("ending", ["", "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [7, 8])
def test_probabilities_in_the_first_opsets(opset: int, ending: str, way: str) -> None:
    network = Network(opset, ending=ending)
    model = hardened(network.proto(), mean="probabilities", by=way).model
    onnx.checker.check_model(model, full_check=True)
    batch = network.batch_of(3)
    wanted = expected(network, batch, "flip", "probabilities")
    assert apart(in_runtime(model, batch), wanted) <= 1e-5


@pytest.mark.parametrize("opset", [9, 10])
def test_whole_numbers_are_shifted_from_opset_11_on(opset: int) -> None:
    old, new = (Network(n, dtype="uint8") for n in (opset, 11))
    with pytest.raises(OptionError, match=f"need opset 11 to shift, got {opset}: convert"):
        hardened(old.proto(), "flip+shift:2")
    hardened(old.proto(), "flip")
    batch = new.batch_of(3)
    found = in_runtime(hardened(new.proto(), "shift:2").model, batch)
    assert apart(found, expected(new, batch, "shift:2", "scores")) <= 1e-5


# What is said of tensors inside


def test_logits_that_are_averaged_keep_their_batch() -> None:
    network = Network(ending="Softmax")
    proto = onnx.shape_inference.infer_shapes(network.proto())
    before = shapes(proto)
    assert {shape[0] for shape in before.values()} == {"N"} and "z" in before
    model = wrapped(proto, "flip", "batch", mean="logits")
    inside = {name: ["2*N", *shape[1:]] for name, shape in before.items()}
    assert shapes(model) == inside | {"z": ["N", "5"]}
    onnx.shape_inference.infer_shapes(model, True, True, True)
    assert as_bytes(unwrapped(model)) == proto.SerializeToString(deterministic=True)
    batch = network.batch_of(3)
    found = in_runtime(hardened(proto, mean="logits", by="batch").model, batch)
    assert apart(found, expected(network, batch, "flip", "logits")) <= 1e-5


def test_words_about_weights_are_no_obstacle() -> None:
    proto = Network(batch="1").proto()
    for tensor in proto.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.value_info.append(info)
    assert way_of(hardened(proto, by="batch")) == way_of(hardened(proto)) == "batch"
    inner = helper.make_tensor_value_info("f", 1, [1, 48])
    proto.graph.value_info.append(inner)
    assert way_of(hardened(proto)) == "branches"


def test_a_batch_that_is_as_long_as_the_image_is_wide() -> None:
    """What is said of tensors inside would call the width a multiple of itself."""
    proto = made(f"{POOLED} {SCORES}", "float[N,3,12,N] x")
    proto = onnx.shape_inference.infer_shapes(proto)
    model = hardened(proto).model
    check_mean(proto, model, "flip", images(16, 16))
    assert as_bytes(unwrapped(model)) == proto.SerializeToString(deterministic=True)
    with pytest.raises(
        ModelError, match="names another axis 'N' like its batch, so its batch"
    ):
        hardened(proto, by="batch")


# Scores that are no row, or casts of probabilities


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_scores_that_are_no_row_have_one_mean(mean: str) -> None:
    proto = made(f"{POOLED} y = Reshape(f, GRID)", FIXED)
    grid = onnx.numpy_helper.from_array(np.array([-1, 2, 3]), "GRID")
    proto.graph.initializer.append(grid)
    output = helper.make_tensor_value_info("y", 1, ["N", 2, 3])
    proto.graph.output[0].CopyFrom(output)
    check_mean(proto, hardened(proto, scores="y").model, "flip", images(2))
    with pytest.raises(ModelError, match=f"not one row .* a mean of {mean} needs: use"):
        hardened(proto, scores="y", mean=mean)


@ways
def test_logits_that_are_cast_behind_their_softmax(way: str) -> None:
    """Wrong types would not load: the model is float16 inside."""
    proto = made(
        f"{POOLED} z = MatMul(f, W) h = Cast<to = 10>(z) s = Softmax(h) y = Cast<to = 1>(s)",
        FIXED,
    )
    with pytest.raises(ModelError, match="does not say of which type its logits are"):
        hardened(proto, mean="logits", by=way)
    inferred = onnx.shape_inference.infer_shapes(proto)
    result = hardened(inferred, mean="logits", by=way)
    assert result.ensemble is not None
    assert (result.ensemble.at, result.ensemble.dtype) == ("h", "float16")
    found = run(result.model, x=images(2))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=2e-3)
    check_mean(proto, hardened(proto, by=way).model, "flip", images(2))
