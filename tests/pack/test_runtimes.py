"""Hardened models give equal results in ONNX Runtime, OpenVINO and ONNX's reference evaluator.

ONNX Runtime, with its optimisations, is what the two others are compared with. The measure is
the largest difference of an output, over the output's largest value in all samples. Allowed is
ten times what the *original* differs by in the same two runtimes, or twice what ONNX Runtime
differs from itself without optimisations, and at least `TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import lipcompile
from lipcompile import ScanOptions, model_io
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.sources.opening import open_source
from lipcompile.runtime import RuntimeOptions, open_session
from tests.forging import BatchNormalization
from tests.pack.conftest import ENTRIES, PackModel
from tests.pack.test_every_model import NOTHING_TO_FORGE
from tests.pack.test_weight_variant import DROPPED

openvino = pytest.importorskip("openvino")

FORMS = ("smooth", "hard", "soft", "weight")
ONE_THREAD = RuntimeOptions(threads=1)
CALIBRATION, COMPARED = 4, 2
# float32 through up to 84 layers; 7e-5 was measured, and 1e-6 with most models.
TOLERANCE = 1e-4
# `hard` jumps by c where rounding carries an activation over its threshold: 3e-3 was measured,
# and 0.4 with ppocrv6_tiny_det, as ONNX Runtime from itself. Nine of ten elements of an output
# that has hundreds stay within TYPICAL even so.
JUMP, TYPICAL, MANY = 2**-7, 1e-3, 100
# At 2^-6 `soft` leaves this one outputs of 24 integer steps, which OpenVINO rounds otherwise
# than ONNX Runtime: 6 % of the original's outputs.
SMALL_CR = {"mobilenetv2_qdq": "2^-8"}
# Large images: 2 to 5 s each.
LARGE = {"light_resnet50", "light_inception_v2", "dnsmos_sig_bak_ovr", "opennsfw"}
# 2 to 60 s a sample in the reference evaluator.
SLOW = ("ppocrv6_tiny_det", "light_inception_v2", "basic_pitch", "dnsmos_sig_bak_ovr")

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], list[np.ndarray]]


def openvino_run(path: Path) -> Run:
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", exact)
    return lambda feeds: list(compiled(feeds).values())


def reference_run(path: Path) -> Run:
    evaluator = ReferenceEvaluator(str(path), new_ops=[BatchNormalization])

    def run(feeds: Feeds) -> list[np.ndarray]:
        # NumPy tells of the exponentials in sigmoids and norms that overflow, as they may.
        with np.errstate(all="ignore"):
            return evaluator.run(None, feeds)

    return run


RUNTIMES = {"openvino": openvino_run, "reference": reference_run}
EQUAL_LOGITS = "1000 equal logits, so large that rounding decides its Softmax"
# Models whose original does not run there, or not usefully.
LEFT_OUT = {
    "openvino": {"light_squeezenet": EQUAL_LOGITS},
    "reference": {
        "light_squeezenet": EQUAL_LOGITS,
        "mobilenetv2_qdq": "there is no DequantizeLinear before operator set 19",
        "kws_mlperf": "there is no DequantizeLinear before operator set 19",
        "bert_toy": "an input of an operator's own function is not found",
        "unet_upsample": "OneHot refuses its types",
        "mnist_cnn_pytorch": "LogSoftmax is the logarithm of a Softmax that underflows",
    },
}


SLOW_RUNS = {("reference", name) for name in SLOW}


def model_of(name: str) -> PackModel:
    return PackModel(next(entry for entry in ENTRIES if entry["id"] == name))


@cache
def feeds_of(name: str) -> list[Feeds]:
    inputs = model_io.load(model_of(name).path).inputs
    batcher = Batcher(inputs, 1)
    source = open_source(model_of(name).samples(COMPARED), inputs, preprocess=None)
    return [batcher.feeds(batch) for batch in batcher.group(source)]


@cache
def original_difference(name: str, runtime: str) -> float:
    path = model_of(name).path
    return worst(differences(ort_run(path), RUNTIMES[runtime](path), feeds_of(name)))


def ort_run(path: Path, optimize: bool = True) -> Run:
    session = open_session(path, RuntimeOptions(threads=1, optimize=optimize))
    return lambda feeds: list(session.run(session.outputs, feeds).values())


def differences(ours: Run, theirs: Run, feeds: list[Feeds]) -> list[np.ndarray]:
    """|theirs - ours| / max |ours|, for each output of each feed."""
    pairs = [(ours(one), theirs(one)) for one in feeds]
    found = []
    for index in range(len(pairs[0][0])):
        expected = [np.asarray(a[index], np.float64) for a, _ in pairs]
        got = [np.asarray(b[index], np.float64) for _, b in pairs]
        assert [a.shape for a in got] == [a.shape for a in expected]
        scale = max(np.abs(a).max(initial=0.0) for a in expected) or 1.0
        found += [np.abs(a - b) / scale for a, b in zip(got, expected, strict=True)]
    return found


def worst(found: list[np.ndarray]) -> float:
    return max(float(np.nan_to_num(a, nan=np.inf).max(initial=0.0)) for a in found)


def harden(pack_model: Any, form: str, output: Path) -> None:
    options: dict[str, Any] = {"form": form}
    if form == "weight":
        rate = DROPPED[pack_model.entry["id"]][0]
        options = {"variant": "weight", "compact": True, "zero_rate": rate}
    lipcompile.harden(
        pack_model.path,
        pack_model.samples(CALIBRATION),
        cr=SMALL_CR.get(pack_model.entry["id"], "2^-6"),
        output=output,
        scan=ScanOptions(batch_size=2),
        runtime=ONE_THREAD,
        **options,
    )


def cases() -> list[Any]:
    names = [entry["id"] for entry in ENTRIES if entry["id"] not in NOTHING_TO_FORGE]
    return [
        pytest.param(
            name, form, id=f"{name}-{form}", marks=[pytest.mark.slow] * (name in LARGE)
        )
        for name in names
        for form in FORMS
        if form != "weight" or name in DROPPED
    ]


@pytest.mark.parametrize(("name", "form"), cases())
def test_runtimes_agree(pack: dict[str, Any], name: str, form: str, tmp_path: Path) -> None:
    output = tmp_path / "hardened.onnx"
    harden(pack[name], form, output)
    for runtime in RUNTIMES:
        if name not in LEFT_OUT[runtime] and (runtime, name) not in SLOW_RUNS:
            assert_agrees(name, form, runtime, output)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SLOW)
def test_slow_reference_runs_agree(
    pack: dict[str, Any], name: str, form: str, tmp_path: Path
) -> None:
    if form == "weight" and name not in DROPPED:
        pytest.skip("no column qualifies")
    output = tmp_path / "hardened.onnx"
    harden(pack[name], form, output)
    assert_agrees(name, form, "reference", output)


def assert_agrees(name: str, form: str, runtime: str, output: Path) -> None:
    feeds, after = feeds_of(name), ort_run(output)
    found = differences(after, RUNTIMES[runtime](output), feeds)
    allowed = max(TOLERANCE, 10 * original_difference(name, runtime))
    if form == "hard":
        many = [array for array in found if array.size >= MANY]
        assert all(np.quantile(array, 0.9) <= max(TYPICAL, allowed) for array in many)
        allowed = max(allowed, JUMP)
    if worst(found) > allowed:
        plain = ort_run(output, optimize=False)
        allowed = 2 * worst(differences(after, plain, feeds))
    assert worst(found) <= allowed, runtime


@pytest.mark.parametrize("name", ["cifar_resnet4b", "mnist_cora_trades"])
def test_planted_difference_is_caught(pack: dict[str, Any], name: str, tmp_path: Path) -> None:
    """The original in the place of the hardened model is further away than is allowed."""
    output = tmp_path / "hardened.onnx"
    harden(pack[name], "smooth", output)
    original = reference_run(pack[name].path)
    other = differences(ort_run(output), original, feeds_of(name))
    assert worst(other) > 10 * TOLERANCE


def test_reasons_are_of_models_that_are_there() -> None:
    known = {entry["id"] for entry in ENTRIES}
    assert not ENTRIES or {name for names in LEFT_OUT.values() for name in names} <= known
