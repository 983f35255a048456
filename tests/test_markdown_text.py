"""Text in Markdown: whatever it holds, it is shown as it is and means nothing."""

from __future__ import annotations

import html
import re

import pytest

from lipcompile.markdown_text import escape
from lipcompile.unprintable import UNPRINTABLE

NAME = "a|b `c` <img src=x> **d** _e_ ![f](https://g.org) ~h~ @i $j$ \\k &amp; #1 www.l.org"


def read(markdown: str) -> str:
    """As a reader of CommonMark sees it: escapes and entities are characters again."""
    plain = html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown))
    return plain.replace("\u2060", "")


def test_text_is_shown_as_it_is() -> None:
    assert read(escape(NAME)) == NAME
    assert escape("/stages.0/conv-1 (2^-7, 50.00 %): 'x'") == (
        "/stages.0/conv-1 (2^-7, 50.00 %): 'x'"
    )


def test_text_means_nothing() -> None:
    shown = escape(NAME)
    assert not re.search(r"[|`<>$]", shown)
    assert not re.search(r"(?<!\\)[*_\[\]!~{}]", shown)
    assert not re.search(r"(?<![\\&])#", shown)
    assert not re.search(r"&(?!#\d+;|amp;|lt;|gt;)", shown)


@pytest.mark.parametrize("text", ["https://x.org", "WWW.y.org", "@team", "#123", "o/r#4"])
def test_no_link_and_no_mention_is_made(text: str) -> None:
    shown = escape(text)
    assert not re.search(r"://|www\.", shown, re.IGNORECASE)
    assert not re.search(r"@\w|#\d", html.unescape(shown).replace("\\", ""))
    assert read(shown) == text


def test_text_is_one_line_that_can_be_written() -> None:
    shown = escape("a\x1b[31m\n\u202eb\ud800\x85 c\td")
    assert shown == "a\ufffd\\[31m \ufffdb\ufffd\ufffd c d"
    assert not UNPRINTABLE.search(shown)
    shown.encode()


@pytest.mark.parametrize("char", "\x00\x0b\x1f\x7f\x85\u061c\u200e\u202e\u2069\udfff\uffff")
def test_what_cannot_be_shown_is_found(char: str) -> None:
    assert UNPRINTABLE.search(char)


@pytest.mark.parametrize("char", "\t\n\r a\u00e9\u4e2d\ufffd\U0001f600")
def test_what_can_be_shown_is_left_alone(char: str) -> None:
    assert not UNPRINTABLE.search(char)
