"""Sources on disk: folders, lists of images, image files and array files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.array_files import ARRAY_SUFFIXES, read_arrays
from lipcompile.calibration.sources.image_files import image_sample
from lipcompile.calibration.sources.items import item_sample
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.sources.source import (
    Kind,
    Origin,
    Source,
    indexed_source,
    listing_digest,
)
from lipcompile.calibration.sources.stacks import open_stack
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"]
)
LIST_SUFFIXES = (".txt", ".lst")


def open_path(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    """The samples in a folder, an image, a list of images, a .npy or a .npz file.

    Args:
        path: What to read.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        pick: Chooses the indices of the samples that are read.

    Raises:
        DataError: There is nothing at `path` that can be used with these inputs.
    """
    suffix = path.suffix.lower()
    # os.path.exists, unlike Path.exists, is False where the path cannot even be looked up.
    if not os.path.exists(path):
        near = next(p for p in path.absolute().parents if os.path.exists(p))
        raise DataError(
            f"calibration data '{path}': no such file or folder; the nearest folder that"
            f" exists is '{near}': check the path"
        )
    if path.is_dir():
        label = path.resolve().name
        if names := find_files(path, IMAGE_SUFFIXES):
            return _images("images", label, path, names, inputs, preprocess, pick)
        return _array_folder(label, path, find_files(path, ARRAY_SUFFIXES), inputs, pick)
    if suffix in LIST_SUFFIXES:
        names = read_list(path)
        return _images("list", path.name, path.parent, names, inputs, preprocess, pick)
    if suffix in IMAGE_SUFFIXES:
        return _images("images", path.name, path.parent, [path.name], inputs, preprocess, pick)
    if suffix in ARRAY_SUFFIXES:
        arrays = read_arrays(path, path.name)
        origin = Origin(lambda: listing_digest([path.name, file_stamp(path)]))
        return open_stack(path.name, arrays, inputs, pick, origin)
    raise DataError(
        f"calibration data '{path}' has the suffix '{suffix}': give a folder of images, an"
        " image, a .txt or .lst list of image paths, a .npy or a .npz file"
    )


def _images(
    kind: Kind,
    label: str,
    root: Path,
    names: Sequence[str],
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    if len(inputs) != 1 or preprocess is None:
        raise DataError(
            f"'{label}' holds images, which need preprocessing and a model with one input;"
            f" this model takes {[str(spec) for spec in inputs]}: give .npz data with one"
            " array per input"
        )
    spec, transform = inputs[0], preprocess()

    def load(name: str, _: int) -> Sample:
        return image_sample(root / name, name, spec, transform)

    origin = _origin(root, names)
    return indexed_source(
        kind, label, pick(len(names)), names.__getitem__, load, origin=origin
    )


def _array_folder(
    label: str, root: Path, names: Sequence[str], inputs: Sequence[TensorSpec], pick: Pick
) -> Source:
    if not names:
        raise DataError(
            f"folder '{label}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no"
            " .npy or .npz files; hidden files and linked folders are not read: check the path"
        )

    def load(name: str, _: int) -> Sample:
        return item_sample(name, read_arrays(root / name, name), inputs)

    kind: Kind = "npz" if any(name.lower().endswith("z") for name in names) else "npy"
    origin = _origin(root, names)
    return indexed_source(
        kind, label, pick(len(names)), names.__getitem__, load, origin=origin
    )


def _origin(root: Path, names: Sequence[str]) -> Origin:
    """That of one file a sample."""
    return Origin(lambda: listing_digest(names), lambda i: file_stamp(root / names[i]))


def file_stamp(path: Path) -> str:
    """Size and time of a file, or "gone"."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


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
        " it out of the data"
    ) from err


def read_list(path: Path) -> list[str]:
    """The image paths in a list file: one per line, blank lines and # comments left out.

    Raises:
        DataError: The file cannot be read, is not UTF-8 text, or names no image.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            names = [name for line in file if (name := line.strip()) and name[0] != "#"]
    except OSError as err:
        raise DataError(
            f"list file '{path}' cannot be read ({err.strerror}): check its permissions"
        ) from err
    except UnicodeDecodeError as err:
        raise DataError(f"list file '{path}' is not UTF-8 text: save it as UTF-8") from err
    if not names:
        raise DataError(
            f"list file '{path}' names no image: write one image path per line, relative to"
            " the list's folder"
        )
    return names
