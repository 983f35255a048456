"""Array files: read .npy and .npz, once their headers are known to tell the truth."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from lipcompile.errors import DataError

ARRAY_SUFFIXES = (".npy", ".npz")
# A .npz is read as a whole, and a compressed one may be a thousand times its file.
_COMPRESSED_BYTES = 1 << 30
_COMPRESSED_TIMES = 16
# Python's zipfile inflates these step by step, and others in one go.
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_arrays(path: Path, name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy file (memory-mapped) or of a .npz file; pickles are refused.

    Raises:
        DataError: The file is missing, damaged, no regular file, or holds Python objects; or a
            .npz is more than 1 GiB and more than 16 times its file when it is unpacked.
    """
    try:
        if path.exists() and not path.is_file():  # a named pipe would block for ever
            raise ValueError("it is not a regular file")
        size = path.stat().st_size
        # np.load leaves the file open when it meets a damaged .npz by its path.
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                return _read_archive(file, size)
            file.seek(0)
            _check_header(file, size)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except Exception as err:  # damaged headers raise from zipfile, zlib, ast and tokenize
        raise _cannot_read(name, err) from err


def parse_arrays(data: bytes, name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The content of the bytes of a .npy or a .npz file; pickles are refused.

    Raises:
        DataError: As `read_arrays`.
    """
    file = io.BytesIO(data)
    try:
        if data[:2] == b"PK":
            return _read_archive(file, len(data))
        _check_header(file, len(data))
        file.seek(0)
        array: np.ndarray = np.load(file, allow_pickle=False)
        return array
    except Exception as err:  # as above
        raise _cannot_read(name, err) from err


def _cannot_read(name: str, err: Exception) -> DataError:
    cause = getattr(err, "strerror", None) or str(err)[:300] or type(err).__name__
    return DataError(
        f"array file '{name}' cannot be read ({cause}): write plain numeric arrays with"
        " np.save or np.savez"
    )


def _read_archive(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    _check_archive(file, size)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


def _check_archive(file: IO[bytes], size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        limit = max(_COMPRESSED_BYTES, _COMPRESSED_TIMES * size)
        if unpacked > limit:
            raise ValueError(
                f"its {size:,} bytes unpack to {unpacked:,}, and {limit:,} are the limit for"
                " a .npz of this size"
            )
        for member in members:
            if member.compress_type not in _BOUNDED:
                raise ValueError(f"'{member.filename}' is packed in a way that NumPy is not")
            with archive.open(member) as stream:
                _check_header(stream, member.file_size)


def _check_header(stream: IO[bytes], size: int) -> None:
    """The array that a .npy header describes is as long as what follows it.

    NumPy maps elements of 0 bytes by dividing by 0, which ends the process.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is for records")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject or dtype.itemsize == 0 or any(length < 0 for length in shape):
        raise ValueError(
            f"it has dtype {dtype} and shape {shape}: no array of numbers or text"
        )
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - stream.tell():
        raise ValueError(
            f"dtype {dtype} and shape {shape} take {needed:,} bytes, and"
            f" {size - stream.tell():,} follow: it was cut short, or edited"
        )
