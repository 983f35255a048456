"""Files behind fsspec: read in ranges, tried again when the network fails."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast, final

from lipcompile.calibration.sources.files import Files, matches, suffix_of
from lipcompile.calibration.sources.range_file import RangeFile
from lipcompile.errors import DataError, RunFailure

Answer = TypeVar("Answer")

_PAUSES: Final = (0.5, 2.0, 8.0)  # seconds before another try
_READ_AHEAD: Final = 8 << 20
# Where filesystems keep what tells two versions of a file apart.
_VERSIONS: Final = (
    "ETag",
    "etag",
    "blob_id",
    "md5Hash",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
_REFUSALS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_SECRETS = re.compile(r"(?<=//)[^/@\s]*@|\?[^\s'\"]*")


@final
class RemoteFiles(Files):
    """Files of an fsspec filesystem.

    A failure of the network is tried again, and then ends the run: it says nothing of the
    sample, which must not be left out for it.

    Args:
        filesystem: fsspec's.
        root: The path of the folder in it.
        shown: The URL, for errors.
    """

    def __init__(self, filesystem: Any, root: str, shown: str) -> None:
        self._filesystem = filesystem
        self._root = root
        self._shown = shown
        self._stamps: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    @property
    def label(self) -> str:
        return posixpath.basename(self._root) or self._shown

    def find(self, suffixes: Collection[str]) -> list[str]:
        start = len(self._root.rstrip("/")) + 1
        found = self._try(self.label, lambda: self._filesystem.find(self._root, detail=True))
        self._filesystem.invalidate_cache()  # which would hold every entry
        names = []
        for path, entry in found.items():
            name = path[start:]
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and suffix_of(name) in suffixes:
                self.note(name, entry)
                names.append(name)
        return sorted(names)

    def beside(self, pattern: str) -> list[str]:
        paths = self._try(self.label, lambda: self._filesystem.ls(self._root, detail=False))
        found = (posixpath.basename(path) for path in paths)
        return sorted(name for name in found if matches(name, pattern))

    def read(self, name: str) -> bytes:
        return cast(
            bytes, self._try(name, lambda: self._filesystem.cat_file(self._path(name)))
        )

    def open(self, name: str, ahead: bool = False) -> BinaryIO:
        file = RangeFile(
            lambda start, size: self.read_range(name, start, size),
            self.size(name),
            _READ_AHEAD if ahead else 0,
        )
        return cast(BinaryIO, file)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        def fetch() -> bytes:
            data: bytes = self._filesystem.cat_file(
                self._path(name), start=start, end=start + size
            )
            return data

        return self._try(name, fetch) if size else b""

    def size(self, name: str) -> int:
        if name not in self._sizes:
            self.entry(name)
        size = self._sizes.get(name)
        if size is None:
            raise DataError(
                f"data file '{name}' cannot be read (it is not there, or its size is not"
                " known): check the URL"
            )
        return size

    def stamp(self, name: str) -> str:
        """As a listing told; "" for names from a list file, for which no one is asked."""
        return self._stamps.get(name, "")

    def local(self, name: str) -> Path | None:
        return None

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """What the filesystem knows of a file, or None where there is none.

        Raises:
            RunFailure: It cannot be reached.
        """
        path = self._path(name) if name else self._root

        def ask() -> Mapping[str, Any] | None:
            try:
                found: Mapping[str, Any] = self._filesystem.info(path)
            except FileNotFoundError:
                return None
            return found

        entry = self._try(name or self.label, ask)
        if entry is not None:
            self.note(name, entry)
        return entry

    def note(self, name: str, entry: Mapping[str, Any]) -> None:
        """Keeps the size and the stamp of a file."""
        size = entry.get("size")
        version = next((entry[key] for key in _VERSIONS if entry.get(key)), "")
        if isinstance(size, int):
            self._sizes[name] = size
        self._stamps[name] = f"{size} {version}"

    def _path(self, name: str) -> str:
        if "://" in name:
            return str(self._filesystem._strip_protocol(name))
        parts = [] if name.startswith("/") else self._root.split("/")
        for part in name.split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part != ".":
                parts.append(part)
        return "/".join(parts)

    def _try(self, name: str, ask: Callable[[], Answer]) -> Answer:
        for pause in (*_PAUSES, None):
            try:
                return ask()
            except _REFUSALS as err:
                raise DataError(
                    f"sample '{name}' cannot be read ({cause_of(err)}): check the URL, and"
                    " what the account may read"
                ) from err
            except Exception as err:  # every filesystem has errors of its own
                if pause is None:
                    raise RunFailure(
                        f"'{name}' of '{self._shown}' cannot be reached ({cause_of(err)}),"
                        f" tried {len(_PAUSES) + 1} times: check the network and the"
                        " credentials"
                    ) from err
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def cause_of(err: Exception) -> str:
    """The first line of an error, without what is secret in it."""
    text = str(err) or type(err).__name__
    return without_secrets(text.splitlines()[0][:200])


def without_secrets(text: str) -> str:
    """Drops user names, passwords and signatures from URLs."""
    return _SECRETS.sub("", text)
