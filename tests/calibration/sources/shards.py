"""Tar shards to read, and what a folder with the same images is read as."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lipcompile.calibration.sources.source import Source


def tar(
    path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]], **options: int
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def npy(array: np.ndarray, **options: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def content(source: Source) -> list[tuple[bytes, dict[str, bytes]]]:
    """What decides a table: each sample's digest and the bytes that are fed."""
    return [(s.digest, {k: a.tobytes() for k, a in s.feeds.items()}) for s in source]
