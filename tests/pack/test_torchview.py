"""The torch view against ONNX Runtime on every model of the pack, hardened or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lipcompile
from lipcompile import ScanOptions, model_io
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.sources.opening import open_source
from lipcompile.errors import ModelError, SelectionError
from lipcompile.runtime import RuntimeOptions, open_session
from lipcompile.torchview import torch_view
from lipcompile.torchview.registry import OPERATORS

SAMPLES = 4
ONE_THREAD = RuntimeOptions(threads=1)
# Why the view refuses a model.
REFUSED = {"mnist_lr_scikit": "no operator 'ai.onnx.ml.LinearClassifier'"}
NOTHING_TO_FORGE = {"safenlp_ruarobot"}
# Largest difference over the largest value of an output. Where a model needs more than 1e-4,
# ONNX Runtime differs as much from itself, with its optimisations and without.
TOLERANCE = 1e-4
LOOSER = {
    # Integers on the edge of rounding: 3e-2, and ONNX Runtime 4e-2 from itself.
    "mobilenetv2_qdq": 0.1,
    # A deep net of 84 layers; `smooth`: 8e-5, and ONNX Runtime 2e-4 from itself.
    "ppocrv6_tiny_det": 1e-3,
}
# `hard` jumps by c: an activation on the edge of its threshold makes that of a rounding.
JUMPS = {
    "efficientnet_lite0_w16": 1e-2,  # 2e-3, and ONNX Runtime 1e-3 from itself
    "opennsfw": 1e-3,  # 6e-8, but ONNX Runtime 1e-4 from itself
    "dnsmos_sig_bak_ovr": 1e-3,  # 3e-5
    "ultraface_rfb320": 5e-2,  # 7e-3
    "ppocr_cls": 1e-3,  # 1.3e-4 with ONNX Runtime 1.32, below 1e-4 with 1.31
    "ppocrv6_tiny_det": 1.0,  # 0.4, and ONNX Runtime 0.4 from itself: see TYPICAL
}
# What nine of ten elements of an output stay within, jumps or not, unless LOOSER says more.
TYPICAL = 2e-3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of torch, of ONNX Runtime and of other workers wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def feeds(path: Path, samples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Complete feeds, in the model's own batch where it fixes one."""
    inputs = model_io.load(path).inputs
    batcher = Batcher(inputs)
    source = open_source(samples, inputs, preprocess=None)
    return [batcher.feeds(batch) for batch in batcher.group(source)]


def run_view(view: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        results = view(*(torch.from_numpy(batch[name]) for name in view.input_names))
    results = results if isinstance(results, tuple) else (results,)
    return {k: v.numpy() for k, v in zip(view.output_names, results, strict=True)}


def differences(path: Path, samples: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """|view - ONNX Runtime| / max |ONNX Runtime|, for every float output of every batch."""
    session = open_session(path, ONE_THREAD)
    view = torch_view(path)
    found = []
    for batch in feeds(path, samples):
        expected, got = session.run(session.outputs, batch), run_view(view, batch)
        assert expected.keys() == got.keys()
        for name, array in expected.items():
            assert array.shape == got[name].shape
            assert array.dtype == got[name].dtype
            if array.dtype.kind != "f":
                np.testing.assert_array_equal(array, got[name])
                continue
            scale = np.abs(array).max(initial=0.0) or 1.0
            found.append(np.abs(array.astype(np.float64) - got[name]) / scale)
    return found


@pytest.mark.parametrize("form", [None, "smooth", "hard"], ids=["original", "smooth", "hard"])
def test_view_agrees_with_onnx_runtime(
    pack_model: Any, form: str | None, tmp_path: Path
) -> None:
    name, path = pack_model.entry["id"], pack_model.path
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            torch_view(path)
        return
    samples = pack_model.samples(SAMPLES)
    if form is not None:
        path = tmp_path / "hardened.onnx"
        options: dict[str, Any] = {"form": form, "cr": "2^-6", "output": path}
        options |= {"scan": ScanOptions(batch_size=2), "runtime": ONE_THREAD}
        if name in NOTHING_TO_FORGE:
            with pytest.raises(SelectionError):
                lipcompile.harden(pack_model.path, samples, **options)
            return
        lipcompile.harden(pack_model.path, samples, **options)
    tolerance = max(
        LOOSER.get(name, TOLERANCE), JUMPS.get(name, TOLERANCE) if form == "hard" else 0.0
    )
    for difference in differences(path, samples):
        assert difference.max(initial=0.0) <= tolerance
        assert np.quantile(difference, 0.9) <= LOOSER.get(name, TYPICAL)


def test_planted_difference_is_caught(
    pack: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "Relu", lambda _: lambda x: torch.relu(x) * (1 + 1e-3))
    model = pack["mnist_cntk"]
    worst = max(difference.max() for difference in differences(model.path, model.samples(1)))
    assert worst > TOLERANCE


def test_nine_of_ten_models_are_supported(pack: dict[str, Any]) -> None:
    refused = 0
    for model in pack.values():
        try:
            torch_view(model.path)
        except ModelError:
            refused += 1
    assert refused <= 0.1 * len(pack)
    assert refused == len(REFUSED)


@pytest.mark.parametrize(
    "name", ["cifar_resnet4b", "mnist_cntk", "acasxu_1_1", "ml4acopf_14", "tinyyolo"]
)
def test_rows_of_a_model_with_a_batch_of_one_can_be_mapped(
    pack: dict[str, Any], name: str
) -> None:
    """`torch.func.vmap` gives the outputs and the gradients of one row after the other."""
    view = torch_view(pack[name].path, precision=torch.float64).requires_grad_(False)
    samples = [next(iter(sample.values())) for sample in pack[name].samples(3)]
    rows = torch.from_numpy(np.stack(samples)).double().unsqueeze(1).requires_grad_()

    def weighted(outputs: torch.Tensor) -> torch.Tensor:
        """A scalar to which every element contributes differently."""
        return (outputs.flatten(1) * torch.arange(outputs[0].numel())).sum()

    mapped = torch.func.vmap(view)(rows)
    single = torch.stack([view(row) for row in rows])
    torch.testing.assert_close(mapped, single)
    gradients = [torch.autograd.grad(weighted(o), rows)[0] for o in (mapped, single)]
    torch.testing.assert_close(*gradients)
