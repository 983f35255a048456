"""Variant "weight" on real models, through the public API: compacting changes no output.

The yardstick is the model that was zeroed and not compacted, so that what zeroing itself
changes does not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import HardenResult, ScanOptions, model_io
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.sources.opening import open_source
from lipcompile.runtime import RuntimeOptions, open_session
from tests.pack.conftest import PackModel

CALIBRATION, COMPARED = 4, 8
ONE_THREAD = RuntimeOptions(threads=1)
# float32 sums of fewer terms, in another order: 5e-6 was measured with ppocrv6_tiny_det, of 84
# layers, and at most 2e-6 with the others.
ROUNDING = 2e-5
# The zero rate at which so many channels go at least, at c_r = 2^-6 and in blocks.
DROPPED = {
    "cifar_vit_pgd": (1.0, 8),
    "cifar_marabou_large": (1.0, 39),
    "cifar_cnn_a_adv": (1.0, 6),
    "cifar_wide_masked_adv": (1.0, 7),
    "mnist_cnn_a_adv": (1.0, 16),
    "mnist_cora_trades": (1.0, 800),
    "mnist_eran_sigmoid": (1.0, 100),
    "fashion_mnist_kw": (1.0, 8),
    "efficientnet_lite0_w16": (1.0, 700),
    "ppocrv6_tiny_det": (1.0, 8),
    "ml4acopf_14": (1.0, 40),
    "mscn_128d_dual": (1.0, 700),
    "pensieve_small_parallel": (1.0, 200),
    "opennsfw": (0.8, 500),
    "cifar_resnet18_w16": (0.8, 800),
    "cifar_wrn10_2_adv": (0.8, 48),
    "cifar_sri_resnet_a": (0.8, 32),
    "cifar_resnet20_dynamo": (0.8, 80),
    "oww_embedding": (0.8, 8),
    "cifar_resnet4b": (0.5, 32),
    "mnist_lenet5_advtrained": (0.5, 16),
    "mnist_cnn_pytorch": (0.5, 8),
    "tinyyolo": (0.5, 48),
    "unet_upsample": (0.5, 140),
    # Columns are zeroed, and every dead channel is held.
    "acasxu_1_1": (1.0, 0),
    "kws_mlperf": (0.8, 0),
    "mobilenetv2_qdq": (1.0, 0),
}


def harden(pack_model: PackModel, name: str, folder: Path, compact: bool) -> HardenResult:
    return lipcompile.harden(
        pack_model.path,
        pack_model.samples(CALIBRATION),
        variant="weight",
        cr="2^-6",
        zero_rate=DROPPED[name][0],
        compact=compact,
        output=folder / f"{'compacted' if compact else 'zeroed'}.onnx",
        scan=ScanOptions(batch_size=2),
        runtime=ONE_THREAD,
    )


def outputs(path: Path, samples: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Every output of every sample, of the file as ONNX Runtime loads it."""
    inputs = model_io.load(path).inputs
    batcher, session = Batcher(inputs, 1), open_session(path, ONE_THREAD)
    batches = batcher.group(open_source(samples, inputs, preprocess=None))
    runs = [session.run(session.outputs, batcher.feeds(batch)) for batch in batches]
    return [array for results in runs for array in results.values()]


def assert_same(new: list[np.ndarray], old: list[np.ndarray]) -> None:
    for after, before in zip(new, old, strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        if before.dtype.kind != "f":
            np.testing.assert_array_equal(after, before)
            continue
        atol = ROUNDING * np.abs(before).max(initial=0.0)
        np.testing.assert_allclose(after, before, rtol=0, atol=atol)


@pytest.mark.parametrize("name", list(DROPPED))
def test_compacted_file_computes_what_the_zeroed_one_does(
    pack: dict[str, Any], name: str, tmp_path: Path
) -> None:
    pack_model, least = pack[name], DROPPED[name][1]
    plain = harden(pack_model, name, tmp_path, compact=False)
    result = harden(pack_model, name, tmp_path, compact=True)
    assert plain.output is not None and result.output is not None
    assert result.compaction is not None
    dropped = sum(len(layer.channels) for layer in result.compaction.dropped)
    assert dropped >= least
    assert bool(dropped) == bool(least)
    assert dropped or result.compaction.kept
    samples = pack_model.samples(COMPARED)
    zeroed = outputs(plain.output, samples)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(zeroed, outputs(pack_model.path, samples), strict=True)
    )
    assert_same(outputs(result.output, samples), zeroed)
    if dropped:
        assert floats(result.output) < floats(plain.output)
    verified = lipcompile.verify(pack_model.path, result.output, samples, pairs=0)
    assert verified.holds, str(verified)


def floats(path: Path) -> int:
    """How many float numbers the file stores."""
    graph = onnx.load(path).graph
    tensors = [*graph.initializer]
    tensors += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type in kinds)


def test_planted_difference_is_caught() -> None:
    scores = [np.array([[1.0, 2.0]], np.float32), np.array([1])]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same([scores[0] + np.float32(1e-4), scores[1]], scores)
    with pytest.raises(AssertionError, match="not equal"):
        assert_same([scores[0], np.array([2])], scores)
