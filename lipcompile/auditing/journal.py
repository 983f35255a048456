"""What an interrupted audit has already found: one small file per batch of candidates.

A file's name is a digest of everything that decides its content (model, images, attack with
its settings, seed, start), so a journal serves any audit that asks for the same work, and an
entry can never be mistaken for another.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile import atomic
from lipcompile.calibration.sources.array_files import read_arrays
from lipcompile.errors import DataError, LipCompileError, OutputError

_ENTRY = re.compile(r"[0-9a-f]{40}\.npy")


class Journal:
    """A folder of results, or nothing where no folder is given.

    A journal that can no longer be written is no reason to lose an audit: it says so, once,
    and the audit goes on without.

    Attributes:
        folder: Where entries are; None keeps nothing.
        reused: Entries that were read instead of computed.
        problem: Why entries are no longer written, if they are not.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.reused = 0
        self.problem: str | None = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"the journal folder '{folder}' cannot be made ({error.strerror}): name "
                    "another with --journal"
                ) from error

    def entry(
        self,
        key: Mapping[str, Any],
        shape: tuple[int, ...],
        compute: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """The candidates for `key`, read or computed: float32 of `shape`."""
        if self.folder is None:
            return compute()
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.npy"
        found = _read(path, shape)
        if found is not None:
            self.reused += 1
            return found
        result = np.ascontiguousarray(compute(), np.float32)
        if self.problem is None:
            self._write(path, result)
        return result

    def _write(self, path: Path, result: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, result)
        try:
            atomic.write_bytes(path, buffer.getvalue())
        except (OSError, LipCompileError) as error:
            self.problem = (
                f"the journal '{self.folder}' could not be written ({error}): an interruption "
                "would lose what is found from here on"
            )

    def remove(self) -> None:
        """Removes the entries, and the folder if nothing else is in it."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                if _ENTRY.fullmatch(name):
                    (self.folder / name).unlink()
            self.folder.rmdir()


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The entry, unless it is missing or damaged: then it is computed again."""
    try:
        loaded = read_arrays(path, path.name)
    except DataError:
        return None
    if isinstance(loaded, dict) or loaded.shape != shape or loaded.dtype != np.float32:
        return None
    return np.array(loaded)
