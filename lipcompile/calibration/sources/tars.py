"""Tar shards as a source: WebDataset's samples, read where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.array_files import ARRAY_SUFFIXES, parse_arrays
from lipcompile.calibration.sources.files import Files, suffix_of
from lipcompile.calibration.sources.image_files import IMAGE_SUFFIXES, image_reader
from lipcompile.calibration.sources.items import item_sample
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.sources.source import (
    Origin,
    Source,
    indexed_source,
    listing_digest,
)
from lipcompile.calibration.sources.tar_headers import NO_DATA
from lipcompile.calibration.sources.tar_index import Part, TarIndex, index_tars
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

TAR_SUFFIXES: Final = (".tar",)
_MOST_BYTES = 1 << 30
_NEXT_STEP = "repair it, or pass --on-bad-sample skip to leave it out and have it counted"


def open_tars(
    label: str,
    files: Files,
    shards: Sequence[str],
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    """The samples in tar archives: images where there are any, else arrays.

    Args:
        label: Name of the data.
        files: Where the archives lie.
        shards: Their names, in the order of reading.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        pick: Chooses the indices of the samples that are read.

    Raises:
        DataError: An archive is damaged, or they hold nothing that can be used.
    """
    index = index_tars(files, shards, lambda suffix: _is_image(suffix) or _is_array(suffix))
    images = index.has(_is_image)
    if not images and not index.has(_is_array):
        raise DataError(
            f"'{label}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no .npy or"
            f" .npz files in {len(shards)} tar archives: check the path"
        )
    load = (
        _image_loader(files, index, image_reader(label, inputs, preprocess))
        if images
        else _array_loader(files, index, inputs)
    )

    def name(i: int) -> str:
        found = _images(index.parts(i)) if images else ()
        suffix = f".{found[0].suffix}" if len(found) == 1 else ""
        return f"{index.shard(i)}:{index.key(i)}{suffix}"

    origin = Origin(lambda: listing_digest(_stamped(files, shards)))
    return indexed_source("tar", label, pick(len(index)), name, load, origin=origin)


def _image_loader(
    files: Files, index: TarIndex, read: Callable[[str, bytes], Sample]
) -> Callable[[str, int], Sample]:
    def load(name: str, i: int) -> Sample:
        part = _image_part(name, index.parts(i))
        return read(name, _bytes(files, index, i, part, name))

    return load


def _array_loader(
    files: Files, index: TarIndex, inputs: Sequence[TensorSpec]
) -> Callable[[str, int], Sample]:
    def load(name: str, i: int) -> Sample:
        return item_sample(name, _arrays(files, index, i, name), inputs)

    return load


def _stamped(files: Files, shards: Sequence[str]) -> list[str]:
    return [text for shard in shards for text in (shard, files.stamp(shard))]


def _is_image(suffix: str) -> bool:
    return suffix_of(f"x.{suffix}") in IMAGE_SUFFIXES


def _is_array(suffix: str) -> bool:
    return suffix_of(f"x.{suffix}") in ARRAY_SUFFIXES


def _images(parts: Sequence[Part]) -> Sequence[Part]:
    """The parts called just .jpg or the like; if there are none, also .mask.png and such."""
    plain = [part for part in parts if f".{part.suffix.lower()}" in IMAGE_SUFFIXES]
    return plain or [part for part in parts if _is_image(part.suffix)]


def _image_part(name: str, parts: Sequence[Part]) -> Part:
    images = _images(parts)
    if len(images) != 1:
        what = f"{len(images)} images ({', '.join(p.suffix for p in images)})"
        raise DataError(
            f"sample '{name}' holds {what if images else 'no image'}, expected one:"
            f" {_NEXT_STEP}"
        )
    return images[0]


def _bytes(files: Files, index: TarIndex, i: int, part: Part, name: str) -> bytes:
    if part.size == NO_DATA or part.size > _MOST_BYTES:
        what = "a link" if part.size == NO_DATA else f"{part.size} bytes long"
        raise DataError(
            f"sample '{name}' cannot be read ('{part.suffix}' is {what}): {_NEXT_STEP}"
        )
    shard = index.shard(i)
    data = files.read_range(shard, part.start, part.size)
    if len(data) < part.size:
        raise DataError(
            f"sample '{name}' cannot be read ('{shard}' has become shorter): {_NEXT_STEP}"
        )
    return data


def _arrays(
    files: Files, index: TarIndex, i: int, name: str
) -> np.ndarray | dict[str, np.ndarray]:
    """Part INPUT.npy is the array of that input; one .npy or .npz is as a file of its own."""
    arrays = dict[str, np.ndarray]()
    for part in index.parts(i):
        content = parse_arrays(_bytes(files, index, i, part, name), f"{name}.{part.suffix}")
        if isinstance(content, np.ndarray):
            content = {part.suffix[: -len(".npy")] or "npy": content}
        if twice := sorted(arrays.keys() & content.keys()):
            raise DataError(
                f"sample '{name}' holds the array '{twice[0]}' twice: {_NEXT_STEP}"
            )
        arrays |= content
    return arrays
