"""Array files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipcompile.errors import DataError
from tests.calibration.data import opened, rows


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
