"""A file whose bytes are fetched in ranges."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@final
class RangeFile(io.RawIOBase):
    """Reads a file from any position, one range at a time.

    Args:
        fetch: Gives the bytes from a position on, so many.
        size: Bytes in the file.
        ahead: The least to fetch at once, and to hold.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, ahead: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._ahead = ahead
        self._position = 0
        self._start = 0
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        """Bytes in the file, for pyarrow."""
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} is in front of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(min(len(view), self._size - self._position), 0)
        begin = self._position - self._start
        if begin < 0 or begin + wanted > len(self._held):
            size = min(max(wanted, self._ahead), self._size - self._position)
            self._held = self._fetch(self._position, size) if wanted else b""
            self._start, begin = self._position, 0
        data = self._held[begin : begin + wanted]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
