"""Braces in names."""

from __future__ import annotations

import pytest

from lipcompile.calibration.sources.patterns import expand_braces
from lipcompile.errors import DataError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("s-{9..10}.tar", ["s-9.tar", "s-10.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("{0..1}{0..1}", ["00", "01", "10", "11"]),
        ("{,x}.tar", [".tar", "x.tar"]),
        ("plain.tar", []),
        ("{a}.tar", []),
        ("{3..1}.tar", []),
        ("{a..c}.tar", []),
        ("{1..2", []),
    ],
)
def test_expansion(text, names):
    assert expand_braces(text) == names


@pytest.mark.parametrize("text", ["{0..999999999}.tar", "{0..9999}{0..9999}"])
def test_too_many_files(text):
    with pytest.raises(DataError, match="stands for more than 1,000,000 files: check"):
        expand_braces(text)
