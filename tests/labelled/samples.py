"""Labelled images on disk and in arrays, and model inputs that take them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lipcompile.labelled import LabelledImages, open_labelled
from lipcompile.signature import TensorSpec

RGB = TensorSpec("image", "float32", ("n", 3, 5, 6))
GREY = TensorSpec("image", "float32", ("n", 1, 5, 5))
LAST = TensorSpec("image", "float32", ("n", 5, 6, 3))
FLAT = TensorSpec("image", "float32", ("n", 25))
KERAS = TensorSpec("image", "float32", ("n", 5, 5))
DYNAMIC = TensorSpec("image", "float32", ("n", "c", "h", "w"))


def levels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, *shape]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def put(root: Path, *names: str, size: tuple[int, ...] = (5, 6, 3)) -> Path:
    """Writes a different image under each name."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(levels(1, *size, seed=index)[0]))
    return root


def opened(
    data: object, spec: TensorSpec = RGB, num_classes: int | None = 3, **options: object
) -> LabelledImages:
    return open_labelled(data, [spec], num_classes=num_classes, model="net.onnx", **options)  # type: ignore[arg-type]


def by_name(images: LabelledImages) -> dict[str, int]:
    return dict(zip(images.names, images.labels.tolist(), strict=True))
