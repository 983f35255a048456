"""Images that claim to be giant, and folders that hold what is no image."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.image_files import decode
from lipcompile.errors import DataError, OptionError
from tests.calibration.sources.data import encoded, names, opened, put

SIDE = 40_000  # 1.6 thousand million pixels: 4.8 GB as RGB


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def _claimed(kind: str, stored: bytes, order: str) -> bytes:
    """A small image whose header claims other sides."""
    image = io.BytesIO()
    Image.new("RGB", (121, 131), (9, 8, 7)).save(image, kind)
    data = image.getvalue()
    assert stored in data
    return data.replace(stored, struct.pack(order, SIDE, SIDE))


def tiff() -> bytes:
    image = io.BytesIO()
    Image.new("RGB", (1201, 1301)).save(image, "TIFF", compression="tiff_deflate")
    data = image.getvalue()
    for side in (1201, 1301):
        entry = struct.pack("<II", 1, side)
        assert entry in data
        data = data.replace(entry, struct.pack("<II", 1, SIDE))
    return data


GIANTS = {
    "png": lambda: png(SIDE, SIDE),
    "gif": lambda: _claimed("GIF", struct.pack("<HH", 121, 131), "<HH"),
    "bmp": lambda: _claimed("BMP", struct.pack("<ii", 121, 131), "<ii"),
    "jpg": lambda: _claimed("JPEG", struct.pack(">HH", 131, 121), ">HH"),
    "tif": tiff,
    "ppm": lambda: f"P6 {SIDE} {SIDE} 255\n".encode() + bytes(1000),
    "webp": lambda: b"RIFF" + struct.pack("<I", 30 + 1000) + b"WEBPVP8X" + struct.pack(
        "<I", 10
    ) + bytes(4) + (16_000 - 1).to_bytes(3, "little") * 2 + b"VP8 " + bytes(1000),
}  # fmt: skip


@pytest.mark.parametrize("kind", GIANTS)
def test_an_image_that_claims_to_be_giant_is_not_decoded(kind: str, tmp_path: Path) -> None:
    data = GIANTS[kind]()
    assert len(data) < 60_000
    put(tmp_path, {f"a.{kind}": data, "b.png": encoded(1)})
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"'a.{kind}' cannot be decoded"):
            list(opened(tmp_path))
        assert names(opened(tmp_path, on_bad_sample="skip")) == ["b.png"]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_only_the_first_of_many_frames_is_decoded() -> None:
    """An animation of 2,000 frames costs what one frame costs."""
    image, frame = io.BytesIO(), Image.new("P", (64, 64))
    frames = [frame.copy() for _ in range(2000)]
    for index, one in enumerate(frames):
        one.putpixel((index % 64, index // 64), 1 + index % 200)
    frame.save(image, "GIF", save_all=True, append_images=frames)
    assert decode(image.getvalue(), "a.gif").size == (64, 64)


def test_a_frame_beyond_the_canvas_does_not_grow_it() -> None:
    """GIF and its kin: the size that was checked is the size that is decoded."""
    image = io.BytesIO()
    Image.new("P", (8, 8)).save(image, "GIF")
    data = image.getvalue()
    place = data.index(b"\x2c") + 5  # the image descriptor: left, top, then its own size
    data = data[:place] + struct.pack("<HH", SIDE, SIDE) + data[place + 4 :]
    try:
        found = decode(data, "a.gif")
    except DataError:
        return
    assert found.width * found.height <= (Image.MAX_IMAGE_PIXELS or 0)


def test_text_chunks_are_bombs_too() -> None:
    """PNG packs text; Pillow bounds what it unpacks."""
    text = b"k\0\0" + zlib.compress(bytes(200 << 20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    good = encoded(1)
    data = good[:33] + chunk + good[33:]
    with pytest.raises(DataError, match=r"too large|chunk"):
        decode(data, "a.png")


def test_a_crop_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(OptionError, match="crop is .* above Pillow's limit of .* pixels"):
        Preprocess(crop=(60_000, 60_000))
    with pytest.raises(OptionError, match="resize is .* above Pillow's limit"):
        Preprocess(resize=(60_000, 60_000))


# Folders


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("suffix", ["png", "npy", "npz"])
def test_what_is_no_file_is_told_and_does_not_block(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    with pytest.raises(DataError, match=f"'pipe.{suffix}' cannot be .*not a regular file"):
        list(opened(tmp_path))
    (tmp_path / f"pipe.{suffix}").unlink()
    (tmp_path / f"zero.{suffix}").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=f"'zero.{suffix}' cannot be .*not a regular file"):
        list(opened(tmp_path))
    (tmp_path / f"zero.{suffix}").unlink()
    (tmp_path / f"loop.{suffix}").symlink_to(f"loop.{suffix}")
    with pytest.raises(DataError, match=f"'loop.{suffix}' cannot be "):
        list(opened(tmp_path))


def test_a_giant_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", (1 << 30) + 1)  # sparse
    with pytest.raises(DataError, match=r"'a.png' cannot be read \(it has more than 1,073,74"):
        list(opened(tmp_path))


def test_loops_of_folders_end(tmp_path: Path) -> None:
    put(tmp_path, {"in/a.png": encoded(1)})
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "self").symlink_to("self")
    assert names(opened(tmp_path)) == ["in/a.png"]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_of_any_bytes_are_read_and_told(tmp_path: Path, capfd) -> None:
    from lipcompile.cli import main
    from tests.fuzzing.subjects import cnn

    (tmp_path / "m.onnx").write_bytes(cnn().SerializeToString())
    folder = tmp_path / "data"
    put(folder, {"a\nb.png": encoded(1), "\x1b[2J.png": encoded(2)})
    with open(os.fsencode(folder) + b"/\xff\xfe.png", "wb") as file:
        file.write(encoded(3))
    assert len(names(opened(folder))) == 3
    model = str(tmp_path / "m.onnx")
    table = tmp_path / "t.json"
    base = ["calibrate", model, "--calib", str(folder), "-o", str(table)]
    assert main.run([*base, "--rule", "all", "-q"]) == 0
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    assert main.run([*base, "--rule", "all", "--force"]) == 2
    (folder / "good.png").write_bytes(encoded(3))
    assert main.run([*base, "--rule", "all", "--force", "--on-bad-sample", "skip"]) == 0
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    harden = ["harden", model, "--table", str(table), "--rule", "all", "--dry-run"]
    assert main.run(harden) == 0, "a name that is no UTF-8 survives the table"


def test_no_other_program_is_run_for_an_image(tmp_path: Path, monkeypatch) -> None:
    """PostScript under the name of a picture would go to Ghostscript."""
    from PIL import EpsImagePlugin

    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "EPS")
    assert Image.open(io.BytesIO(image.getvalue())).format == "EPS"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was run"))
    with pytest.raises(DataError, match="not an image that Pillow can read"):
        decode(image.getvalue(), "a.png")


@pytest.mark.parametrize(
    "kind", ["TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "MPO", "TGA"]
)
def test_a_format_is_told_by_the_content(kind: str) -> None:
    image = io.BytesIO()
    try:
        Image.new("RGB", (8, 8)).save(image, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    assert decode(image.getvalue(), "a.jpg").size == (8, 8)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that breaks")
@pytest.mark.parametrize("suffix", ["png", "npy", "npz"])
def test_a_file_that_breaks_while_it_is_read_is_told_or_skipped(
    suffix: str, tmp_path: Path
) -> None:
    """Reading a process's memory at 0 is an I/O error, as from a broken disk."""
    good = encoded(1)
    if suffix != "png":
        np.save(tmp_path / "good.npy", np.zeros((3, 4, 6), np.float32))
    else:
        put(tmp_path, {"good.png": good})
    (tmp_path / f"broken.{suffix}").symlink_to("/proc/self/mem")
    with pytest.raises(
        DataError, match=f"'broken.{suffix}' cannot be read .Input/output error."
    ):
        list(opened(tmp_path))
    source = opened(tmp_path, on_bad_sample="skip")
    assert len(names(source)) == 1
    assert source.skipped == [f"broken.{suffix}"]
