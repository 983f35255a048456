"""simplejpeg gives the bits that Pillow gives, or leaves the file to Pillow."""

from __future__ import annotations

import io
import struct
import sys
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lipcompile.calibration.sources import fast_jpeg
from lipcompile.calibration.sources.image_files import decode
from lipcompile.errors import DataError

simplejpeg = pytest.importorskip("simplejpeg")

EXACT = simplejpeg.decode_jpeg
PACK = Path(__file__).parents[4] / "shared" / "pack" / "data"
SIZES = [(1, 1), (7, 3), (8, 8), (17, 31), (65, 33), (130, 67)]


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colours with noise and one sharp edge."""
    rng = np.random.default_rng(seed)
    channels = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    coarse = rng.integers(0, 256, (3, 4, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[:, :, c]).resize((width, height), Image.Resampling.BICUBIC)
        for c in range(channels)
    ]
    pixels = np.stack([np.asarray(plane) for plane in planes], axis=2).astype(int)
    pixels[:, width // 2 :] += 40
    pixels += rng.integers(-30, 31, pixels.shape)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.merge(mode, [Image.fromarray(pixels[:, :, c]) for c in range(channels)])


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def outcome(data: bytes) -> tuple[object, ...]:
    """What a sample of these bytes comes to: pixels, or the error."""
    try:
        image = decode(data, "f")
    except DataError as err:
        return (str(err),)
    return image.mode, image.size, image.tobytes()


def differing(jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which of `jpegs` come to something else with simplejpeg than without."""
    fast = [outcome(data) for data in jpegs]
    with monkeypatch.context() as patch:
        patch.setattr(fast_jpeg, "_decoder", lambda: None)
        return [i for i, data in enumerate(jpegs) if outcome(data) != fast[i]]


