"""How far do outputs move when ONNX Runtime's graph optimisation is switched off?

Optimisation changes the order of roundings. A continuous form passes them on as they are;
`hard` jumps, and may turn them into a difference that a user sees. Prints the largest change
of the first output over its largest value, for the original and both forms at 2^-7.

    python benchmarks/optimisation_sensitivity.py [MODEL DATA [--input-size S --mean M --std
    S]]

Without arguments: the bundled demo model on its calibration images.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import lipcompile
from lipcompile import RuntimeOptions, ScanOptions, model_io
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.cli.options import parse_numbers, parse_size
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.runtime import open_session


def sensitivity(path: Path, batches: list[dict[str, np.ndarray]]) -> float:
    optimised = open_session(path, RuntimeOptions(spinning=False))
    plain = open_session(path, RuntimeOptions(spinning=False, optimize=False))
    name = optimised.outputs[0]
    worst = scale = 0.0
    for feeds in batches:
        a, b = (session.run([name], feeds)[name] for session in (optimised, plain))
        worst = max(worst, float(np.abs(a - b).max()))
        scale = max(scale, float(np.abs(a).max()))
    return worst / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("data", nargs="?", type=Path, default=CALIBRATION)
    parser.add_argument("--input-size")
    parser.add_argument("--mean")
    parser.add_argument("--std")
    arguments = parser.parse_args()
    flags = {
        "input_size": parse_size(arguments.input_size),
        "mean": parse_numbers("mean", arguments.mean),
        "std": parse_numbers("std", arguments.std),
    }
    options = ScanOptions(image_flags={k: v for k, v in flags.items() if v is not None})
    loaded = model_io.load(arguments.model)
    scan = prepare_scan(loaded, (), arguments.data, options, RuntimeOptions())
    batches = [scan.batcher.feeds(batch) for batch in scan.batcher.group(scan.source)]
    print(f"{arguments.model.name}: original {sensitivity(arguments.model, batches):.1e}")
    with tempfile.TemporaryDirectory() as folder:
        for form in ("smooth", "hard"):
            output = Path(folder) / f"{form}.onnx"
            lipcompile.harden(
                arguments.model, arguments.data, form=form, scan=options, output=output
            )
            print(f"{arguments.model.name}: {form} {sensitivity(output, batches):.1e}")


if __name__ == "__main__":
    main()
