"""Characters that no file of ours can show as they are."""

from __future__ import annotations

import re

# Control characters (but tab and line ends), lone surrogates, U+FFFE and U+FFFF break XML or
# UTF-8; overrides of the writing direction make a name look like another one.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff]"
)


def shown(text: str) -> str:
    """The text with U+FFFD in their place."""
    return UNPRINTABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """The text as one line: a name must not write lines of its own into a log."""
    return " ".join(shown(text).splitlines())
