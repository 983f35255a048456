"""Headers of tar archives: as tarfile reads them, and within bounds where they are hostile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile.calibration.sources.tar_headers import NO_DATA, Member, read_members
from lipcompile.errors import DataError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(names: list[str], format: int, kinds: dict[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8") as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            info.linkname = "/etc/passwd" if info.type in b"12" else ""
            info.size = i * 300 if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0
            tar.addfile(info, io.BytesIO(bytes([i % 256]) * info.size))
    return out.getvalue()


def members(data: bytes) -> list[Member]:
    return list(read_members(io.BytesIO(data), len(data), "s.tar"))


def by_tarfile(data: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8") as tar:
        return [
            Member(m.name, m.offset_data, NO_DATA if m.islnk() or m.issym() else m.size)
            for m in tar
            if m.isreg() or m.islnk() or m.issym()
        ]


NAMES = [
    "a.jpg",
    "d/b.png",
    "d/" * 60 + "c.jpg",
    "n" * 99 + ".x",
    "e" * 150 + "/é.jpg",
    "../z",
]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_members_are_those_that_tarfile_finds(format):
    kinds = {"d": tarfile.DIRTYPE, "l.jpg": tarfile.SYMTYPE, "h.jpg": tarfile.LNKTYPE}
    data = archive([*kinds, *NAMES], FORMATS[format], kinds)
    assert members(data) == by_tarfile(data)
    assert len(members(data)) == 8
    shifted = members(archive(["extra", *NAMES], FORMATS[format]))
    assert shifted != by_tarfile(archive(NAMES, FORMATS[format]))


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=300),
        max_size=5,
    ),
    format=st.sampled_from(["gnu", "pax"]),
)
def test_any_names_are_those_that_tarfile_finds(names, format):
    data = archive([name.strip("/") or "x" for name in names], FORMATS[format])
    assert members(data) == by_tarfile(data)


def test_sizes_above_8_gib_are_read():
    info = tarfile.TarInfo("big.jpg")
    info.size = 9 << 30
    for format in ("gnu", "pax"):
        header = info.tobuf(FORMATS[format], "utf-8", "surrogateescape")
        found = next(read_members(io.BytesIO(header), 10 << 30, "s.tar"))
        assert found == ("big.jpg", len(header), 9 << 30)


def test_old_signed_checksums_are_read():
    info = tarfile.TarInfo("é.jpg")
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "latin-1", "strict"))
    blank = header[:148] + b" " * 8 + header[156:]
    header[148:155] = b"%06o\0" % (sum(blank) - 256 * sum(byte > 127 for byte in blank))
    assert members(bytes(header) + bytes(1024))[0].start == 512


def edited(edit: Callable[[bytearray], object], checksum: bool = True) -> bytes:
    data = bytearray(archive(["a.jpg", "b.jpg"], tarfile.USTAR_FORMAT))
    edit(data)
    if checksum:
        blank = data[:148] + b" " * 8 + data[156:512]
        data[148:155] = b"%06o\0" % sum(blank)
    return bytes(data)


def put(place: int, value: bytes) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        data[place : place + len(value)] = value

    return edit


def pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", len(records)
    body = records + bytes(-len(records) % 512)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + archive(["a.jpg"], tarfile.USTAR_FORMAT)


GOOD = archive(["a.jpg", "b.jpg"], tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"tar archive 's\.tar' cannot be read \(no tar archive\): make or download"),
        (b"hello" * 200, "no tar archive"),
        (b"\x1f\x8b" + bytes(1000), "compressed with gzip: only plain archives"),
        (b"\x28\xb5\x2f\xfd" + bytes(1000), "compressed with zstd"),
        (edited(put(3, b"?"), checksum=False), "no tar archive"),
        (GOOD[:512] + b"?" + GOOD[513:], "damaged at byte 512"),
        (GOOD[:700], "cut off at byte 512"),
        (GOOD[:1100], r"cut off inside 'b\.jpg', at byte 1100"),
        (GOOD[:1536], "cut off at byte 1536"),
        (GOOD + GOOD, "more data behind its end, as when archives were concatenated"),
        (edited(put(124, b"77777777777\0")), r"cut off inside 'a\.jpg'"),
        (edited(put(124, b"\x80" + b"\xff" * 11)), r"cut off inside 'a\.jpg'"),
        (edited(put(124, b"\xff" * 12)), "no tar archive"),
        (edited(put(124, b"-0000000001\0")), "no tar archive"),
        (edited(put(124, b"0000000_001\0")), "no tar archive"),
        (edited(put(156, b"S")), r"'a\.jpg' is a sparse file"),
        (edited(lambda d: (put(156, b"L")(d), put(124, b"77777777777\0")(d))), "a header of"),
        (edited(lambda d: (put(156, b"V")(d), put(124, b"77777777777\0")(d))), "cut off"),
        (pax(b"22 GNU.sparse.major=1\n"), "is a sparse file"),
        (pax(b"11 size=-9\n"), "a damaged pax header"),
        (pax(b"30 size=1234567890123456789\n"), "a damaged pax header"),
        (pax(b"0 path=x\n"), "a damaged pax header"),
        (pax(b"99 path=x\n"), "a damaged pax header"),
        (pax(b"path=x\n"), "a damaged pax header"),
        (pax(b"\xb2 path=x\n"), "a damaged pax header"),
    ],
)
def test_archives_that_cannot_be_read(data, match):
    with pytest.raises(DataError, match=match):
        members(data)


class Counting(io.BytesIO):
    """Counts what is read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_data_is_not_read():
    data = archive(["x"] * 200, tarfile.USTAR_FORMAT)
    file = Counting(data)
    assert len(list(read_members(file, len(data), "s"))) == 200
    assert file.taken < 200 * 512 + 70_000 < len(data) / 20


@settings(max_examples=300, deadline=None)
@given(
    format=st.sampled_from(sorted(FORMATS)),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
    repair=st.booleans(),
)
def test_damaged_archives_are_read_or_refused(format, edits, keep, repair):
    data = bytearray(archive(["a.jpg", "é.png"], FORMATS[format]))
    for place, value in edits:
        data[place % len(data)] = value
    if repair:  # lets the damage past the checksum of the first header
        put(148, b"%06o\0 " % (sum(data[:148]) + 256 + sum(data[156:512])))(data)
    data = data[: int(keep * len(data)) + 1]
    try:
        found = members(bytes(data))
    except DataError as err:
        assert str(err).startswith("tar archive 's.tar' cannot be read (")
    else:
        assert all(
            start >= 0 and start + max(size, 0) <= len(data) for _, start, size in found
        )
