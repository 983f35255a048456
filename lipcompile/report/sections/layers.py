"""What a sweep did to the layers: suppressed inputs, and singular values of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipcompile.report.blocks import Block, Figure, Prose, Section, Table
from lipcompile.report.charts import INKS, MARKS, Chart, Ink, Mark, Series, Unit
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import c_r, ratio, share

_MOST_LINES = 6
_BASELINE = "without hardening"


@dataclass(frozen=True, slots=True)
class _Line:
    """Numbers by layer, of one setting or of several that share them.

    Attributes:
        name: In legends and tables.
        setting: With its layers; the first where several share them.
        chosen: It is the sweep's choice, or shares its numbers.
    """

    name: str
    setting: Content
    chosen: bool = False

    def value(self, layer: str, key: str) -> float | None:
        """Of a layer by its name: settings need not have the same layers."""
        rows = self.setting["layers"]
        found: float | None = next((row[key] for row in rows if row["layer"] == layer), None)
        return found


def suppressed(evidence: Evidence) -> Section | None:
    """The share of suppressed inputs by layer, one line per c_r (the paper's Figure 2)."""
    lines = _lines(evidence, "suppressed")
    if not lines:
        return None
    blocks: tuple[Block, ...] = (
        Figure(
            "share of suppressed inputs by layer, one line per c_r",
            "Share of a layer's inputs on calibration data with |x| <= c; what is 0 without "
            "hardening, as after a ReLU, is the broad line. For variant weight: inputs that "
            "are 0 anyway or whose column was zeroed. Layers in the order in which they run, "
            f"numbered as in the table.{_left_out(lines)}",
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
            "is the distance to the line without it. The worst ratio is the largest among "
            "64 inputs per layer, and bounds nothing."
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
    """Settings whose numbers by layer differ, after the line without hardening.

    Which inputs are suppressed depends on c alone, so that all forms share a line.
    """
    groups: dict[tuple[object, ...], list[Content]] = {}
    for setting in (evidence.sweep or {}).get("settings", ()):
        values = tuple(row[key] for row in setting["layers"])
        if any(value is not None for value in values):
            groups.setdefault(values, []).append(setting)
    names = [_name(group) for group in groups.values()]
    lines = []
    for name, group in zip(names, groups.values(), strict=True):
        chosen = any(setting is evidence.chosen for setting in group)
        unique = name if names.count(name) == 1 else str(group[0]["name"])
        lines.append(_Line(f"{unique} (chosen)" if chosen else unique, group[0], chosen))
    lines.sort(key=_rank)
    baseline = (evidence.sweep or {}).get("baseline") or {"layers": []}
    if lines and any(row[key] is not None for row in baseline["layers"]):
        lines.insert(0, _Line(_BASELINE, {**baseline, "c_r": 0.0}))
    return lines


def _rank(line: _Line) -> tuple[bool, bool, float]:
    """Forged with one c_r, then with several, then the others; by c_r."""
    setting = line.setting
    return setting["variant"] != "forged", bool(setting["c_r_by_layer"]), setting["c_r"] or 0.0


def _name(group: Sequence[Content]) -> str:
    """ "forged 2^-7" where several forms share it; else that of the setting."""
    ratios = {setting["c_r"] for setting in group}
    variants = {setting["variant"] for setting in group}
    plain = not any(setting["c_r_by_layer"] for setting in group)
    if len(group) > 1 and len(ratios) == 1 and plain and None not in ratios:
        return f"{' and '.join(sorted(variants))} {c_r(ratios.pop())}"
    return str(group[0]["name"]) + (f" and {len(group) - 1} more" if len(group) > 1 else "")


def _some(lines: Sequence[_Line]) -> list[_Line]:
    """At most as many as a chart can tell apart: from end to end, with the chosen one."""
    if len(lines) <= _MOST_LINES:
        return list(lines)
    step = (len(lines) - 1) / (_MOST_LINES - 1)
    places = [round(i * step) for i in range(_MOST_LINES)]
    chosen = next((at for at, line in enumerate(lines) if line.chosen), 0)
    if chosen not in places:
        nearest = min(places[1:-1], key=lambda place: abs(place - chosen))
        places[places.index(nearest)] = chosen
    return [lines[place] for place in places]


def _split(lines: Sequence[_Line]) -> tuple[list[_Line], list[_Line]]:
    """The line without hardening, if any, and the others."""
    first = [line for line in lines[:1] if line.name == _BASELINE]
    return first, list(lines[len(first) :])


def _left_out(lines: Sequence[_Line]) -> str:
    rest = len(_split(lines)[1]) - _MOST_LINES
    return f" {rest} lines are left to the table." if rest > 0 else ""


def _layers(lines: Sequence[_Line]) -> list[str]:
    """Names in the order in which layers run, of every line's."""
    fullest = sorted(lines, key=lambda line: -len(line.setting["layers"]))
    return list(dict.fromkeys(row["layer"] for x in fullest for row in x.setting["layers"]))


def _chart(lines: Sequence[_Line], key: str, y_label: str) -> Chart:
    names = _layers(lines)
    first, others = _split(lines)
    series = [_series(line, names, key, "original", "none") for line in first]
    for index, line in enumerate(_some(others)):
        ink, mark = INKS[index % len(INKS)], MARKS[index % len(MARKS)]
        series.append(_series(line, names, key, ink, mark))
    unit: Unit = "share" if key == "suppressed" else "number"
    return Chart("layer (in order)", y_label, tuple(series), x_scale="layers", y_scale=unit)


def _series(line: _Line, names: Sequence[str], key: str, ink: Ink, mark: Mark) -> Series:
    rows = [(i, line.value(name, key)) for i, name in enumerate(names, start=1)]
    known = [(float(i), float(value)) for i, value in rows if value is not None]
    x, y = tuple(i for i, _ in known), tuple(value for _, value in known)
    return Series(line.name, x, y, ink=ink, mark=mark, under=ink == "original")


def _table(lines: Sequence[_Line], key: str, caption: str) -> Table:
    shown = share if key == "suppressed" else ratio
    rows = [
        (str(index), name, *(shown(line.value(name, key)) for line in lines))
        for index, name in enumerate(_layers(lines), start=1)
    ]
    columns = ("no.", "layer", *(line.name for line in lines))
    numeric = frozenset({0, *range(2, len(columns))})
    return Table(columns, tuple(rows), numeric, caption, frozenset({1}))
