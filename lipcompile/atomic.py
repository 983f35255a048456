"""Write files so that a reader sees the old file or the new one, never half of one.

On Linux the bytes go to a file without a name (`O_TMPFILE`) in the target folder, which is
linked into place when it is complete: a process killed while it writes leaves nothing behind.
Elsewhere, on filesystems without unnamed files, and for the instant in which an existing file
is replaced, there is a named temporary file; the next write into the folder sweeps those whose
writer is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lipcompile.errors import OutputError, SaveError

_COPY_BLOCK = 1 << 24
_TEMPORARY = re.compile(r"^\..+\.(\d+)-[0-9a-f]{8}\.lipcompile-tmp$")
# What open(O_TMPFILE) answers where unnamed files are not supported (open(2), linkat(2)).
_NO_UNNAMED = {errno.EISDIR, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL}
_NO_RANGE_COPY = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM}
_live: set[str] = set()  # temporary files of this process; in a container PIDs come again
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that becomes `path` when the block ends without an exception.

    Args:
        path: The target. Its folder must exist; an existing file is replaced in one step.

    Raises:
        OutputError: The folder is missing or not writable, or `path` is a folder.
        SaveError: Writing failed, for example on a full disk; `path` is as it was.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise OutputError(f"'{path}' is {kind}: name a file with -o")
        _sweep(path.parent)
        with _open_unnamed(path) or _open_named(path) as (stream, commit):
            yield stream
            stream.flush()
            _keep_mode(path, stream)
            os.fsync(stream.fileno())
            commit()
        _sync_folder(path.parent)
    except OSError as error:
        raise _explain(path, error) from error


@contextlib.contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """Lets one process at a time write files that belong together into a folder.

    Where folders cannot be locked (Windows, some network filesystems), nothing waits: each
    file is still whole.
    """
    descriptor = None
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _keep_mode(path: Path, stream: BinaryIO) -> None:
    """Gives the new file the permissions of the one that it replaces."""
    if path.exists() and hasattr(os, "fchmod"):
        os.fchmod(stream.fileno(), stat.S_IMODE(path.stat().st_mode))


def write_bytes(path: Path, *chunks: bytes) -> None:
    """Replaces `path` by the concatenation of `chunks`, atomically."""
    with replacing(path) as stream:
        for chunk in chunks:
            stream.write(chunk)


def copy_file(source: Path, target: Path) -> None:
    """Copies `source` to `target` atomically, block by block: memory stays flat.

    Raises:
        OutputError: As `replacing`.
        SaveError: Writing failed, or `source` cannot be read or shrinks meanwhile.
    """
    try:
        reader = open(source, "rb", buffering=0)  # noqa: SIM115 - entered below
    except OSError as error:
        raise SaveError(
            f"'{source}' cannot be read ({error.strerror}), so '{target}' was not written: "
            "put it back, and run again"
        ) from error
    with reader, replacing(target) as writer:
        remaining = os.fstat(reader.fileno()).st_size
        while remaining > 0:
            copied = _copy_block(reader, writer, remaining)
            if copied == 0:
                raise SaveError(
                    f"'{source}' became shorter while it was copied to '{target}'; "
                    "something else writes to it: run again when it has finished"
                )
            remaining -= copied
            _start_writeback(writer, copied)


def _start_writeback(writer: BinaryIO, written: int) -> None:
    """Lets the disk work while the rest is copied, so that fsync has little left to wait for.

    Linux begins to write dirty pages back when it is told that they are not needed; it cannot
    drop them before they are written.
    """
    if hasattr(os, "posix_fadvise"):
        end = os.lseek(writer.fileno(), 0, os.SEEK_CUR)
        with contextlib.suppress(OSError):  # an advice: whether it is taken or not
            os.posix_fadvise(writer.fileno(), end - written, written, os.POSIX_FADV_DONTNEED)


def _copy_block(reader: BinaryIO, writer: BinaryIO, remaining: int) -> int:
    size = min(_COPY_BLOCK, remaining)
    if hasattr(os, "copy_file_range"):  # in the kernel, and a reflink where it can be
        try:
            copied = os.copy_file_range(reader.fileno(), writer.fileno(), size)
        except OSError as error:
            if error.errno not in _NO_RANGE_COPY:
                raise
            copied = 0
        if copied:  # some network filesystems copy nothing, and do not say so
            return copied
    block = reader.read(size)
    writer.write(block)
    writer.flush()
    return len(block)


_Writer = tuple[BinaryIO, Callable[[], None]]


def _open_unnamed(path: Path) -> contextlib.AbstractContextManager[_Writer] | None:
    """An unnamed file in the target folder, or None where there are none."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError as error:
        if error.errno in _NO_UNNAMED and path.parent.is_dir():
            return None
        raise

    @contextlib.contextmanager
    def writer() -> Iterator[_Writer]:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream, lambda: _link(stream.fileno(), path)

    return writer()


def _link(descriptor: int, path: Path) -> None:
    """Gives the unnamed file its name; over an existing file through a rename."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        source = f"/proc/self/fd/{descriptor}"
        try:
            # A dir_fd makes CPython call linkat(2), which follows the /proc link to the file.
            os.link(source, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            with _temporary(path) as temporary:
                os.link(source, temporary.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.replace(temporary, path)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _open_named(path: Path) -> Iterator[_Writer]:
    with _temporary(path) as temporary, open(temporary, "xb") as stream:

        def commit() -> None:
            stream.close()  # Windows does not rename an open file
            os.replace(temporary, path)

        yield stream, commit


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yields an unused name beside `path`; what is still there at the end is removed."""
    # 40 characters are at most 160 bytes: the whole stays below the usual limit of 255.
    name = f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.lipcompile-tmp"
    _live.add(name)
    try:
        yield path.with_name(name)
    finally:
        # Nothing may fail once the target stands; the next write sweeps what stays.
        with contextlib.suppress(OSError):
            path.with_name(name).unlink(missing_ok=True)
        _live.discard(name)


def _sweep(folder: Path) -> None:
    """Removes temporary files whose writer no longer runs."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.match(entry.name)
            if match and not _is_live(entry.name, int(match.group(1))):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_live(name: str, pid: int) -> bool:
    if pid == os.getpid():
        return name in _live
    if os.name == "nt":  # os.kill would end the process instead of asking for it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a folder cannot be synced everywhere
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(path: Path, error: OSError) -> OutputError | SaveError:
    if error.errno == errno.ENOSPC:
        return SaveError(
            f"'{path}' was not written: the disk is full; "
            "free some space or choose another folder with -o, and run again"
        )
    if error.errno in _DENIED:
        return OutputError(
            f"'{path}' cannot be written ({error.strerror or error}): "
            "choose a file in an existing, writable folder with -o"
        )
    return SaveError(f"'{path}' was not written ({error.strerror or error}); run again")
