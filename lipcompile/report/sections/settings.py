"""The settings of a sweep as tables."""

from __future__ import annotations

from lipcompile.report.blocks import Cell, Row, Table
from lipcompile.report.evidence import Content
from lipcompile.report.wording import MISSING, between, c_r, points, quantity, ratio, share

_COLUMNS = (
    "setting",
    "admitted",
    "accuracy",
    "difference",
    "agreement",
    "latency",
    "suppressed",
    "singular",
    "worst case",
    "verdict",
)
_NUMERIC = frozenset(range(2, 9))


def settings_table(sweep: Content, things: str) -> Table:
    """Every setting of a sweep, on the part that chooses; without columns that are empty."""
    rows = [_row(setting, setting["name"] == sweep["chosen"]) for setting in sweep["settings"]]
    kept = [i for i in range(len(_COLUMNS)) if any(row[i] != MISSING for row in rows)]
    caption = (
        f"Every setting, on the {things} that choose. Difference: of the accuracy from the "
        "original's, in points; latency: ratio over the original's; suppressed: mean over "
        "layers; singular: the largest ratio of any layer and input."
    )
    return Table(
        tuple(_COLUMNS[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        frozenset(place for place, i in enumerate(kept) if i in _NUMERIC),
        caption,
    )


def _row(setting: Content, chosen: bool) -> Row:
    name = Cell(setting["name"], "chosen" if chosen else "", "good" if chosen else None)
    if setting["problem"]:
        reason = Cell("not built", setting["problem"], "bad")
        return (name, reason, *[MISSING] * (len(_COLUMNS) - 2))
    return (
        name,
        "yes" if setting["admitted"] else Cell("no", setting["reason"] or ""),
        _estimate(setting["accuracy"]),
        _gap(setting["clean_difference"]),
        _estimate(setting["agreement"]),
        _latency(setting["latency"]),
        share(setting["suppressed"]),
        ratio(setting["singular_worst"]),
        *_worst(setting["worst_case"]),
    )


def _latency(found: Content | None) -> str | Cell:
    if not found:
        return MISSING
    return Cell(ratio(found["median"]), f"{ratio(found['low'])} to {ratio(found['high'])}")


def layers_table(setting: Content) -> Table:
    """One setting, layer by layer."""
    rows = tuple(
        (
            row["layer"],
            c_r(row["c_r"]),
            quantity(row["c"]),
            share(row["suppressed"]),
            ratio(row["singular_mean"]),
            ratio(row["singular_worst"]),
        )
        for row in setting["layers"]
    )
    return Table(
        ("layer", "c_r", "c", "suppressed", "singular, mean", "singular, worst"),
        rows,
        frozenset(range(1, 6)),
        f"The chosen setting, {setting['name']}, layer by layer",
        frozenset({0}),
    )


def _estimate(found: Content | None) -> str | Cell:
    return Cell(share(found["value"]), between(*found["interval"])) if found else MISSING


def _gap(found: Content | None) -> str | Cell:
    if not found:
        return MISSING
    return Cell(
        points(found["difference"]), f"{points(found['low'])} to {points(found['high'])}"
    )


def _worst(found: Content | None) -> tuple[str | Cell, str]:
    if not found:
        return MISSING, MISSING
    gap = found["difference"]
    change = f"{points(gap['difference'])} ({points(gap['low'])} to {points(gap['high'])})"
    return Cell(share(found["hardened"]), change), found["verdict"]
