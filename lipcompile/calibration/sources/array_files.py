"""Array files: read .npy and .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lipcompile.errors import DataError

ARRAY_SUFFIXES = (".npy", ".npz")


def read_arrays(path: Path, name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy file (memory-mapped) or of a .npz file; pickles are refused.

    Raises:
        DataError: The file is missing, damaged, or holds Python objects.
    """
    try:
        # np.load leaves the file open when it meets a damaged .npz by its path.
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                with np.load(file, allow_pickle=False) as loaded:
                    return dict(loaded)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except Exception as err:  # damaged headers raise from zipfile, zlib, ast and tokenize
        cause = getattr(err, "strerror", None) or err
        raise DataError(
            f"array file '{name}' cannot be read ({cause}): write plain numeric arrays with"
            " np.save or np.savez"
        ) from err
