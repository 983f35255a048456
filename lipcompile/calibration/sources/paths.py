"""Sources that are named by a path of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.file_kinds import Opening
from lipcompile.calibration.sources.files import LocalFiles, find_files
from lipcompile.calibration.sources.image_files import IMAGE_SUFFIXES
from lipcompile.calibration.sources.list_files import LIST_SUFFIXES, read_list
from lipcompile.calibration.sources.patterns import expand_braces, matching
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.source import Source
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

__all__ = ["IMAGE_SUFFIXES", "LIST_SUFFIXES", "find_files", "open_path", "read_list"]


def open_path(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    """The samples in a folder, an image, a list of images, an array file or shards.

    Args:
        path: What to read; a name like `shard-{000..146}.tar` stands for 147 shards, and
            `train-*.parquet` for all that match.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        pick: Chooses the indices of the samples that are read.

    Raises:
        DataError: There is nothing at `path` that can be used with these inputs.
    """
    # Functions of os.path, unlike those of Path, are False where it cannot be looked up.
    is_folder = os.path.isdir(path)
    root = path if is_folder else path.parent
    files = LocalFiles(root)
    opening = Opening(files, inputs, preprocess, pick)
    if not os.path.exists(path):
        names = expand_braces(path.name) or matching(path.name, files)
        for name in names or [path.name]:
            _require(root / name)
        return opening.shards(path.name, names)
    return opening.folder() if is_folder else opening.file(path.name)


def _require(path: Path) -> None:
    if not os.path.exists(path):
        near = next(p for p in path.absolute().parents if os.path.exists(p))
        raise DataError(
            f"calibration data '{path}': no such file or folder; the nearest folder that"
            f" exists is '{near}': check the path"
        )
