"""Array files that cannot be read."""

from __future__ import annotations

import re
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lipcompile
from lipcompile.calibration.sources import array_files
from lipcompile.calibration.sources.array_files import read_arrays
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
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


# Headers that lie, and bombs


def npy(descr: str, shape: str, payload: bytes, version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + payload


@pytest.mark.parametrize(
    ("descr", "shape", "message"),
    [
        ("'<f4'", "(1099511627776, 4)", "take 17,592,186,044,416 bytes, and 16 follow"),
        ("'<f4'", f"({10**30},)", "take 4.* bytes, and 16 follow"),
        ("'<f4'", "(2,)", "take 8 bytes, and 16 follow"),
        ("'<f4'", "(-4,)", "no array of numbers"),
        ("'|V0'", "(-1,)", "dtype .V0 and shape"),  # NumPy divides by 0: the process ends
        ("'|V0'", "(4,)", "dtype .V0 and shape"),
        ("'<U0'", "(4,)", "no array of numbers or text"),
        ("'|O'", "(2,)", "dtype object and shape"),
        ("[('a', '|O')]", "(2,)", "no array of numbers or text"),
        ("'<f4'", "(1.5,)", "shape is not valid"),
        ("'<f4'", "(" * 400 + ")" * 400, "Cannot parse header"),
    ],
)
def test_headers_that_lie(tmp_path: Path, descr, shape, message):
    for version in (1, 2):
        (tmp_path / "a.npy").write_bytes(npy(descr, shape, bytes(16), version))
        with pytest.raises(DataError, match=f"'a.npy' cannot be read .*{message}"):
            opened(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy(descr, shape, bytes(16)))
    with pytest.raises(DataError, match=f"'a.npz' cannot be read .*{message}"):
        opened(tmp_path / "a.npz")


def test_records_and_other_versions_are_refused(tmp_path: Path):
    with warnings.catch_warnings(action="ignore"):
        np.save(tmp_path / "records.npy", np.zeros(2, [("層", "f4"), ("b", "i2")]))
    with pytest.raises(DataError, match=r"version 3\.0 of the format is for records"):
        opened(tmp_path / "records.npy")
    np.save(tmp_path / "plain.npy", np.zeros(2, [("a", "f4"), ("b", "i2")]))
    with pytest.raises(DataError, match="takes float32, got"):
        opened(tmp_path / "plain.npy", TensorSpec("x", "float32", (2,)))


@pytest.mark.parametrize(
    "make", [np.asfortranarray, lambda a: a[::-1], lambda a: a[:, :, ::2]]
)
def test_order_and_strides_do_not_matter(tmp_path: Path, make):
    array = make(rows(5, 3, 8, 6))
    spec = TensorSpec("x", "float32", ("n", *array.shape[1:]))
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", array)
    for name in ("a.npy", "a.npz"):
        read = [sample.feeds["x"] for sample in opened(tmp_path / name, spec)]
        np.testing.assert_array_equal(read, array)


def test_text_labels_and_big_endian_numbers_are_read(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=rows(2, 3, 4, 6).astype(">f4"), label=np.array(["a", "bc"]))
    assert len(list(opened(tmp_path / "a.npz"))) == 2


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((64, 1 << 18), np.float32))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(array_files, "_COMPRESSED_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=r"unpack to 67,108,992, and 1,\d+,\d+ are the limit for a .npz"
        ):
            opened(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_limit_is_a_gibibyte_or_a_share_of_the_file():
    assert array_files._COMPRESSED_BYTES == 1 << 30
    assert array_files._COMPRESSED_TIMES == 16


def test_a_member_that_is_longer_than_its_entry_says(tmp_path: Path):
    """The archive's directory bounds what is read, and headers must fit it."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((64, 3, 4, 6), np.float32))
    data = path.read_bytes()
    size = 128 + 64 * 3 * 4 * 6 * 4
    assert data.count(size.to_bytes(4, "little")) >= 1
    path.write_bytes(data.replace(size.to_bytes(4, "little"), (400).to_bytes(4, "little")))
    with pytest.raises(DataError, match="Bad CRC-32|take 18,432 bytes, and 272 follow"):
        opened(path)


def test_archives_that_numpy_does_not_write(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy("'<f4'", "(4,)", bytes(16)))
    with pytest.raises(DataError, match="'x.npy' is packed in a way that NumPy is not"):
        opened(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"'b.npz' cannot be read .*magic string"):
        opened(tmp_path / "b.npz")


def test_no_pickle_is_loaded_anywhere():
    """NumPy loads none unless it is asked to; nothing else of ours could."""
    sources = Path(lipcompile.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert "allow_pickle=True" not in text
    loads = re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", text)
    assert loads and all("allow_pickle=False" in load for load in loads)
    for module in ("pickle", "marshal", "shelve", "joblib", "dill"):
        assert not re.search(rf"^\s*(import|from) {module}\b", text, re.MULTILINE)
    assert "torch.load" not in text


@settings(max_examples=200, deadline=None)
@given(
    descr=st.sampled_from(["'<f4'", "'|V0'", "'<f2'", "'|b1'", "'<U3'", "'|O'", "'<c16'"]),
    shape=st.lists(st.integers(-2, 2**62) | st.integers(0, 6), max_size=6),
    payload=st.binary(max_size=200),
    archive=st.booleans(),
)
def test_any_header_is_read_or_refused(tmp_path_factory, descr, shape, payload, archive):
    folder = tmp_path_factory.mktemp("any")
    data = npy(descr, repr(tuple(shape)), payload)
    path = folder / ("a.npz" if archive else "a.npy")
    if archive:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x.npy", data)
    else:
        path.write_bytes(data)
    try:
        arrays = read_arrays(path, "a")
    except DataError:
        return
    array = arrays["x"] if isinstance(arrays, dict) else arrays
    assert array.nbytes == len(payload)
