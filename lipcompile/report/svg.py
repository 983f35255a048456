"""Makes matplotlib's SVG part of an HTML page: small, with its own ids, in its colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import get_args

from lipcompile.report.charts import Ink

# Colours that nothing else has; the page replaces them by variables that follow its scheme.
_MARKED = {name: f"#0a0b{index:02x}" for index, name in enumerate(get_args(Ink), start=1)}
TEXT, GRID, PAPER = "#0a0bf0", "#0a0bf1", "#0a0bf2"
_VARIABLES = {value: f"var(--{name})" for name, value in _MARKED.items()} | {
    TEXT: "var(--text)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
}
_COLOUR = re.compile("|".join(_VARIABLES))
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font:\s*([\d.]+px)[^;]*|font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"metadata", "style", "title"}


def colour(ink: Ink) -> str:
    """The stand-in for a colour of the page."""
    return _MARKED[ink]


def inline(svg: str, prefix: str, label: str) -> str:
    """The <svg> element of a standalone file, fit to stand in a page.

    Without prolog, metadata and style sheet (which would apply to the whole page); ids that
    are referred to start with `prefix`, the others are gone.

    Args:
        svg: As matplotlib wrote it.
        prefix: Of the ids.
        label: What the drawing shows.
    """
    root = ET.fromstring(svg)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    _drop(root)
    used = {
        found
        for element in root.iter()
        for value in element.attrib.values()
        for found in (*_REFERENCE.findall(value), *([value[1:]] if value[:1] == "#" else []))
    }
    for element in root.iter():
        element.attrib = dict(_attributes(element, used, prefix))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {
        "class": "plot",
        "role": "img",
        "aria-label": label,
        "viewBox": f"0 0 {float(width):g} {float(height):g}",
        "width": f"{float(width):g}",
        "height": f"{float(height):g}",
    }
    text = ET.tostring(root, encoding="unicode", short_empty_elements=True)
    return _COLOUR.sub(lambda match: _VARIABLES[match[0]], re.sub(r">\s+<", "><", text))


def _local(name: str) -> str:
    """ "{http://www.w3.org/2000/svg}g" is "g": HTML knows the elements without namespaces."""
    return name.rpartition("}")[2]


def _drop(element: ET.Element) -> None:
    for child in list(element):
        _drop(child)
        empty = child.tag in ("defs", "g") and not len(child)
        if child.tag in _DROPPED or empty:
            element.remove(child)


def _attributes(element: ET.Element, used: set[str], prefix: str) -> list[tuple[str, str]]:
    kept = []
    for name, value in element.attrib.items():
        if name == "id":
            if value in used:
                kept.append((name, f"{prefix}-{value}"))
            continue
        if value[:1] == "#" and value[1:] in used:
            value = f"#{prefix}-{value[1:]}"
        value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
        if name == "style":
            value = _FONT.sub(
                lambda match: f"font-size: {match[1]}" if match[1] else "", value
            )
        if name != "space":
            kept.append((name, _NUMBER.sub(_rounded, value)))
    return kept


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
