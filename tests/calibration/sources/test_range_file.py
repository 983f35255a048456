"""Reading a file in ranges."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcompile.calibration.sources.range_file import RangeFile

DATA = bytes(range(250)) * 4


def opened(ahead: int) -> tuple[RangeFile, list[tuple[int, int]]]:
    asked = []

    def fetch(start: int, size: int) -> bytes:
        asked.append((start, size))
        assert size > 0 and start + size <= len(DATA)
        return DATA[start : start + size]

    return RangeFile(fetch, len(DATA), ahead), asked


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 1100), st.integers(0, 99))
)


@given(ahead=st.sampled_from([0, 1, 64, 5000]), steps=STEPS)
def test_it_reads_as_a_file_in_memory(ahead, steps):
    file, _ = opened(ahead)
    plain = io.BytesIO(DATA)
    for whence, offset, size in steps:
        offset = -min(offset, len(DATA)) if whence == io.SEEK_END else offset
        assert file.seek(offset, whence) == plain.seek(offset, whence)
        assert file.read(size) == plain.read(size)
        assert file.tell() == plain.tell()
    assert file.read() == plain.read()


def test_reading_ahead_asks_seldom_and_without_it_only_for_what_is_read():
    file, asked = opened(400)
    assert b"".join(iter(lambda: file.read(7), b"")) == DATA
    assert len(asked) == 3
    file, asked = opened(0)
    file.seek(500)
    file.read(10)
    assert asked == [(500, 10)]


def test_positions_in_front_of_the_file_are_refused():
    file, _ = opened(0)
    with pytest.raises(ValueError, match="position -1 is in front of the file"):
        file.seek(-1)


def test_a_short_answer_ends_the_file():
    file = RangeFile(lambda start, size: b"abc", 100, 0)
    assert file.read(50) == b"abc"
