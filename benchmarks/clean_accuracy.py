"""What does hardening do to clean accuracy?

Hardens a model at 2^-8, 2^-7 and 2^-6 in every form, and counts correct answers on labelled
images before and after. Thresholds come from other images than those that are counted: where
CALIBRATION and LABELLED are the same, from every second one. The difference is paired:
`gained` and `lost` are images that only the hardened, or only the original model classifies
correctly.

    python benchmarks/clean_accuracy.py MODEL CALIBRATION LABELLED [flags of preprocessing]

LABELLED is a folder with one folder per class, in the order of the model's outputs, or, with
--labels, a folder of images and a JSON file {"labels": {file name: class}}. With --constant K
every image counts as class K: a proxy for a model whose classes the images are not labelled
by.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import lipcompile
from lipcompile import RuntimeOptions, ScanOptions, model_io
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.sources.opening import open_source
from lipcompile.cli.options import parse_numbers, parse_size
from lipcompile.forged import FORMS
from lipcompile.runtime import open_session


def labels_of(names: Sequence[str], arguments: argparse.Namespace) -> np.ndarray:
    if arguments.constant is not None:
        return np.full(len(names), arguments.constant)
    if arguments.labels is not None:
        table = json.loads(arguments.labels.read_text())["labels"]
        return np.array([table[Path(name).name] for name in names])
    folders = sorted({Path(name).parts[0] for name in names})
    return np.array([folders.index(Path(name).parts[0]) for name in names])


def classify(model: Path, feeds: Sequence[tuple[dict[str, np.ndarray], int]]) -> np.ndarray:
    session = open_session(model, RuntimeOptions())
    name = session.outputs[0]
    chunks = []
    for batch, count in feeds:
        scores = session.run([name], batch)[name]
        chunks.append(scores.reshape(len(scores), -1).argmax(axis=1)[:count])
    return np.concatenate(chunks)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Model, calibration, labelled images, and the flags of preprocessing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("labelled")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--constant", type=int)
    parser.add_argument("--calibration-samples", type=int)
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--rescale", type=float)
    parser.add_argument("--input-size")
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--crop-mode")
    parser.add_argument("--interpolation")
    parser.add_argument("--color")
    parser.add_argument("--layout")
    return parser


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images that are counted, and others that thresholds come from.

    Attributes:
        model: The original.
        feeds: Batches, each with its number of images.
        labels: The class of every image.
        calibration: Data for thresholds.
        scan: How to read it.
    """

    model: Path
    feeds: Sequence[tuple[dict[str, np.ndarray], int]]
    labels: np.ndarray
    calibration: object
    scan: ScanOptions

    def correct(self, model: Path) -> np.ndarray:
        """Which images `model` classifies correctly."""
        return classify(model, self.feeds) == self.labels


def read(arguments: argparse.Namespace) -> Labelled:
    flags = {
        "mean": parse_numbers("mean", arguments.mean),
        "std": parse_numbers("std", arguments.std),
        "input_size": parse_size(arguments.input_size),
    }
    for name in ("rescale", "crop_pct", "crop_mode", "interpolation", "color", "layout"):
        flags[name] = getattr(arguments, name)
    flags = {name: value for name, value in flags.items() if value is not None}
    inputs = model_io.load(arguments.model).inputs
    source = open_source(
        arguments.labelled, inputs, preprocess=lambda: resolve(inputs[0], **flags)
    )
    samples = list(source)
    calibration: object = arguments.calibration
    if arguments.calibration == arguments.labelled:
        calibration = [sample.feeds for sample in samples[::2]]
        samples = samples[1::2]
    labels = labels_of([sample.name for sample in samples], arguments)
    batcher = Batcher(inputs)
    feeds = [(batcher.feeds(batch), len(batch)) for batch in batcher.group(samples)]
    image_flags = flags if calibration is arguments.calibration else {}
    scan = ScanOptions(samples=arguments.calibration_samples, image_flags=image_flags)
    return Labelled(arguments.model, feeds, labels, calibration, scan)


def main() -> None:
    images = read(make_parser(__doc__).parse_args())
    before = images.correct(images.model)
    print(f"{images.model.name}: {before.mean():.2%} of {len(images.labels)} before")
    table = lipcompile.calibrate(images.model, images.calibration, scan=images.scan)
    print(f"  thresholds from {table.data.samples} samples")
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            for exponent in (8, 7, 6):
                result = lipcompile.harden(
                    images.model,
                    table=table,
                    form=form,
                    cr=2.0**-exponent,
                    output=Path(folder) / f"{form}{exponent}.onnx",
                )
                assert result.output is not None
                after = images.correct(result.output)
                gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
                print(
                    f"  {form:6} 2^-{exponent}: {after.mean():.2%} "
                    f"({gained} gained, {lost} lost)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
