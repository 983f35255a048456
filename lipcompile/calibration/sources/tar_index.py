"""Samples in tar shards, as WebDataset writes them: where their parts lie, in few bytes each.

A sample is a run of members with one key: the name up to the first dot of its base name. What
follows is the suffix, which tells what the part is.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lipcompile.calibration.sources.files import Files
from lipcompile.calibration.sources.tar_headers import read_members

# As in WebDataset: no dot in front of the base name, at least one behind it.
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)


class Part(NamedTuple):
    """One member of a sample: its suffix without the first dot, and where its bytes lie."""

    suffix: str
    start: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class TarIndex:
    """Where each sample lies; 36 bytes and the key for a sample of one part.

    Attributes:
        shards: Names of the archives.
        firsts: Number of the first sample of each archive, and of all samples: int64 [n + 1].
        keys: Keys of all samples, one behind the other, in UTF-8.
        key_ends: End of each sample's key in `keys`.
        part_ends: End of each sample's parts.
        suffixes: The suffixes that occur.
        kinds: Index of each part's suffix.
        starts: Offset of each part in its archive.
        sizes: Size of each part in bytes, or NO_DATA.
    """

    shards: Sequence[str]
    firsts: np.ndarray
    keys: bytearray
    key_ends: array[int]
    part_ends: array[int]
    suffixes: Sequence[str]
    kinds: array[int]
    starts: array[int]
    sizes: array[int]

    def __len__(self) -> int:
        return len(self.key_ends)

    def shard(self, index: int) -> str:
        """The archive that holds a sample."""
        return self.shards[int(np.searchsorted(self.firsts, index, "right")) - 1]

    def key(self, index: int) -> str:
        begin = self.key_ends[index - 1] if index else 0
        return self.keys[begin : self.key_ends[index]].decode("utf-8", "surrogateescape")

    def parts(self, index: int) -> list[Part]:
        """The parts of a sample that were kept."""
        begin = self.part_ends[index - 1] if index else 0
        return [
            Part(self.suffixes[self.kinds[i]], self.starts[i], self.sizes[i])
            for i in range(begin, self.part_ends[index])
        ]

    def has(self, wanted: Callable[[str], bool]) -> bool:
        """Whether some sample has a part whose suffix is `wanted`."""
        return any(map(wanted, self.suffixes))


@dataclass(slots=True)
class _Builder:
    keys: bytearray = field(default_factory=bytearray)
    key_ends: array[int] = field(default_factory=lambda: array("Q"))
    part_ends: array[int] = field(default_factory=lambda: array("Q"))
    suffixes: dict[str, int] = field(default_factory=dict)
    kinds: array[int] = field(default_factory=lambda: array("I"))
    starts: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def add_sample(self, key: str) -> None:
        self.keys += key.encode("utf-8", "surrogateescape")
        self.key_ends.append(len(self.keys))
        self.part_ends.append(len(self.kinds))

    def add_part(self, suffix: str, start: int, size: int) -> None:
        self.kinds.append(self.suffixes.setdefault(suffix, len(self.suffixes)))
        self.starts.append(start)
        self.sizes.append(size)
        self.part_ends[-1] = len(self.kinds)


def index_tars(files: Files, shards: Sequence[str], keep: Callable[[str], bool]) -> TarIndex:
    """Reads the headers of all archives, in order.

    Args:
        files: Where they lie.
        shards: Their names.
        keep: Whether a part with this suffix is kept; a sample stays, even without parts.

    Raises:
        DataError: An archive cannot be read, or is damaged.
    """
    builder = _Builder()
    firsts = [0]
    for shard in shards:
        _add_shard(builder, files, shard, keep)
        firsts.append(len(builder.key_ends))
    return TarIndex(
        shards,
        np.array(firsts),
        builder.keys,
        builder.key_ends,
        builder.part_ends,
        list(builder.suffixes),
        builder.kinds,
        builder.starts,
        builder.sizes,
    )


def _add_shard(
    builder: _Builder, files: Files, shard: str, keep: Callable[[str], bool]
) -> None:
    last = None
    with files.open(shard, ahead=True) as file:
        for name, start, size in read_members(file, files.size(shard), shard):
            match = _MEMBER.fullmatch(name)
            if match is None or (name.startswith("__") and name.endswith("__")):
                continue  # WebDataset's own rule
            key, suffix = match[1], match[2]
            if key != last:
                builder.add_sample(key)
                last = key
            if keep(suffix):
                builder.add_part(suffix, start, size)
