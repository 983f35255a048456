"""Calibration data to open, and the model inputs that take it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lipcompile.calibration.preprocess import Preprocess
from lipcompile.calibration.sample_source import Source
from lipcompile.calibration.sources import open_source
from lipcompile.signature import TensorSpec


IMAGE = TensorSpec("x", "float32", ("n", 3, 4, 6))
IDS = TensorSpec("ids", "int64", ("n", 5))
MASK = TensorSpec("mask", "bool", ("n", 5))
SCALAR = TensorSpec("t", "float32", ())


def encoded(seed: int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def opened(data: object, *inputs: TensorSpec, **options: object) -> Source:
    return open_source(data, inputs or (IMAGE,), preprocess=Preprocess, **options)


def names(source: Source) -> list[str]:
    return [sample.name for sample in source]


def rows(n: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(n * int(np.prod(shape, dtype=int))).reshape(n, *shape).astype(dtype)
