"""Image files as samples: read and decode them."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.fast_jpeg import fast_pixels
from lipcompile.calibration.sources.sample import Sample, check_array
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

IMAGE_SUFFIXES: Final = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"]
)
_REPLACE_OR_SKIP = (
    "replace it, or pass --on-bad-sample skip to leave it out and have it counted"
)

# By content, whatever a file's name says. For others, such as EPS, Pillow runs other programs.
_COMMON = ("JPEG", "PNG", "BMP", "GIF", "PPM")
_OTHERS = ("WEBP", "TIFF", "MPO", "JPEG2000", "AVIF", "DIB", "TGA", "ICO")

_MOST_BYTES = 1 << 30  # twice what Pillow's limit on pixels leaves of any 8-bit image

# `warnings.catch_warnings` swaps process-wide state, so two decoding threads must not overlap.
_OPENING = threading.Lock()


def image_reader(
    label: str, inputs: Sequence[TensorSpec], preprocess: Callable[[], Preprocess] | None
) -> Callable[[str, bytes], Sample]:
    """What makes a sample of a name and the bytes of an image file.

    Args:
        label: Name of the data, for errors.
        inputs: The model's inputs.
        preprocess: Gives the transform.

    Raises:
        DataError: The model does not take one image, or nothing says how to prepare it.
    """
    if len(inputs) != 1 or preprocess is None:
        raise DataError(
            f"'{label}' holds images, which need preprocessing and a model with one input;"
            f" this model takes {[str(spec) for spec in inputs]}: give .npz data with one"
            " array per input"
        )
    spec, transform = inputs[0], preprocess()
    return lambda name, data: image_sample(data, name, spec, transform)


def image_sample(
    data: bytes, name: str, spec: TensorSpec, transform: Callable[[Image.Image], np.ndarray]
) -> Sample:
    """The sample of one image file; its digest is over the file's bytes.

    Raises:
        DataError: It cannot be decoded or transformed, or does not fit the input.
    """
    image = decode(data, name)
    try:
        array = transform(image)
    except DataError as err:
        raise DataError(f"sample '{name}': {err}") from err
    whole = spec.shape is not None and len(spec.shape) == 3
    feeds = {spec.name: check_array(name, spec, array, whole)}
    return Sample(name, feeds, whole, hashlib.sha256(data).digest())


def read_file(path: Path, name: str, remedy: str = _REPLACE_OR_SKIP) -> bytes:
    """The bytes of a sample's file; errors end in `remedy`.

    Raises:
        DataError: The file is missing, above 1 GiB, not a regular file, or may not be read.
    """
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {_MOST_BYTES:,} bytes")
        # A named pipe called x.jpg would block the scan for ever.
        data = path.read_bytes() if path.is_file() or not path.exists() else None
    except (OSError, ValueError) as err:
        cause = getattr(err, "strerror", None) or err
        raise DataError(f"sample '{name}' cannot be read ({cause}): {remedy}") from err
    if data is None:
        raise DataError(f"sample '{name}' cannot be decoded (not a regular file): {remedy}")
    return data


def decode(data: bytes, name: str, remedy: str = _REPLACE_OR_SKIP) -> Image.Image:
    """The (first) image in `data`, as Pillow decodes it; EXIF orientation is not applied.

    Errors end in `remedy`, the next step.

    Raises:
        DataError: The bytes are no image of a common raster format, are damaged, or hold more
            than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    if not data:
        raise DataError(f"sample '{name}' cannot be decoded (the file is empty): {remedy}")
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _open(data)
        if (fast := fast_pixels(image, data)) is not None:
            return fast
        image.load()
    except Exception as err:  # On damaged bytes, Pillow's plugins raise nearly any type.
        raise DataError(
            f"sample '{name}' cannot be decoded ({_decode_cause(err)}): {remedy}"
        ) from err
    return image


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_COMMON)
    except UnidentifiedImageError:
        return Image.open(io.BytesIO(data), formats=_rest())


@functools.cache
def _rest() -> list[str]:
    """Formats whose plugins Pillow loads when they are asked for, as far as it has them."""
    Image.init()
    return [name for name in _OTHERS if name in Image.OPEN]


def _decode_cause(err: Exception) -> str:
    # Pillow's own text holds the address of our buffer, which differs from run to run.
    if isinstance(err, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return str(err) or type(err).__name__
