"""Image files that are good, damaged, or not to be read."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lipcompile.calibration.image_files import decode
from lipcompile.errors import DataError
from tests.calibration.data import encoded, names, opened, put


GOOD_JPEG = encoded(9, (64, 64), "JPEG")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            b"",
            r"'bad\.jpg' cannot be decoded \(the file is empty\): replace it, or pass",
        ),
        (b"hello", r"cannot be decoded \(not an image that Pillow can read\): replace"),
        (
            GOOD_JPEG[:-400],
            r"cannot be decoded \(image file is truncated.*--on-bad-sample skip",
        ),
        (encoded(1)[:40], r"'bad\.jpg' cannot be decoded"),
    ],
    ids=["empty", "text", "truncated-jpeg", "truncated-png"],
)
def test_bad_images_fail_by_name_or_are_skipped_and_listed(tmp_path: Path, data, match):
    put(tmp_path, {"a.png": encoded(1), "bad.jpg": data, "c.png": encoded(2)})
    with pytest.raises(DataError, match=match):
        list(opened(tmp_path))
    source = opened(tmp_path, on_bad_sample="skip")
    assert names(source) == ["a.png", "c.png"]
    assert source.skipped == ["bad.jpg"]
    assert names(source) and source.skipped == ["bad.jpg"], (
        "reading again does not count twice"
    )


def test_16_bit_image_is_named(tmp_path: Path):
    Image.new("I;16", (6, 4)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"sample 'deep\.png': image mode 'I;16' holds more"):
        list(opened(tmp_path))


@pytest.mark.parametrize("limit", [20, 10], ids=["warning", "error"])
def test_decompression_bomb_is_an_error_without_a_warning(tmp_path: Path, monkeypatch, limit):
    put(
        tmp_path, {"bomb.png": encoded(1)}
    )  # 24 pixels: Pillow warns above 20, raises above 2x10
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            DataError, match=r"'bomb\.png' cannot be decoded \(Image size \(24"
        ):
            list(opened(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission(tmp_path: Path):
    put(tmp_path, {"a.png": encoded(1)}).joinpath("a.png").chmod(0)
    with pytest.raises(DataError, match=r"'a\.png' cannot be read \(Permission denied\)"):
        list(opened(tmp_path))


def test_permission_error_is_per_sample(tmp_path: Path, monkeypatch):
    put(tmp_path, {"a.png": encoded(1), "b.png": encoded(2)})
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(
        DataError, match=r"'a\.png' cannot be read \(Permission denied\): replace"
    ):
        list(opened(tmp_path))
    source = opened(tmp_path, on_bad_sample="skip")
    assert (names(source), source.skipped) == (["b.png"], ["a.png"])


def test_named_pipe_and_dangling_link_do_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    os.symlink(tmp_path / "gone", tmp_path / "b.png")
    put(tmp_path, {"c.png": encoded(1)})
    source = opened(tmp_path, on_bad_sample="skip")
    assert (names(source), source.skipped) == (["c.png"], ["a.png", "b.png"])


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_damaged_bytes_give_an_image_or_a_data_error(kind, edits, keep):
    data = bytearray(encoded(0, (16, 16), kind))
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    try:
        decode(bytes(data[: int(keep * len(data)) + 1]), "f")
    except DataError as err:
        assert str(err).startswith("sample 'f' cannot be decoded (") and "0x" not in str(err)


def test_image_digests_do_not_depend_on_paths(tmp_path: Path):
    data = [encoded(i) for i in range(4)]
    put(tmp_path / "a", {f"{i}.png": d for i, d in enumerate(data)})
    random.Random(0).shuffle(data)
    put(tmp_path / "b", {f"deep/{i}.jpg": d for i, d in enumerate(data)})
    first, second = ({s.digest for s in opened(tmp_path / k)} for k in "ab")
    assert first == second and len(first) == 4
