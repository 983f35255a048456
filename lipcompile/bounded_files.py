"""Read a whole file, and no more than fits into memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_MAX_BYTES = 256 << 20
_BLOCK = 1 << 20


def read_bounded(path: Path, most: int = _MAX_BYTES) -> bytes:
    """The content of a file; a device such as /dev/zero, which says it has 0 bytes, ends too.

    Raises:
        OSError: It cannot be read, or has more than `most` bytes (EFBIG).
    """
    content = bytearray()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            content += block
            if len(content) > most:
                raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    return bytes(content)
