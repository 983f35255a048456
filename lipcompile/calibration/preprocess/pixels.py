"""An image's pixels: bring them to 8-bit colour and to a size."""

from __future__ import annotations

import math
from typing import Final

from PIL import Image

from lipcompile.errors import DataError

Pair = tuple[int, int]

INTERPOLATIONS: Final = {f.name.lower(): f for f in Image.Resampling}


def to_color(image: Image.Image, color: str) -> Image.Image:
    """`image` with 8 bits per channel, in mode "L" for color L and "RGB" for RGB and BGR.

    Alpha is dropped, not blended: that is what Hugging Face and timm do.

    Raises:
        DataError: The mode holds more than 8 bits per channel, or Pillow cannot convert it.
    """
    want = "L" if color == "L" else "RGB"
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;"):
        raise DataError(
            f"image mode '{image.mode}' holds more than 8 bits per channel, which conversion"
            f" to '{want}' would clip: save it with 8 bits, or give the scaled values as .npy"
        )
    try:
        # Pillow warns when a palette with transparency goes to RGB in one step.
        if image.mode in ("P", "PA", "RGBa", "La"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        # Pillow knows no direct way from LAB or HSV to L.
        if image.mode in ("LAB", "HSV"):
            image = image.convert("RGB")
        return image if image.mode == want else image.convert(want)
    except (ValueError, OSError) as err:
        raise DataError(
            f"image mode '{image.mode}' cannot be converted to '{want}' ({err}): save it as"
            f" {want}"
        ) from err


def resized_shape(height: int, width: int, resize: int | Pair | None, cover: bool) -> Pair:
    """Height and width after the resize step.

    An int is the new short side; the long side is int(size * long / short), as in Hugging
    Face's and torchvision's resize. With `cover`, (h, w) is the smallest box that the image
    still fills when its aspect is kept, as in timm's ResizeKeepRatio.
    """
    if resize is None:
        return height, width
    if isinstance(resize, int):
        long = int(resize * max(height, width) / min(height, width))
        return (resize, long) if height <= width else (long, resize)
    if not cover:
        return resize
    ratio = min(height / resize[0], width / resize[1])
    return round(height / ratio), round(width / ratio)


def centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The central (height, width) pixels; an image that is smaller is padded with zeros.

    The offset is floor((size - crop) / 2) on either sign, as in Hugging Face's center_crop;
    torchvision rounds half to even instead, which moves the crop by at most one pixel.
    """
    top = math.floor((image.height - height) / 2)
    left = math.floor((image.width - width) / 2)
    # Image.crop fills what lies outside of the image with zeros.
    return image.crop((left, top, left + width, top + height))
