"""Text inside of Markdown: names of files and layers are not ours, and must mean nothing."""

from __future__ import annotations

import html
import re

from lipcompile.unprintable import shown

_SPECIAL = re.compile(r"[\\`|$<>&*_\[\]{}~#!@]|://|www\.", re.IGNORECASE)
_BY_ENTITY = "\\`|$"  # a backslash does not help everywhere: cells of tables, mathematics
_JOINER = "\u2060"  # has no width, and ends a name


def escape(text: str) -> str:
    """The text on one line as it is: no HTML, no markup, no link, no mention.

    Characters that cannot be shown become U+FFFD.
    """
    return _SPECIAL.sub(_safe, " ".join(shown(text).split()))


def _safe(match: re.Match[str]) -> str:
    found = match[0]
    if found in ("<", ">", "&"):
        return html.escape(found)
    if found in _BY_ENTITY:
        return f"&#{ord(found)};"
    # GitHub looks for mentions and numbers of issues when markup and entities are gone.
    if found == "@":
        return f"@{_JOINER}"
    if found == "#":
        return f"\\#{_JOINER}" if match.string[match.end() :][:1].isalnum() else "\\#"
    if len(found) > 1:
        return found.replace(":", "&#58;").replace(".", "&#46;")
    return f"\\{found}"
