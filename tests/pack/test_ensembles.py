"""Ensembles around every classifier of the pack; every other model is refused.

The views are made in NumPy, the original runs on each of them alone, and the mean is compared
with what the wrapped file gives, in ONNX Runtime and in OpenVINO.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import EnsembleOptions
from lipcompile.errors import ModelError
from lipcompile.runtime import RuntimeOptions, open_session
from tests.pack.conftest import ENTRIES, PackModel

ov = pytest.importorskip("openvino")
TOLERANCE = 1e-5  # of the largest score; float32 sums in another order give 7e-7
# OpenVINO gives 6 % else than ONNX Runtime for the plain model already: what it computes in
# integers depends on the nodes around.
QUANTISED = {("mobilenetv2_qdq", "branches", "openvino"): 0.1}
SMALL = 100_000  # bytes; a file below it consists of nodes more than of weights
GROWTH = 5000  # bytes of the views and of the mean, in one batch, whatever the model
VIEWS = ["flip", "flip+shift:1"]
BATCH, BRANCHES = ("batch", "branches"), ("branches",)
# The ways that each allows, the one that `harden` takes by itself first.
CLASSIFIERS = {
    "cifar_wrn10_2_adv": BATCH,
    "cifar_resnet4b": BATCH,
    "cifar_vit_pgd": BATCH,
    "cifar_resnet18_w16": BATCH,
    "cifar_sri_resnet_a": BRANCHES,  # a Reshape inside holds its batch
    "cifar_marabou_large": BATCH,
    "cifar_cnn_a_adv": BATCH,
    "cifar_wide_masked_adv": BATCH,
    "cifar_conv_small_pgd": BATCH,
    "cifar_conv_small_sigmoid": BATCH,
    "cifar_resnet20_dynamo": BATCH,
    "cifar_mlperf_resnet8": BATCH,
    "mnist_cntk": BRANCHES,  # value_info holds its batch
    "mnist_lenet5_advtrained": BATCH,
    "mnist_cnn_a_adv": BATCH,
    "mnist_cnn_pytorch": BATCH,
    "mnist_cora_trades": BATCH,
    "mnist_eran_sigmoid": BATCH,
    "fashion_mnist_kw": BATCH,
    "efficientnet_lite0_w16": BATCH,
    "mobilenetv2_qdq": BATCH,
    "opennsfw": BATCH,
    "ppocr_cls": BATCH,
    "light_resnet50": BRANCHES,  # a Reshape inside holds its batch
    "light_squeezenet": BATCH,
    "light_inception_v2": BRANCHES,  # the same
}
CHANNELS_LAST = {"cifar_marabou_large", "cifar_mlperf_resnet8", "opennsfw"}
WITHOUT_WEIGHTS = {"light_resnet50", "light_squeezenet", "light_inception_v2"}
FLAT = {"mnist_cora_trades": (28, 28)}  # its one input is named
NO_IMAGE, NO_SCORES = "has no image input.*", "has no output with class scores .*"
REFUSED = {
    "mnist_lr_scikit": NO_IMAGE + r"\[1, 780\]' has not the four axes",
    "ultraface_rfb320": NO_SCORES + r"'boxes: float32 \[1, 4420, 4\]'",
    "ppocrv6_tiny_det": "one value per image, and no class scores",
    "basic_pitch": NO_IMAGE + r"43844, 1\]' has not the four axes",
    "dnsmos_sig_bak_ovr": NO_IMAGE + r"144160\]' has not the four axes",
    "oww_embedding": NO_SCORES + r"1, 1, 96\]'",
    "bert_toy": NO_IMAGE + "takes int64, and images are float or uint8",
    "safenlp_ruarobot": NO_IMAGE + r"30\]' has not the four axes",
    "kws_mlperf": NO_IMAGE + "is 49 by 10, longer than images are",
    "acasxu_1_1": NO_IMAGE + "is 1 pixels wide or high",
    "collins_rul_20": "one value per image, and no class scores",
    "ml4acopf_14": NO_IMAGE + r"22\]' has not the four axes",
    "mscn_128d_dual": NO_IMAGE + r"22, 14\]' has not the four axes",
    "pensieve_small_parallel": NO_IMAGE + r"\[12, 8\]' has not the four axes",
    "tinyyolo": "is the map of a convolution",
    "unet_upsample": NO_SCORES + "'out_num: int64",
}
Scores = Callable[[np.ndarray], np.ndarray]


def test_every_model_of_the_pack_is_listed() -> None:
    if not ENTRIES:
        pytest.skip("no pack here")
    assert {entry["id"] for entry in ENTRIES} == {*CLASSIFIERS, *REFUSED}
    assert not {*CLASSIFIERS} & {*REFUSED}


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_ensemble_is_the_mean_over_views(
    pack: dict[str, PackModel], name: str, views: str, tmp_path: Path
) -> None:
    model = pack[name]
    batches = batches_of(model)
    wanted = {
        start: [mean(start(model, model.path), name, views, batch) for batch in batches]
        for start in RUNTIMES
    }
    for way in CLASSIFIERS[name]:
        path = wrapped(model, views, way, tmp_path)
        for start, means in wanted.items():
            scores = start(model, path)
            for batch, expected in zip(batches, means, strict=True):
                got = scores(batch)
                assert got.shape == expected.shape
                apart = float(np.abs(got - expected).max() / np.abs(expected).max())
                what = (name, way, start.__name__)
                assert apart <= QUANTISED.get(what, TOLERANCE), (*what, len(batch))
        check_file(model, path, views, way)


def check_file(model: PackModel, path: Path, views: str, way: str) -> None:
    """It grows by nodes alone, and the original's bytes come back."""
    before = model.path.read_bytes()
    growth = path.stat().st_size - len(before)
    assert initializers(path) == initializers(model.path)
    if way == "batch":
        assert growth < GROWTH
    if way == "batch" and views == "flip" and len(before) > SMALL:
        assert growth < 0.01 * len(before) or model.entry["id"] in WITHOUT_WEIGHTS
    stripped = path.with_name("stripped.onnx")
    assert lipcompile.strip(path, stripped, force=True).identical
    assert stripped.read_bytes() == before


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_is_refused(
    pack: dict[str, PackModel], name: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        lipcompile.harden(pack[name].path, ensemble="flip", output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


# The model with an ensemble


def wrapped(model: PackModel, views: str, way: str, folder: Path) -> Path:
    """The first way of a model is not asked for: it has to be found."""
    name = model.entry["id"]
    given = EnsembleOptions(
        views,
        by="branches" if way != CLASSIFIERS[name][0] else None,
        image_input=model.entry["inputs"][0]["name"] if name in FLAT else None,
    )
    path = folder / f"{way}.onnx"
    # Of free height and width, for which random data is too small.
    data = model.samples(1) if name == "ppocr_cls" else None
    result = lipcompile.harden(model.path, data, ensemble=given, output=path, force=True)
    assert result.ensemble is not None
    assert result.ensemble.way == way
    return path


def initializers(path: Path) -> list[bytes]:
    return [tensor.SerializeToString() for tensor in onnx.load(path).graph.initializer]


# What it should give


def batches_of(model: PackModel) -> list[np.ndarray]:
    """One image, and three where the batch is dynamic."""
    declared = model.entry["inputs"][0]["shape"]
    images = [next(iter(feeds.values())) for feeds in model.samples(3)]
    rank = len(declared)
    stack = np.concatenate([x if x.ndim == rank else x[None] for x in images])
    return [stack[:1]] if declared[0] == 1 else [stack[:1], stack]


def mean(scores: Scores, name: str, views: str, batch: np.ndarray) -> np.ndarray:
    images = batch.reshape(-1, *FLAT[name]) if name in FLAT else batch
    axes = (1, 2) if name in CHANNELS_LAST | FLAT.keys() else (2, 3)
    seen = views_of(images, axes, shifted="shift:1" in views)
    parts = [scores(np.ascontiguousarray(view.reshape(batch.shape))) for view in seen]
    return np.asarray(np.mean(parts, axis=0, dtype=np.float64))


def views_of(images: np.ndarray, axes: tuple[int, int], shifted: bool) -> list[np.ndarray]:
    """The images, their mirror images, and those moved by one pixel in each direction."""
    found = [images, np.flip(images, axes[1])]
    margins = [(1, 1) if axis in axes else (0, 0) for axis in range(images.ndim)]
    padded = np.pad(images, margins, mode="reflect")
    for axis in axes if shifted else ():
        for start in (0, 2):
            frame = [slice(1, -1) if a in axes else slice(None) for a in range(images.ndim)]
            frame[axis] = slice(start, start + images.shape[axis])
            found.append(padded[tuple(frame)])
    return found


# Runtimes


def onnx_runtime(model: PackModel, path: Path) -> Scores:
    session = open_session(path, RuntimeOptions(threads=1))
    (output,), name = session.outputs, model.entry["inputs"][0]["name"]
    return lambda batch: session.run([output], {name: batch})[output]


def openvino(model: PackModel, path: Path) -> Scores:
    core, name = ov.Core(), model.entry["inputs"][0]["name"]
    precise: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", precise)
    return lambda batch: np.array(compiled({name: batch})[0])


RUNTIMES = (onnx_runtime, openvino)
