"""Image files as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.image_files import decode, read_file
from lipcompile.errors import DataError
from lipcompile.labelled.normalisation import pixel_levels

_MAX_BYTES = 8 << 30
_REMEDY = "replace it, or take it out of the data"


def read_images(root: Path, names: Sequence[str], transform: Preprocess) -> np.ndarray:
    """float32 [N, C, H, W] in [0, 1]: the files with the transform's colour and geometry.

    Raises:
        DataError: A file cannot be read or decoded, sizes differ, or they are too many.
    """
    levels = pixel_levels(transform)
    first = _pixels(root, names[0], transform)
    height, width, channels = first.shape
    check_memory(len(names), (channels, height, width))
    result = np.empty((len(names), channels, height, width), np.float32)
    for index, name in enumerate(names):
        pixels = _pixels(root, name, transform) if index else first
        if pixels.shape != first.shape:
            raise DataError(
                f"image '{name}' is {pixels.shape[0]}x{pixels.shape[1]} (height x width), but"
                f" '{names[0]}' is {height}x{width}, and the model's size is dynamic: pass"
                " --input-size"
            )
        result[index] = levels[pixels].transpose(2, 0, 1)
    return result


def _pixels(root: Path, name: str, transform: Preprocess) -> np.ndarray:
    image = decode(read_file(root / name, name, _REMEDY), name, _REMEDY)
    try:
        return transform.pixels(image)
    except DataError as err:
        raise DataError(f"sample '{name}': {err}") from err


def check_memory(count: int, dims: tuple[int, ...]) -> None:
    """Raises DataError where `count` images would take more than 8 GiB as float32."""
    each = 4 * int(np.prod(dims))
    if count * each > _MAX_BYTES:
        raise DataError(
            f"{count} images of {'x'.join(map(str, dims))} (channels x height x width) take"
            f" {count * each / 2**30:.1f} GiB as float32, above the limit of"
            f" {_MAX_BYTES >> 30} GiB: pass --samples {max(1, _MAX_BYTES // each)} or fewer"
        )
