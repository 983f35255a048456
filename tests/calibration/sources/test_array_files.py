"""Array files that cannot be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from lipcompile.calibration.sources import array_files
from lipcompile.errors import DataError
from tests.calibration.sources.data import opened, rows


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("empty.npy", lambda f: f.write_bytes(b"")),
        ("text.npz", lambda f: f.write_text("hello")),
        ("pickle.npy", lambda f: np.save(f, np.array([{}], dtype=object))),
        ("pickle.npz", lambda f: np.savez(f, x=np.array([{}], dtype=object))),
        ("cut.npy", lambda f: (np.save(f, rows(9, 9)), f.write_bytes(f.read_bytes()[:-9]))),
        ("cut.npz", lambda f: (np.savez(f, rows(9, 9)), f.write_bytes(f.read_bytes()[:-99]))),
    ],
)
def test_array_files_that_cannot_be_read(tmp_path: Path, name, write):
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"array file '{name}' cannot be read .*np.savez"):
        opened(tmp_path / name)


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch):
    path, data = tmp_path / "bomb.npz", np.zeros((1000, 3, 4, 6), "float32")
    np.savez_compressed(path, x=data)
    assert opened(path).count == 1000
    monkeypatch.setattr(array_files, "_MOST_BYTES", 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", None)
        with pytest.raises(
            DataError, match=r"'bomb\.npz' .* become 288\d\d\d, as in a zip bo"
        ):
            opened(path)
    np.savez(path, x=data)
    assert opened(path).count == 1000
