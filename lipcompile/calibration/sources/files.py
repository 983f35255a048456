"""Where data lies: files below a root, on this machine or elsewhere."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO, final

from lipcompile.calibration.sources.image_files import read_file
from lipcompile.errors import DataError


class Files(ABC):
    """Files below a root, by relative names with slashes; several threads may read."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The root's base name."""

    @abstractmethod
    def find(self, suffixes: Collection[str]) -> list[str]:
        """Names of all files with one of `suffixes`, sorted; hidden ones are left out.

        Raises:
            DataError: A folder cannot be listed.
        """

    @abstractmethod
    def beside(self, pattern: str) -> list[str]:
        """Names of the files right below the root that match a pattern with * and ?, sorted.

        Raises:
            DataError: The root cannot be listed.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a sample's file.

        Raises:
            DataError: It cannot be read, or is empty.
        """

    @abstractmethod
    def open(self, name: str, ahead: bool = False) -> BinaryIO:
        """A file for reading from any position; `ahead` where it is read from front to end.

        Raises:
            DataError: It cannot be opened.
        """

    @abstractmethod
    def read_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from byte `start` on, or fewer where the file ends.

        Raises:
            DataError: It cannot be read.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Its size in bytes.

        Raises:
            DataError: It cannot be looked up.
        """

    @abstractmethod
    def stamp(self, name: str) -> str:
        """What changes when the file is replaced, or "gone"."""

    @abstractmethod
    def local(self, name: str) -> Path | None:
        """Its path on this machine, if it lies there."""


@final
class LocalFiles(Files):
    """Files of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def label(self) -> str:
        return self._root.resolve().name

    def find(self, suffixes: Collection[str]) -> list[str]:
        return find_files(self._root, suffixes)

    def beside(self, pattern: str) -> list[str]:
        try:
            found = os.listdir(self._root)
        except OSError as err:
            raise _cannot_list(err) from err
        return sorted(name for name in found if matches(name, pattern))

    def read(self, name: str) -> bytes:
        return read_file(self._root / name, name)

    def open(self, name: str, ahead: bool = False) -> BinaryIO:
        try:
            return (self._root / name).open("rb", buffering=0)
        except OSError as err:
            raise _cannot_read(name, err) from err

    def read_range(self, name: str, start: int, size: int) -> bytes:
        try:
            with (self._root / name).open("rb", buffering=0) as file:
                file.seek(start)
                data = file.read(size)
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more  # one read gives 2 GiB at most
                return data
        except OSError as err:
            raise _cannot_read(name, err) from err

    def size(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_size
        except OSError as err:
            raise _cannot_read(name, err) from err

    def stamp(self, name: str) -> str:
        return file_stamp(self._root / name)

    def local(self, name: str) -> Path | None:
        return self._root / name


def _cannot_read(name: str, err: OSError) -> DataError:
    return DataError(f"data file '{name}' cannot be read ({err.strerror}): check the path")


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
    for folder, subfolders, files in os.walk(root, onerror=_raise_cannot_list):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if suffix_of(name) in suffixes and not name.startswith("."):
                found.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def suffix_of(name: str) -> str:
    """The last suffix of a file's name, in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def matches(name: str, pattern: str) -> bool:
    """Whether a base name matches a pattern with * and ?, and is not hidden."""
    return fnmatchcase(name, pattern) and not name.startswith(".")


def _cannot_list(err: OSError) -> DataError:
    return DataError(
        f"folder '{err.filename}' cannot be listed ({err.strerror}): allow reading it, or move"
        " it out of the data"
    )


def _raise_cannot_list(err: OSError) -> None:
    raise _cannot_list(err) from err
