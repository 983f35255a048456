"""What does a hardened model cost at inference?

Latency of the hardened model over the original's, both forms, every layer of rule `auto`, in
one process, in pairs that swap places (`lipcompile.measure.latency_ratio`). ONNX Runtime, CPU.

    python benchmarks/encoding_latency.py [--batch N] [--pairs N] [MODEL ...]

Without arguments: the bundled demo model at batch 1 and 32. Other models are calibrated on
random data, which is enough for the clock; their inputs have to be float tensors.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import lipcompile
from lipcompile import RuntimeOptions, model_io
from lipcompile.demo import MODEL
from lipcompile.measure import latency_ratio
from lipcompile.runtime import open_session


def random_feeds(path: Path, batch: int) -> dict[str, np.ndarray]:
    """Dynamic axes beyond the first become 224."""
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in model_io.load(path).inputs:
        dims = [
            d if isinstance(d, int) else (224 if i else batch)
            for i, d in enumerate(spec.shape or ())
        ]
        feeds[spec.name] = rng.normal(size=dims).astype(spec.dtype or "float32")
    return feeds


def compare(path: Path, batch: int, pairs: int) -> None:
    feeds = random_feeds(path, batch)
    original = open_session(path, RuntimeOptions(spinning=False))
    with tempfile.TemporaryDirectory() as folder:
        for form in ("smooth", "hard"):
            output = Path(folder) / f"{form}.onnx"
            lipcompile.harden(path, [feeds], form=form, output=output)
            hardened = open_session(output, RuntimeOptions(spinning=False))
            ratio = latency_ratio(original, hardened, feeds, pairs)
            print(f"{path.name}, batch {batch}, {form}: {ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=200)
    arguments = parser.parse_args()
    if not arguments.models:
        compare(MODEL, 1, arguments.pairs)
        compare(MODEL, 32, arguments.pairs)
    for path in arguments.models:
        compare(path, arguments.batch, arguments.pairs)


if __name__ == "__main__":
    main()