def taken(data: bytes) -> bool:
    """Whether simplejpeg decodes the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data))
        except (OSError, SyntaxError):
            return False
    return fast_jpeg.fast_pixels(image, data) is not None


def ordinary() -> list[bytes]:
    """Sizes x subsamplings x qualities x scan orders, by two encoders."""
    files = []
    for (width, height), quality in product(SIZES, (30, 90, 100)):
        colour, grey = (picture(width, height, quality, mode) for mode in ("RGB", "L"))
        for progressive, restart in ((False, 0), (False, 2), (True, 0)):
            options = {
                "quality": quality,
                "progressive": progressive,
                "restart_marker_blocks": restart,
            }
            files += [jpeg(colour, subsampling=s, **options) for s in range(3)]
            files.append(jpeg(grey, **options))
            files.append(jpeg(colour, keep_rgb=True, **options))
        files += [
            simplejpeg.encode_jpeg(np.array(colour), quality, "RGB", subsampling)
            for subsampling in ("444", "422", "420", "440", "411")
        ]
    return files


def odd() -> list[bytes]:
    """What simplejpeg does not read, warns of, or need not notice."""
    base = jpeg(picture(40, 30), quality=85)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    deep = bytearray(base)
    deep[base.index(b"\xff\xc0") + 4] = 12  # bits per channel
    two = bytearray(base)
    two[base.index(b"\xff\xc0") + 9] = 2  # components
    arithmetic = base.replace(b"\xff\xc0", b"\xff\xc9", 1)
    frame = base[base.index(b"\xff\xc0") :][:19]
    twice = base.replace(frame, frame + frame, 1)
    cmyk = jpeg(picture(40, 30, mode="CMYK"))
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    ycck = cmyk.replace(adobe + b"\x00", adobe + b"\x02", 1)
    transformed = [base[:2] + adobe + bytes([kind]) + base[20:] for kind in (0, 1, 2, 7)]
    movie = io.BytesIO()
    picture(20, 20).save(movie, "MPO", save_all=True, append_images=[picture(20, 20, 1)])
    tall = bytearray(base)
    struct.pack_into(">H", tall, base.index(b"\xff\xc0") + 5, 300)
    return [
        jpeg(picture(40, 30), exif=exif),
        jpeg(picture(40, 30), comment=b"hello", icc_profile=b"\0" * 3000),
        cmyk,
        ycck,
        *transformed,
        bytes(deep),
        bytes(two),
        arithmetic,
        twice,
        bytes(tall),
        base + b"trailing garbage",
        base + base,
        base[:-2],
        base[:-1],
        base[:-60],
        base[: len(base) // 2],
        base[:200],
        jpeg(picture(65, 33), progressive=True)[:-500],
        base[:300] + b"\0" * 50 + base[300:],
        base.replace(b"\xff\xda", b"\x12\x34\x56\xff\xda", 1),
        movie.getvalue(),
    ]


def test_ordinary_jpegs_are_taken_and_give_pillows_bits(monkeypatch):
    files = ordinary()
    assert all(map(taken, files))
    assert differing(files, monkeypatch) == []


def test_odd_jpegs_end_as_with_pillow_alone(monkeypatch):
    files = odd()
    assert 0 < sum(map(taken, files)) < len(files)
    assert differing(files, monkeypatch) == []


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_jpegs_end_as_with_pillow_alone(monkeypatch, progressive):
    rng = np.random.default_rng(progressive)
    base = jpeg(picture(65, 33), quality=80, progressive=progressive)
    files = []
    for _ in range(400):
        data = bytearray(base)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        files.append(bytes(data))
    assert 20 < sum(map(taken, files)) < 380
    assert differing(files, monkeypatch) == []


@pytest.mark.skipif(not PACK.is_dir(), reason="the pack of real images is not here")
def test_real_jpegs_give_pillows_bits(monkeypatch):
    paths = sorted(PACK.glob("imagenet200/*.JPEG")) + sorted(PACK.glob("*/*.jpg"))[::40]
    assert len(paths) > 200
    assert differing([path.read_bytes() for path in paths], monkeypatch) == []


@pytest.mark.parametrize("wrong", [{"fastupsample": True}, {"fastdct": True}])
def test_the_comparison_notices_a_decoder_with_other_bits(monkeypatch, wrong):
    assert fast_jpeg._decoder() is not None  # its own comparison is behind it
    exact = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda *args, **options: exact(*args, **options | wrong)
    )
    assert len(differing(ordinary(), monkeypatch)) > 20


def off_by_one(*args: object, buffer: np.ndarray, **options: object) -> np.ndarray:
    result = EXACT(*args, buffer=buffer, **options)
    result[-1, -1, -1] ^= 1
    return result


def without_options(data: bytes, colorspace: str) -> np.ndarray:
    return EXACT(data, colorspace)


@pytest.mark.parametrize("other", [off_by_one, without_options])
def test_a_simplejpeg_with_other_bits_is_not_used(monkeypatch, other):
    fast_jpeg._decoder.cache_clear()
    monkeypatch.setattr(simplejpeg, "decode_jpeg", other)
    assert fast_jpeg._decoder() is None
    monkeypatch.undo()
    fast_jpeg._decoder.cache_clear()
    assert fast_jpeg._decoder() is not None


@pytest.mark.parametrize("error", [ImportError, ValueError, RuntimeError])
def test_a_simplejpeg_that_does_not_import_is_not_used(monkeypatch, error):
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "simplejpeg":
                raise error("numpy.dtype size changed")

    fast_jpeg._decoder.cache_clear()
    monkeypatch.delitem(sys.modules, "simplejpeg")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert fast_jpeg._decoder() is None
    assert outcome(jpeg(picture(9, 9)))[0] == "RGB"
    fast_jpeg._decoder.cache_clear()


def test_pillows_limit_on_pixels_holds(monkeypatch):
    data = jpeg(picture(65, 33))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(DataError, match=r"'f' cannot be decoded \(Image size \(2145 pixels"):
        decode(data, "f")


def test_a_file_that_grew_beyond_its_header_is_left_to_pillow():
    small, large = jpeg(picture(16, 16)), jpeg(picture(32, 32))
    assert fast_jpeg.fast_pixels(Image.open(io.BytesIO(small)), large) is None
    assert fast_jpeg.fast_pixels(Image.open(io.BytesIO(large)), small) is None
