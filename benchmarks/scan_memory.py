"""Does the peak memory of a scan grow with the number of samples?

`lipcompile calibrate` in a process of its own, on 100 and on 20,000 samples, in turn; the
ratio of their peaks of resident memory (budget: 1.05). The samples are a list that names the
same images again and again, so that the data is the same but for its length.

    python benchmarks/scan_memory.py [MODEL IMAGES [--few N] [--many N] [FLAGS OF calibrate]]

Without arguments: the bundled demo model on its calibration images.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lipcompile.demo import CALIBRATION, MODEL

ROUNDS = 3


def peak(model: Path, images: Sequence[Path], count: int, flags: Sequence[str]) -> float:
    """Peak resident memory of one scan over `count` samples, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        names = itertools.islice(itertools.cycle(images), count)
        listed = Path(folder) / "list.txt"
        listed.write_text("\n".join(str(path.resolve()) for path in names))
        command = [sys.executable, "-m", "lipcompile", "calibrate", str(model), "--calib"]
        output = ["-o", str(Path(folder) / "table.json"), "-q"]
        process = subprocess.Popen([*command, str(listed), *output, *flags])
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
    return usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("images", nargs="?", type=Path, default=CALIBRATION)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=20_000)
    arguments, flags = parser.parse_known_args()
    suffixes = (".png", ".jpg", ".jpeg", ".JPEG")
    images = sorted(p for p in arguments.images.rglob("*") if p.suffix in suffixes)
    print(f"{arguments.model.name}: {arguments.few} and {arguments.many} samples")
    ratios, peaks = [], []
    for _ in range(ROUNDS):
        few = peak(arguments.model, images, arguments.few, flags)
        many = peak(arguments.model, images, arguments.many, flags)
        ratios.append(many / few)
        peaks.append((few, many))
        print(f"  peaks {few:.0f} MB and {many:.0f} MB", flush=True)
    low, median, high = np.quantile(ratios, [0.0, 0.5, 1.0])
    print(f"  many / few: {median:.3f} (min {low:.3f}, max {high:.3f}, n = {ROUNDS})")


if __name__ == "__main__":
    main()
