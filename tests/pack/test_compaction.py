"""Real models with zeroed weight columns lose channels, and compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.passes.drop_dead_channels import CompactionReport, DropDeadChannels
from lipcompile.runtime import RuntimeOptions, open_session
from lipcompile.sites import Selector, find_sites
from lipcompile.weights import columns_of, stored_weight
from tests.pack.conftest import PackModel

SHARE = 0.3
# What has to be dropped at least: all of the layers that nothing but a layer reads.
LAYERS = {
    "cifar_cnn_a_adv": 2,
    "cifar_conv_small_pgd": 2,
    "cifar_conv_small_sigmoid": 2,
    "cifar_wide_masked_adv": 2,
    "mnist_lenet5_advtrained": 2,
    "mnist_cnn_pytorch": 2,
    "mnist_cora_trades": 7,
    "mnist_eran_sigmoid": 6,
    "cifar_marabou_large": 3,
    "opennsfw": 32,
    "cifar_resnet18_w16": 8,
    "efficientnet_lite0_w16": 16,
    "ppocrv6_tiny_det": 20,
    "mscn_128d_dual": 12,
    "pensieve_small_parallel": 14,
    "unet_upsample": 3,
    "oww_embedding": 18,
}
# Why other models lose nothing: what holds their dead channels.
HELD = {
    "acasxu_1_1": "before IR version 4",
    "mnist_cntk": "before IR version 4",
    "kws_mlperf": "is quantised",
    "mobilenetv2_qdq": "is quantised",
}
# Why no number of others can be zeroed: what becomes of every layer's weight.
UNTOUCHED = {
    # Both have IR version 4 or later, where a caller may replace the default of an input.
    "collins_rul_20": {"is a graph input, and a caller may replace it"},
    "ultraface_rfb320": {"is a graph input, and a caller may replace it"},
    "light_inception_v2": {"is made by ConstantOfShape"},
    "light_resnet50": {"is made by ConstantOfShape"},
    "light_squeezenet": {"is made by ConstantOfShape"},
    "mnist_lr_scikit": set(),  # it has no linear layer
}


def fixed_weights(pack_model: PackModel) -> set[str]:
    """Why the numbers of layers' weights cannot be edited; "" for those that can."""
    loaded = model_io.load(pack_model.path)
    layers = find_sites(loaded.graph_ir, Selector("all")).layers
    weights = [stored_weight(layer.node, 1 - layer.data_index) for layer in layers]
    return {weight if isinstance(weight, str) else "" for weight in weights}


def zeroed(pack_model: PackModel) -> onnx.ModelProto:
    """The model with a share of the columns of every layer of rule all zero."""
    loaded = model_io.load(pack_model.path)
    rng = np.random.default_rng(0)
    for layer in find_sites(loaded.graph_ir, Selector("all")).layers:
        weight = stored_weight(layer.node, 1 - layer.data_index)
        if isinstance(weight, str):
            continue
        array = weight.array()
        columns = columns_of(layer, array.shape)
        dead = columns.spread(rng.random(columns.count) < SHARE)
        filled = np.where(dead, weight.zeros(), array).astype(array.dtype)
        weight.store(filled, f"{layer.name}/weight")
    return model_io.render(loaded.proto, loaded.graph_ir)


def compact(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, CompactionReport]:
    loaded = model_io.load(proto)
    report = DropDeadChannels(block=1)(loaded.graph_ir)
    return model_io.render(loaded.proto, loaded.graph_ir), report


def outputs(proto: onnx.ModelProto, pack_model: PackModel) -> list[Any]:
    loaded = model_io.load(proto)
    session = open_session(proto.SerializeToString(), RuntimeOptions(threads=1))
    sample = pack_model.samples(1)[0]
    feeds = {}
    for spec in loaded.inputs:
        array = np.asarray(sample[spec.name])
        rank = len(spec.shape or ())
        feeds[spec.name] = array[None] if rank == array.ndim + 1 else array
    return list(session.run([spec.name for spec in loaded.outputs], feeds).values())


def test_compacted_models_compute_the_same(pack_model: PackModel) -> None:
    name = pack_model.entry["id"]
    before = zeroed(pack_model)
    after, report = compact(before)
    if name in UNTOUCHED:
        assert fixed_weights(pack_model) == UNTOUCHED[name]
        assert (report.dropped, report.kept) == ((), ())
        assert after == before
        return
    if name in HELD:
        assert report.dropped == ()
        assert any(HELD[name] in row.reason for row in report.kept)
        assert after == before
        return
    assert len(report.dropped) >= LAYERS.get(name, 1)
    assert after.ByteSize() < before.ByteSize()
    for old, new in zip(outputs(before, pack_model), outputs(after, pack_model), strict=True):
        old, new = np.asarray(old), np.asarray(new)
        # float32 sums of other lengths and order; 50 layers of them for some of the models
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * max(np.abs(old).max(), 1e-9))


def test_inner_channels_of_bottlenecks_go_and_the_residual_stream_stays(
    pack: dict[str, PackModel],
) -> None:
    proto = zeroed(pack["opennsfw"])
    _, report = compact(proto)
    joined = {
        source for node in proto.graph.node if node.op_type == "Add" for source in node.input
    }
    made_by = {node.name: node.output[0] for node in proto.graph.node}
    assert not joined & {made_by[row.layer] for row in report.dropped}
    streams = [row for row in report.kept if "another activation" in row.reason]
    assert streams and {made_by[row.layer] for row in streams} <= joined
    assert len(report.dropped) == 33  # two of each of 16 bottlenecks, and the stem
    assert report.parameters > 2_000_000  # of 5.9 million


@pytest.mark.parametrize("name", ["cifar_cnn_a_adv", "opennsfw", "mobilenetv2_qdq"])
def test_untouched_models_keep_their_bytes(name: str, pack: dict[str, PackModel]) -> None:
    before = onnx.load(pack[name].path)
    after, _ = compact(before)
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(
        deterministic=True
    )


def test_channels_in_front_of_convolutions_and_pools_go_in_whole_blocks(
    pack: dict[str, PackModel],
) -> None:
    loaded = model_io.load(zeroed(pack["opennsfw"]))
    report = DropDeadChannels()(loaded.graph_ir)
    after = model_io.render(loaded.proto, loaded.graph_ir)
    assert len(report.dropped) >= 20
    assert {(row.count - len(row.channels)) % 16 for row in report.dropped} == {0}
    assert any("no multiple of 16" in row.reason for row in report.kept)
    before = outputs(zeroed(pack["opennsfw"]), pack["opennsfw"])
    for old, new in zip(before, outputs(after, pack["opennsfw"]), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5)
