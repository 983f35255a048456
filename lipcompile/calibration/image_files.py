"""Image files and their pixels: find them, decode them, bring them to a colour and a size."""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lipcompile.calibration.array_files import Sample, check_array
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"]
)
REPLACE_OR_SKIP = (
    "replace it, or pass --on-bad-sample skip to leave it out and have it counted"
)

# `warnings.catch_warnings` swaps process-wide state, so two decoding threads must not overlap.
_OPENING = threading.Lock()


def find_files(root: Path, suffixes: Collection[str]) -> list[str]:
    """Paths below `root` with one of `suffixes`, relative, with slashes, sorted.

    Hidden files and folders are left out; symlinks to files are followed, symlinked folders
    are not, so that a link to a parent cannot make the walk endless.

    Raises:
        DataError: A folder cannot be listed.
    """
    found = []
    for folder, subfolders, files in os.walk(root, onerror=_cannot_list):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                found.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def _cannot_list(err: OSError) -> None:
    raise DataError(
        f"folder '{err.filename}' cannot be listed ({err.strerror}): allow reading it, or move"
        " it out of the calibration data"
    ) from err


def read_list(path: Path) -> list[str]:
    """The image paths in a list file: one per line, blank lines and # comments left out.

    Raises:
        DataError: The file cannot be read, is not UTF-8 text, or names no image.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as err:
        raise DataError(
            f"list file '{path}' cannot be read ({err.strerror}): check its permissions"
        ) from err
    except UnicodeDecodeError as err:
        raise DataError(f"list file '{path}' is not UTF-8 text: save it as UTF-8") from err
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise DataError(
            f"list file '{path}' names no image: write one image path per line, relative to"
            " the list's folder"
        )
    return names


def read_file(path: Path, name: str) -> bytes:
    """The bytes of a sample's file.

    Raises:
        DataError: The file is missing, empty, not a regular file, or may not be read.
    """
    try:
        # A named pipe called x.jpg would block the scan for ever.
        data = path.read_bytes() if path.is_file() or not path.exists() else None
    except (OSError, ValueError) as err:
        cause = getattr(err, "strerror", None) or err
        raise DataError(
            f"sample '{name}' cannot be read ({cause}): {REPLACE_OR_SKIP}"
        ) from err
    if not data:
        cause = "not a regular file" if data is None else "the file is empty"
        raise DataError(f"sample '{name}' cannot be decoded ({cause}): {REPLACE_OR_SKIP}")
    return data


def decode(data: bytes, name: str) -> Image.Image:
    """The (first) image in `data`, as Pillow decodes it; EXIF orientation is not applied.

    Raises:
        DataError: The bytes are not an image, are damaged, or hold more than
            `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as err:  # On damaged bytes, Pillow's plugins raise nearly any type.
        raise DataError(
            f"sample '{name}' cannot be decoded ({_decode_cause(err)}): {REPLACE_OR_SKIP}"
        ) from err
    return image


def image_sample(
    path: Path, name: str, spec: TensorSpec, transform: Callable[[Image.Image], np.ndarray]
) -> Sample:
    """The sample of one image file; its digest is over the file's bytes.

    Raises:
        DataError: The file cannot be read, decoded or transformed, or does not fit the input.
    """
    data = read_file(path, name)
    image = decode(data, name)
    try:
        array = transform(image)
    except DataError as err:
        raise DataError(f"sample '{name}': {err}") from err
    whole = spec.shape is not None and len(spec.shape) == 3
    feeds = {spec.name: check_array(name, spec, array, whole)}
    return Sample(name, feeds, whole, hashlib.sha256(data).digest())


def _decode_cause(err: Exception) -> str:
    # Pillow's own text holds the address of our buffer, which differs from run to run.
    if isinstance(err, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return str(err) or type(err).__name__


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


def resized_shape(
    height: int, width: int, resize: int | tuple[int, int] | None, cover: bool
) -> tuple[int, int]:
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
