"""Tar archives: where each member's bytes lie, from the headers alone.

Python's tarfile reads the same archives, with an object per member and, on hostile headers,
without bounds on time and memory. The format is that of POSIX.1-2017, "pax", with GNU's long
names: https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from lipcompile.errors import DataError

BLOCK: Final = 512
NO_DATA: Final = -1  # the size of a link or a device
_MOST_OF_HEADER = 1 << 20
_TAIL = 1 << 16
_ZEROS = bytes(BLOCK)
_MAGICS: Final = {
    b"\x1f\x8b": "gzip",
    b"BZ": "bzip2",
    b"\xfd7": "xz",
    b"\x28\xb5": "zstd",
}
_EXTENSIONS: Final = b"xLKg"
_FILES: Final = b"0\x007"
_LINKS: Final = b"12"
_WITHOUT_DATA: Final = b"123456"
_REPAIR = "make or download it again, or leave it out of the data"


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: As the archive has it.
        start: Offset of its bytes.
        size: Their number, or NO_DATA for what has none of its own.
    """

    name: str
    start: int
    size: int


class _Damaged(Exception):
    """What is wrong with the archive."""


def read_members(file: BinaryIO, length: int, label: str) -> Iterator[Member]:
    """Yields the files in an archive, in order; folders are left out.

    Args:
        file: The archive; read forward from its beginning.
        length: Its size in bytes.
        label: Its name, for errors.

    Raises:
        DataError: It is no tar archive, compressed, damaged, cut off, or has sparse files.
    """
    try:
        yield from _members(file, length)
    except _Damaged as err:
        raise DataError(f"tar archive '{label}' cannot be read ({err}): {_REPAIR}") from err


def _members(file: BinaryIO, length: int) -> Iterator[Member]:
    position, override = 0, dict[str, bytes]()
    while (block := _read(file, position, BLOCK)) != _ZEROS:
        size = _checked_size(block, position)
        kind, start = block[156:157], position + BLOCK
        if kind in _EXTENSIONS:
            override |= _extension(kind, file, start, size)
        else:
            name = override.get("path", _name(block)).decode("utf-8", "surrogateescape")
            size = 0 if kind in _WITHOUT_DATA else _pax_size(override, size)
            if kind == b"S" or any(map(_is_sparse, override)):
                raise _Damaged(f"'{name}' is a sparse file")
            if kind in _FILES and start + size > length:
                raise _Damaged(f"cut off inside '{name}', at byte {length}")
            if kind in _FILES + _LINKS and not name.endswith("/"):
                yield Member(name, start, NO_DATA if kind in _LINKS else size)
            override = {}
        position = start + -(-size // BLOCK) * BLOCK
    _check_tail(file.read(_TAIL))


def _extension(kind: bytes, file: BinaryIO, start: int, size: int) -> dict[str, bytes]:
    """What a header that describes the next member says of it."""
    if size > _MOST_OF_HEADER:
        raise _Damaged(f"a header of {size} bytes at byte {start}")
    if kind == b"L":
        return {"path": _read(file, start, size).split(b"\0", 1)[0]}
    return _pax_records(_read(file, start, size)) if kind == b"x" else {}


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    if position != file.tell():
        file.seek(position)
    data = file.read(size)
    if len(data) < size:
        raise _Damaged(f"cut off at byte {position}" if position else "no tar archive")
    return data


def _checked_size(block: bytes, position: int) -> int:
    """The size that a header states, once its checksum is right."""
    stated, size = _number(block[148:156]), _number(block[124:136])
    if stated is None or size is None or not _sums_to(block, stated):
        if not position and (packed := _MAGICS.get(block[:2])):
            raise _Damaged(f"it is compressed with {packed}: only plain archives can be read")
        raise _Damaged(f"damaged at byte {position}" if position else "no tar archive")
    return size


def _sums_to(block: bytes, stated: int) -> bool:
    """Whether the bytes of a header, with blanks for the sum, add up to what it states."""
    blank = block[:148] + b" " * 8 + block[156:]
    # The lower half of Adler-32 is 1 + the sum modulo 65521, eight times as fast as sum().
    if zlib.adler32(blank) & 0xFFFF == (1 + stated) % 65521:
        return True
    # Old archives added the bytes up as signed ones.
    return sum(blank) - 256 * sum(byte > 127 for byte in blank) == stated


def _number(field: bytes) -> int | None:
    """An octal or, above 8 GiB, a binary number; None for anything else, or below 0."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _is_sparse(key: str) -> bool:
    return key.startswith("GNU.sparse")


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax_records(data: bytes) -> dict[str, bytes]:
    """Records "LENGTH KEY=VALUE\\n", where LENGTH counts the whole record."""
    records, position = dict[str, bytes](), 0
    while position < len(data) and data[position] != 0:
        digits, space, _ = data[position : position + 20].partition(b" ")
        length = int(digits) if digits.isdigit() and space else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not equals or record[-1:] != b"\n":
            raise _Damaged("a damaged pax header")
        records[key.decode("utf-8", "replace")] = value
        position += length
    return records


def _pax_size(override: dict[str, bytes], size: int) -> int:
    text = override.get("size")
    if text is None:
        return size
    if not text.isdigit() or len(text) > 18:
        raise _Damaged("a damaged pax header")
    return int(text)


def _check_tail(tail: bytes) -> None:
    """Archives that are simply put one behind another would lose all but the first."""
    if any(tail):
        raise _Damaged("more data behind its end, as when archives were concatenated")
