"""Sound images and arrays of every kind that is read."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encoded_images() -> list[bytes]:
    """One small image per format and mode."""
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (11, 9, 3)).astype(np.uint8)
    )
    kinds = [
        ("PNG", {}), ("JPEG", {}), ("GIF", {}), ("BMP", {}), ("PPM", {}),
        ("WEBP", {"lossless": True}), ("WEBP", {}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_deflate"}), ("TIFF", {"compression": "tiff_lzw"}),
    ]  # fmt: skip
    found = []
    for kind, options in kinds:
        target = io.BytesIO()
        image.save(target, kind, **options)
        found.append(target.getvalue())
    target = io.BytesIO()
    image.convert("P").save(target, "PNG", transparency=3)
    found.append(target.getvalue())
    target = io.BytesIO()
    image.save(target, "GIF", save_all=True, append_images=[image.rotate(180)])
    return [*found, target.getvalue()]


def array_files() -> list[bytes]:
    """.npy and .npz files that fit an image input of 3x8x8."""
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    found = []
    for given in (array, np.asfortranarray(array), array[0]):
        target = io.BytesIO()
        np.save(target, given)
        found.append(target.getvalue())
    for write in (np.savez, np.savez_compressed):
        target = io.BytesIO()
        write(target, x=array, labels=np.arange(2))
        found.append(target.getvalue())
    return found
