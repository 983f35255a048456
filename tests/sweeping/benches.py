"""Small models, data and benches for tests of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.calibration.counting import prepare_counting
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.table import CalibrationTable
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Selector, find_sites
from lipcompile.sweeping.opening import DataOptions
from lipcompile.sweeping.preparing import Preparing
from lipcompile.sweeping.settings import Setting, make_settings
from lipcompile.sweeping.strength import Strengths, measure_strengths
from lipcompile.sweeping.trial import Bench
from tests.counted_layers import session

ALL = Selector("all")
FEW: dict[str, Any] = {
    "cr": "2^-6,2^-3",
    "forms": ["hard"],
    "selector": ALL,
    "runtime": RuntimeOptions(threads=1),
}


def measured(
    proto: onnx.ModelProto | Path, data: object, c_rs: Sequence[float]
) -> tuple[Strengths, Selection, CalibrationTable]:
    """Strengths of every layer that can be hardened."""
    loaded = model_io.load(proto)
    selection = find_sites(loaded.graph_ir, ALL)
    how = ScanOptions(), RuntimeOptions()
    scan = prepare_scan(loaded, selection.sites, data, *how)
    scan.run()
    counting = prepare_counting(loaded, selection.sites, scan.table, [0.0, *c_rs], data, *how)
    counting.run()
    table = counting.counted_table
    found = measure_strengths(loaded, selection, table, c_rs, scan.probe, RuntimeOptions())
    return found, selection, table


def tensors(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """Values inside of a model."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found: list[np.ndarray] = session(tapped, optimize=False).run(list(names), dict(feeds))
    return found


def classifier(seed: int = 0, width: int = 8, classes: int = 4) -> onnx.ModelProto:
    """Pixels [n, 1, 5, 5] to scores [n, classes] by three Gemm and ReLU between."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,1,5,5] x) => '
        f"(float[n,{classes}] y) {{ f = Flatten(x) a = Gemm(f, W0, B0) r = Relu(a) "
        "b = Gemm(r, W1, B1) s = Relu(b) y = Gemm(s, W2, B2) }"
    )
    for index, node in enumerate(n for n in proto.graph.node if n.op_type == "Gemm"):
        node.name = f"fc.{index}+"  # characters that a regular expression reads otherwise
    rng = np.random.default_rng(seed)
    shapes = [(25, width), (width, width), (width, classes)]
    for index, shape in enumerate(shapes):
        arrays = {f"W{index}": rng.normal(size=shape), f"B{index}": rng.normal(size=shape[1])}
        for name, array in arrays.items():
            proto.graph.initializer.append(
                numpy_helper.from_array(array.astype(np.float32), name)
            )
    return proto


def pixels(count: int, seed: int = 1) -> np.ndarray:
    """float32 [count, 1, 5, 5] in [0, 1]."""
    rng = np.random.default_rng(seed)
    return rng.random((count, 1, 5, 5), dtype=np.float32)


def labelled(
    proto: onnx.ModelProto, count: int, wrong: float = 0.2, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; the model is wrong about a share of them."""
    images = pixels(count, seed)
    (scores,) = session(proto).run(None, {"x": images})
    labels = np.asarray(scores).argmax(axis=1)
    turned = np.random.default_rng(seed).random(count) < wrong
    return images, np.where(turned, (labels + 1) % scores.shape[1], labels)


def bench(
    model: object,
    calib: object,
    data: object,
    settings: Sequence[Setting] | None = None,
    reading: DataOptions | None = None,
    selector: Selector | None = ALL,
) -> Bench:
    """What a sweep builds settings on."""
    preparing = Preparing(
        reading or DataOptions(), ScanOptions(), RuntimeOptions(threads=1), None
    )
    chosen = make_settings("2^-4,2^-2") if settings is None else settings
    return preparing.run(model, calib, data, chosen, selector)[0]
