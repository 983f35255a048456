"""Batches that do not fit into memory are halved; taps run as soon as their site is there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import lipcompile
from lipcompile import ScanOptions, Selector, model_io, runtime
from lipcompile.calibration.tapped import TappedModel
from lipcompile.demo import MODEL
from lipcompile.errors import DataError, OutOfMemory, RunFailure
from lipcompile.passes.tap_absmax import tap_absmax
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import find_sites

ARRAY = np.random.default_rng(1).uniform(size=(37, 1, 28, 28)).astype("float32")

# What allocators really say.
SAID = [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
    "Conv node. Status Message: bfc_arena.cc:376 Failed to allocate memory "
    "for requested buffer of size 1073741824",
    "std::bad_alloc",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=h",
    "Available memory of 52428800 is smaller than requested bytes of 104857600",
]


class Small:
    """A session that fits `room` samples."""

    def __init__(self, native: Any, room: int, said: str | BaseException) -> None:
        self.native, self.room, self.said = native, room, said
        self.sizes: list[int] = []

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> Any:
        size = len(next(iter(feeds.values())))
        self.sizes.append(size)
        if size > self.room:
            raise (
                self.said if isinstance(self.said, BaseException) else RuntimeError(self.said)
            )
        return self.native.run(outputs, feeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Small]:
    """Sessions opened from now on; set their `room` and `said`."""
    opened: list[Small] = []
    real = runtime.Session.__init__

    def init(self: Any, native: Any, requested: Sequence[str]) -> None:
        opened.append(Small(native, 3, SAID[0]))
        real(self, opened[-1], requested)

    monkeypatch.setattr(runtime.Session, "__init__", init)
    return opened


@pytest.mark.parametrize("wanted", [None, 16])
def test_a_batch_that_does_not_fit_is_halved(small: list[Small], wanted: int | None) -> None:
    found = lipcompile.calibrate(MODEL, ARRAY, scan=ScanOptions(batch_size=wanted))
    sizes = small[0].sizes
    assert sizes[0] == (wanted or 37)
    assert max(sizes[5:]) <= 3, "once memory ran out, batches stay small"
    small.clear()
    assert found == lipcompile.calibrate(MODEL, ARRAY, scan=ScanOptions(batch_size=1))
    assert found.data.samples == 37


@pytest.mark.parametrize("said", [*SAID, MemoryError()], ids=lambda said: str(said)[:12])
def test_one_sample_that_does_not_fit(
    small: list[Small], said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Small.run

    def run(self: Small, *arguments: Any) -> Any:
        self.room, self.said = 0, said
        return real(self, *arguments)

    monkeypatch.setattr(Small, "run", run)
    with pytest.raises(OutOfMemory, match=r"^sample 'ndarray\[0\]': memory ran out while"):
        lipcompile.calibrate(MODEL, ARRAY)
    assert small[0].sizes == [37, 18, 9, 4, 2, 1]


def test_another_failure_is_no_lack_of_memory(
    small: list[Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Small.run

    def run(self: Small, *arguments: Any) -> Any:
        self.room, self.said = 0, "Got invalid dimensions for input: image"
        return real(self, *arguments)

    monkeypatch.setattr(Small, "run", run)
    with pytest.raises(RunFailure, match="could not run the model") as caught:
        lipcompile.calibrate(MODEL, ARRAY)
    assert not isinstance(caught.value, OutOfMemory)
    assert small[0].sizes == [37, 1]


def order_of(nodes: Sequence[Any], folder: Path) -> list[str]:
    """The operators in the order in which ONNX Runtime runs them."""
    loaded = model_io.load(MODEL)
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.log_severity_level = 3
    tapped = model_io.with_extra_outputs(loaded.proto, nodes)
    session = ort.InferenceSession(tapped, options, providers=["CPUExecutionProvider"])
    session.run(None, {"image": ARRAY[:1]})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def latest_convolution(order: Sequence[str]) -> int:
    """How many taps ran before the last convolution."""
    last = max(i for i, op in enumerate(order) if op == "Conv")
    return sum(op == "ReduceSum" for op in order[:last])


def test_taps_run_as_soon_as_their_site_is_there(tmp_path: Path) -> None:
    loaded = model_io.load(MODEL)
    sites = find_sites(loaded.graph_ir, Selector("auto")).sites
    tapped = TappedModel(loaded, sites, RuntimeOptions())
    ordered = tapped._in_order(tap_absmax(sites))
    assert latest_convolution(order_of(ordered, tmp_path)) >= 4
    # Planted: in the order of the sites they run when the network is done.
    straight = [node for tap in tap_absmax(sites) for node in tap.nodes]
    assert latest_convolution(order_of(straight, tmp_path)) == 0


def activation(node: onnx.NodeProto) -> str:
    return str([a.s for a in node.attribute if a.name == "activation"])


def test_taps_keep_fusions_and_layout(tmp_path: Path) -> None:
    """The optimised graph has the convolutions of the plain one, and what is fused in them."""
    loaded = model_io.load(MODEL)
    sites = find_sites(loaded.graph_ir).sites
    tapped = TappedModel(loaded, sites, RuntimeOptions())
    nodes = tapped._in_order(tap_absmax(sites))
    found = []
    for index, model in enumerate(
        (model_io.serialize(loaded.proto), model_io.with_extra_outputs(loaded.proto, nodes))
    ):
        path = tmp_path / f"{index}.onnx"
        runtime.open_session(model, RuntimeOptions(), optimized=path)
        graph = onnx.load(path).graph
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        found.append(sorted((node.domain, activation(node)) for node in convolutions))
    assert found[0] == found[1]
    assert any(re.search("Relu", text) for _, text in found[0])


def test_a_fixed_batch_that_no_memory_holds() -> None:
    model = onnx.load(MODEL)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2**31
    with pytest.raises(DataError, match="fix a batch of 2,147,483,648 samples, which take"):
        lipcompile.calibrate(model, ARRAY)
