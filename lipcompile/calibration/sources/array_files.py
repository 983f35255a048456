"""Array files: read .npy and .npz."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

import numpy as np

from lipcompile.errors import DataError

_MOST_BYTES = 1 << 30
_MOST_RATIO = 200
ARRAY_SUFFIXES = (".npy", ".npz")


def read_arrays(path: Path, name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy file (memory-mapped) or of a .npz file; pickles are refused.

    Raises:
        DataError: The file is missing, damaged, a zip bomb, or holds Python objects.
    """
    try:
        # np.load leaves the file open when it meets a damaged .npz by its path.
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                return _loaded(file)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except Exception as err:  # damaged headers raise from zipfile, zlib, ast and tokenize
        raise _cannot_read(name, err) from err


def parse_arrays(data: bytes, name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The content of the bytes of a .npy or a .npz file; pickles are refused.

    Raises:
        DataError: They are damaged, a zip bomb, or hold Python objects.
    """
    try:
        return _loaded(io.BytesIO(data))
    except Exception as err:  # as above
        raise _cannot_read(name, err) from err


def _loaded(file: BinaryIO) -> np.ndarray | dict[str, np.ndarray]:
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        _check_size(loaded.zip, file.seek(0, io.SEEK_END))
        return dict(loaded)


def _check_size(archive: ZipFile, packed: int) -> None:
    """Raises ValueError where an archive would fill the memory out of nearly nothing."""
    plain = sum(entry.file_size for entry in archive.infolist())
    if plain > max(_MOST_BYTES, _MOST_RATIO * packed):
        raise ValueError(
            f"its {packed} bytes would become {plain}, as in a zip bomb: if they are meant,"
            " give a .npy file"
        )


def _cannot_read(name: str, err: Exception) -> DataError:
    cause = getattr(err, "strerror", None) or err
    return DataError(
        f"array file '{name}' cannot be read ({cause}): write plain numeric arrays with"
        " np.save or np.savez"
    )
