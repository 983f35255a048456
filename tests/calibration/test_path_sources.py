"""What is read from folders, lists and single files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lipcompile.calibration.sources import open_source
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
from tests.calibration.data import IDS, IMAGE, encoded, names, opened, put, rows


def test_folder_is_read_recursively_in_the_order_of_relative_paths(tmp_path: Path):
    root = put(
        tmp_path / "photos",
        {
            "b/2.PNG": encoded(1),
            "b/1.jpg": encoded(2, kind="JPEG"),
            "a.tiff": encoded(3, kind="TIFF"),
            "z.webp": encoded(4),
            ".hidden.png": b"",
            ".git/x.png": b"",
            "notes.txt": b"",
        },
    )
    os.symlink(root / "a.tiff", root / "link.tif")
    os.symlink(root / "b", root / "linked")
    source = opened(root)
    assert (source.kind, source.label, source.count) == ("images", "photos", 5)
    samples = list(source)
    assert [s.name for s in samples] == ["a.tiff", "b/1.jpg", "b/2.PNG", "link.tif", "z.webp"]
    assert all(s.feeds["x"].shape == (3, 4, 6) and not s.whole for s in samples)
    assert samples[0].digest == samples[3].digest != samples[1].digest
    want = np.asarray(Image.open(root / "a.tiff"), np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(samples[0].feeds["x"], want, atol=1e-6)
    assert names(source) == [s.name for s in samples], "a source can be read again"


def test_list_file(tmp_path: Path):
    put(tmp_path, {"in/a.png": encoded(1), "in/b.png": encoded(2)})
    (tmp_path / "in/some.txt").write_text("\ufeff# first\n\nb.png\n  ../in/a.png \n", "utf-8")
    source = opened(str(tmp_path / "in/some.txt"))
    assert (source.kind, source.label, source.count) == ("list", "some.txt", 2)
    assert names(source) == ["b.png", "../in/a.png"]
    (tmp_path / "in/some.txt").write_text("b.png 7\n")
    with pytest.raises(DataError, match=r"'b\.png 7' cannot be read \(No such file"):
        names(opened(tmp_path / "in/some.txt"))


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"# nothing\n\n", "names no image: write one"), (b"\xff\xfe", "is not UTF-8 text")],
)
def test_list_files_that_cannot_be_used(tmp_path: Path, content, match):
    (tmp_path / "l.lst").write_bytes(content)
    with pytest.raises(DataError, match=match):
        opened(tmp_path / "l.lst")


def test_single_image_and_input_without_batch_axis(tmp_path: Path):
    put(tmp_path, {"one.bmp": encoded(1, kind="BMP")})
    (sample,) = opened(tmp_path / "one.bmp")
    assert (sample.name, sample.whole) == ("one.bmp", False)
    (sample,) = opened(tmp_path / "one.bmp", TensorSpec("x", "float32", (3, 4, 6)))
    assert sample.whole


def test_images_of_different_shapes_are_fine_where_the_model_is_dynamic(tmp_path: Path):
    put(tmp_path, {"a.png": encoded(1), "b.png": encoded(2, (8, 5))})
    source = opened(tmp_path, TensorSpec("x", "float32", ("n", 3, "h", "w")))
    assert [s.feeds["x"].shape for s in source] == [(3, 4, 6), (3, 5, 8)]
    with pytest.raises(DataError, match=r"'b\.png'.*takes shape \[3, 4, 6\] per sample, got"):
        list(opened(tmp_path))


def test_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch):
    put(tmp_path, {"a.png": encoded(1), "secret/b.png": encoded(2)})
    scan = os.scandir

    def denied(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"secret' cannot be listed \(Permission denied\)"):
        opened(tmp_path)


def test_images_need_one_input_and_a_transform(tmp_path: Path):
    put(tmp_path, {"a.png": encoded(1)})
    with pytest.raises(DataError, match=r"model with one input.*'ids: int64 \[n, 5\]'.*npz"):
        opened(tmp_path, IMAGE, IDS)
    with pytest.raises(DataError, match="need preprocessing"):
        open_source(tmp_path, [IMAGE], preprocess=None)


def test_missing_and_empty_paths(tmp_path: Path):
    with pytest.raises(
        DataError, match=f"no such file or folder; the nearest .* is '{tmp_path}'"
    ):
        opened(tmp_path / "nope" / "deeper")
    with pytest.raises(DataError, match="no such file or folder"):
        opened("x" * 5000)
    with pytest.raises(DataError, match=r"holds no images .* and no .npy or .npz files"):
        opened(tmp_path)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(DataError, match=r"has the suffix '\.csv': give a folder of images"):
        opened(tmp_path / "a.csv")


def test_folder_of_array_files(tmp_path: Path):
    np.save(tmp_path / "1.npy", rows(2, 3, 4, 6)[1])
    np.savez(tmp_path / "2.npz", x=rows(2, 3, 4, 6))
    (tmp_path / "3.npy").write_bytes(b"")
    source = opened(tmp_path, on_bad_sample="skip")
    assert (source.kind, source.count) == ("npz", 3)
    first, second = source
    assert (first.name, first.whole, second.name, second.whole) == (
        "1.npy",
        False,
        "2.npz",
        True,
    )
    assert source.skipped == ["3.npy"]
