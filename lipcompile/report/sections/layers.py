"""What a sweep did to the layers: suppressed inputs, and singular values of what is left."""

from __future__ import annotations

from collections.abc import Sequence

from lipcompile.report.blocks import Block, Figure, Prose, Section, Table
from lipcompile.report.charts import INKS, MARKS, Chart, Ink, Mark, Series, Unit
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import c_r, ratio, share

_MOST_LINES = 6
_BASELINE = "without hardening"
_Line = tuple[str, Content]  # a name, and a setting with layers


def suppressed(evidence: Evidence) -> Section | None:
    """The share of suppressed inputs by layer, one line per c_r (the paper's Figure 2)."""
    lines = _lines(evidence, "suppressed")
    if not lines:
        return None
    blocks: tuple[Block, ...] = (
        Figure(
            "share of suppressed inputs by layer, one line per c_r",
            "Share of a layer's inputs on calibration data with |x| <= c; what is 0 without "
            "hardening, as after a ReLU, is the broad line. For variant weight: the share of "
            "zeroed columns. Layers in the order in which they run, numbered as in the "
            f"table.{_left_out(lines)}",
            lambda: _chart(lines, "suppressed", "inputs with |x| <= c (%)"),
        ),
        _table(lines, "suppressed", "Suppressed inputs by layer"),
    )
    return Section("suppressed", "Suppressed inputs by layer", blocks)


def singular_values(evidence: Evidence) -> Section | None:
    """The largest singular value that is left, worst and mean (the paper's appendix C)."""
    worst, mean = (_lines(evidence, key) for key in ("singular_worst", "singular_mean"))
    if not worst and not mean:
        return None
    blocks: list[Block] = [
        Prose(
            "The largest singular value of the weight with suppressed columns masked, over "
            "that of the whole weight: 1 means that suppression took nothing from what the "
            "layer can amplify. Inputs that are 0 anyway mask columns too: what hardening did "
            "is the distance to the line without it. The worst (largest) ratio over "
            "calibration inputs bounds the layer on these inputs alone."
        )
    ]
    named = (("worst", "singular_worst", worst), ("mean", "singular_mean", mean))
    for word, key, lines in named:
        if lines:
            blocks.append(_singular_figure(word, key, lines))
    blocks += [
        _table(lines, key, f"Singular value ratio by layer, {word} over inputs")
        for word, key, lines in named
        if lines
    ]
    return Section("singular", "Largest singular value by layer", tuple(blocks))


def _singular_figure(word: str, key: str, lines: Sequence[_Line]) -> Figure:
    return Figure(
        f"{word} ratio of the largest singular value by layer, one line per c_r",
        f"{word.capitalize()} over calibration inputs, masked over whole weight.",
        lambda: _chart(lines, key, f"singular value ratio, {word}"),
    )


def _lines(evidence: Evidence, key: str) -> list[_Line]:
    """Settings whose numbers by layer differ, named by their c_r where that tells them apart.

    Which inputs are suppressed depends on c alone, so that all forms share a line.
    """
    groups: dict[tuple[object, ...], list[Content]] = {}
    for setting in (evidence.sweep or {}).get("settings", ()):
        values = tuple(row[key] for row in setting["layers"])
        if any(value is not None for value in values):
            groups.setdefault(values, []).append(setting)
    found = [(_name(group), group) for group in groups.values()]
    names = [name for name, _ in found]
    lines = [
        (name if names.count(name) == 1 else group[0]["name"], group[0])
        for name, group in found
    ]
    lines.sort(key=_rank)
    baseline = (evidence.sweep or {}).get("baseline") or {"layers": []}
    if lines and any(row[key] is not None for row in baseline["layers"]):
        lines.insert(0, (_BASELINE, {**baseline, "c_r": 0.0}))
    return lines


def _rank(line: _Line) -> tuple[bool, bool, float]:
    """Forged with one c_r, then with several, then the others; by c_r."""
    setting = line[1]
    return setting["variant"] != "forged", bool(setting["c_r_by_layer"]), setting["c_r"] or 0.0


def _name(group: Sequence[Content]) -> str:
    ratios = {setting["c_r"] for setting in group}
    plain = not any(setting["c_r_by_layer"] for setting in group)
    if len(ratios) == 1 and plain and None not in ratios:
        return f"c_r = {c_r(ratios.pop())}"
    return str(group[0]["name"]) + (f" and {len(group) - 1} more" if len(group) > 1 else "")


def _some(lines: Sequence[_Line]) -> list[_Line]:
    """At most as many as a chart can tell apart, from end to end."""
    if len(lines) <= _MOST_LINES:
        return list(lines)
    step = (len(lines) - 1) / (_MOST_LINES - 1)
    return [lines[round(i * step)] for i in range(_MOST_LINES)]


def _split(lines: Sequence[_Line]) -> tuple[list[_Line], list[_Line]]:
    """The line without hardening, if any, and the others."""
    first = [line for line in lines if line[0] == _BASELINE]
    return first, list(lines[len(first) :])


def _left_out(lines: Sequence[_Line]) -> str:
    rest = len(_split(lines)[1]) - _MOST_LINES
    return f" {rest} lines are left to the table." if rest > 0 else ""


def _chart(lines: Sequence[_Line], key: str, y_label: str) -> Chart:
    first, others = _split(lines)
    series = [_series(*line, key, "original", "none") for line in first]
    for index, line in enumerate(_some(others)):
        series.append(_series(*line, key, INKS[index % len(INKS)], MARKS[index % len(MARKS)]))
    unit: Unit = "share" if key == "suppressed" else "number"
    return Chart("layer (in order)", y_label, tuple(series), x_scale="layers", y_scale=unit)


def _series(name: str, setting: Content, key: str, ink: Ink, mark: Mark) -> Series:
    rows = [(i, row[key]) for i, row in enumerate(setting["layers"], start=1)]
    known = [(float(i), float(value)) for i, value in rows if value is not None]
    x, y = tuple(i for i, _ in known), tuple(value for _, value in known)
    return Series(name, x, y, ink=ink, mark=mark, under=ink == "original")


def _table(lines: Sequence[_Line], key: str, caption: str) -> Table:
    shown = share if key == "suppressed" else ratio
    names = max((setting["layers"] for _, setting in lines), key=len)
    rows = []
    for index, layer in enumerate(names):
        values = [
            shown(setting["layers"][index][key]) if index < len(setting["layers"]) else "-"
            for _, setting in lines
        ]
        rows.append((str(index + 1), layer["layer"], *values))
    columns = ("no.", "layer", *(name for name, _ in lines))
    numeric = frozenset({0, *range(2, len(columns))})
    return Table(columns, tuple(rows), numeric, caption, frozenset({1}))
