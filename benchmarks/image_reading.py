"""What does it cost to read an image: with simplejpeg against Pillow, and step by step?

Images are photos of 500x375 pixels, JPEG quality 90, read from memory and brought to 3x224x224
in float32. Both ways decode the same files in turn, in one process; the baseline is Pillow.

    python benchmarks/image_reading.py FOLDER_OF_PHOTOS
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources import fast_jpeg
from lipcompile.calibration.sources.image_files import decode

ROUNDS = 15
TRANSFORM = Preprocess(
    resize=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def photos(folder: Path, count: int = 100) -> list[bytes]:
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")):
        out = io.BytesIO()
        image = Image.open(path).convert("RGB").resize((500, 375))
        image.save(out, "JPEG", quality=90)
        files.append(out.getvalue())
        if len(files) == count:
            break
    return files


def rates(
    task: Callable[[bytes], object], files: Sequence[bytes], threads: int
) -> tuple[float, float]:
    """Images per second, and per second of CPU time, which other processes disturb less."""
    with ThreadPoolExecutor(threads) as pool:
        start, used = time.perf_counter(), time.process_time()
        for _ in pool.map(task, files):
            pass
        wall, cpu = time.perf_counter() - start, time.process_time() - used
    return len(files) / wall, len(files) / cpu


def compare(name: str, task: Callable[[bytes], object], files: Sequence[bytes]) -> None:
    fast = fast_jpeg._decoder
    for threads in (1, 2):
        measured: dict[str, list[tuple[float, float]]] = {"simplejpeg": [], "Pillow": []}
        for _ in range(ROUNDS):
            for way, decoder in (("simplejpeg", fast), ("Pillow", lambda: None)):
                fast_jpeg._decoder = decoder
                measured[way].append(rates(task, files, threads))
        print(f"{name}, {threads} threads, n = {ROUNDS} rounds of {len(files)} images:")
        for unit, which in (("s", 0), ("CPU s", 1)):
            shown = [statistics.median(r[which] for r in measured[way]) for way in measured]
            ratios = [a[which] / b[which] for a, b in zip(*measured.values(), strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"  images per {unit}: simplejpeg {shown[0]:.0f}, Pillow {shown[1]:.0f};"
                f" ratio {middle:.3f} (quartiles {low:.3f}, {high:.3f})"
            )
    fast_jpeg._decoder = fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    files = photos(parser.parse_args().folder)
    if fast_jpeg._decoder() is None:
        raise SystemExit("simplejpeg is not installed, or gives other bits than Pillow")
    compare("decode", lambda data: decode(data, "f"), files)
    compare("decode and transform", lambda data: TRANSFORM(decode(data, "f")), files)
    images = [decode(data, "f") for data in files]
    pixels = [TRANSFORM.pixels(image) for image in images]
    normalise = Preprocess(mean=TRANSFORM.mean, std=TRANSFORM.std)
    small = [Image.fromarray(p) for p in pixels]
    steps: dict[str, Callable[[int], object]] = {
        "decode": lambda i: decode(files[i], "f"),
        "SHA-256": lambda i: hashlib.sha256(files[i]).digest(),
        "resize and crop": lambda i: TRANSFORM.pixels(images[i]),
        "arithmetic": lambda i: normalise(small[i]),
    }
    for name, step in steps.items():
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for i in range(len(files)):
                step(i)
            times.append((time.perf_counter() - start) / len(files) * 1e3)
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"{name}: {middle:.3f} ms an image (quartiles {low:.3f}, {high:.3f})")


if __name__ == "__main__":
    main()
