"""Files are read whole, and no further than they may be long."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lipcompile import bounded_files
from lipcompile.bounded_files import read_bounded


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
@pytest.mark.parametrize("block", [7, 100, 1 << 20])
def test_the_limit_is_the_last_length_that_is_read(
    size: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_files, "_BLOCK", block)
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    if size <= 100:
        assert read_bounded(tmp_path / "f", 100) == content
    else:
        with pytest.raises(OSError, match="it has more than 100 bytes"):
            read_bounded(tmp_path / "f", 100)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_until_it_ends(tmp_path: Path) -> None:
    """As the shell's <(...) makes them."""
    os.mkfifo(tmp_path / "pipe")
    content = os.urandom(300_000)
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    assert read_bounded(tmp_path / "pipe") == content
    writer.join()


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
def test_a_device_without_end_ends() -> None:
    with pytest.raises(OSError, match="it has more than 5,000,000 bytes"):
        read_bounded(Path("/dev/zero"), 5_000_000)
