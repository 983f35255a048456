"""JPEGs decoded by simplejpeg where it is installed, to the very bits that Pillow gives."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from types import ModuleType
from typing import Final

import numpy as np
from PIL import Image, features

_CHANNELS: Final = {"RGB": ("RGB", 3), "L": ("GRAY", 1)}


def fast_pixels(image: Image.Image, data: bytes) -> Image.Image | None:
    """The pixels of an 8-bit grey or three-channel JPEG, or None where Pillow is to decode it.

    Whatever libjpeg warns of (a truncated file, garbage between markers) is left to Pillow, so
    that only Pillow decides what is an error.

    Args:
        image: `data` as Pillow opened it: its header was read, and its size found acceptable.
        data: The bytes of the file.
    """
    decode = _decoder()
    if decode is None or image.format != "JPEG" or image.mode not in _CHANNELS:
        return None
    return decode(image, data)


@lru_cache(maxsize=1)
def _decoder() -> Callable[[Image.Image, bytes], Image.Image | None] | None:
    """simplejpeg, unless it is missing or its libjpeg gives other bits than Pillow's."""
    try:
        decode = partial(_decoded, import_module("simplejpeg"))
        equal = features.check("jpg") and all(_agrees(decode, data) for data in _probes())
    except Exception:  # builds for another NumPy raise ValueError, old versions TypeError
        return None
    return decode if equal else None


def _decoded(simplejpeg: ModuleType, image: Image.Image, data: bytes) -> Image.Image | None:
    space, channels = _CHANNELS[image.mode]
    # Its size is that of the header that Pillow read, which bounds what may be written.
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    try:
        result = simplejpeg.decode_jpeg(
            data, space, fastdct=False, fastupsample=False, buffer=pixels, strict=True
        )
    except ValueError:
        return None
    if result.shape != pixels.shape:
        return None
    return Image.frombuffer(image.mode, image.size, pixels, "raw", image.mode, 0, 1)


def _agrees(decode: Callable[[Image.Image, bytes], Image.Image | None], data: bytes) -> bool:
    image = Image.open(io.BytesIO(data))
    fast = decode(image, data)
    return fast is not None and fast.tobytes() == image.tobytes()


def _probes() -> list[bytes]:
    """Small JPEGs of noise: grey, and each chroma subsampling, sequential and progressive."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (37, 45, 3), dtype=np.uint8))
    jpegs = []
    for progressive in (False, True):
        jpegs.append(_encoded(noise.convert("L"), progressive=progressive))
        for subsampling in range(3):
            jpegs.append(_encoded(noise, progressive=progressive, subsampling=subsampling))
    return jpegs


def _encoded(image: Image.Image, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85, **options)
    return out.getvalue()
