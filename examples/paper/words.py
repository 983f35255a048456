"""What the numbers of a cell say, in words, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from audits import Measure
from cells import Cell
from common import Options

from lipcompile import text
from lipcompile.auditing.results import SIGNIFICANT
from lipcompile.statistics import PairedDifference

HEADER = (
    "model",
    "setting",
    "clean %",
    "plain robust %",
    "worst case %",
    "plain, points (95 %)",
    "worst case, points (95 %)",
    "in words",
)


def show_cells(options: Options, title: str, cells: Sequence[Cell]) -> None:
    """Prints cells one by one, and what they say together."""
    options.show(title, HEADER, [row(cell) for cell in cells])
    options.say(*conclusion(cells))


def row(cell: Cell) -> list[str]:
    """One line, original / hardened; a variation that cannot be had says why."""
    if cell.problem is not None:
        return [cell.case, cell.label, *["-"] * 5, cell.problem]
    return [
        cell.case,
        cell.label,
        *(pair(cell, measure) for measure in ("clean", "plain", "worst")),
        points(cell.difference("plain")),
        points(cell.difference("worst")),
        remark(cell),
    ]


def pair(cell: Cell, measure: Measure) -> str:
    """ "64.0 / 59.0", in percent."""
    before, after = (100 * cell.share(measure, role) for role in ("original", "hardened"))
    return f"{before:.1f} / {after:.1f}"


def points(found: PairedDifference) -> str:
    """ "-5.0 (-12.8 to +3.4)"."""
    value, low, high = (100 * x for x in (found.difference, found.low, found.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def ranged(cell: Cell, measure: Measure, role: str) -> str:
    """ "59.0 (48.7-68.7)": a share in percent with its exact 95 % interval."""
    low, high = cell.interval(measure, role)
    return f"{100 * cell.share(measure, role):.1f} ({100 * low:.1f}-{100 * high:.1f})"


def remark(cell: Cell) -> str:
    """Whether the paper's measure and the adaptive worst case point the same way."""
    plain, worst = cell.difference("plain"), cell.difference("worst")
    directions = _sign(plain.difference), _sign(worst.difference)
    same = directions[0] == directions[1]
    said = _agree(plain, worst) if same else _disagree(plain, worst)
    hidden = [
        cell.count("plain", role) - cell.count("worst", role)
        for role in ("hardened", "original")
    ]
    if hidden[0] > hidden[1]:
        more = text.count(range(hidden[0]), "more image")
        said += f"; adaptive attacks break {more} than plain ones (original: {hidden[1]})"
    if cell.verdict == "masked":
        said += "; masking checks failed, so the true worst case is no better than this"
    return said


def _agree(plain: PairedDifference, worst: PairedDifference) -> str:
    said = ("both lower", "no change in either", "both higher")[_sign(worst.difference) + 1]
    if worst.difference == 0:
        return said
    weights = [_weight(plain), _weight(worst)]
    if weights[0] == weights[1]:
        return f"{said}, {weights[0]}"
    return f"{said}: plain {weights[0]}, worst case {weights[1]}"


def _disagree(plain: PairedDifference, worst: PairedDifference) -> str:
    known = min(plain.p, worst.p) < SIGNIFICANT
    said = (
        f"{'DISAGREE' if known else 'disagree within chance'}: plain "
        f"{100 * plain.difference:+.1f} ({_weight(plain)}), worst case "
        f"{100 * worst.difference:+.1f} ({_weight(worst)})"
    )
    if plain.difference > 0:
        said += ": no gain in robustness, whatever the plain evaluation shows"
    elif worst.difference < 0:
        said += ": the plain evaluation does not show the loss"
    return said


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _weight(found: PairedDifference) -> str:
    return "measurable" if found.p < SIGNIFICANT else "chance may explain it"


def conclusion(cells: Sequence[Cell]) -> list[str]:
    """The settings counted, against the paper's direction."""
    known = [cell for cell in cells if cell.problem is None]
    if not known:
        return ["nothing could be measured"]
    lines = [
        _counted(known, "plain", "by the plain measure (exact gradients on each model)"),
        _counted(known, "worst", "in the adaptive worst case (all paths)"),
    ]
    apart = [cell for cell in known if remark(cell).lower().startswith("disagree")]
    measurable = sum(remark(cell).startswith("DISAGREE") for cell in apart)
    improved = sum(cell.verdict == "improved" for cell in known)
    masked = sum(cell.verdict == "masked" for cell in known)
    lines.append(
        f"the two disagree in direction in {len(apart)} of {len(known)} ({measurable} with a "
        f"measurable difference); masking checks failed in {masked}"
    )
    if improved:
        lines.append(
            f"the paper's direction, a gain in robust accuracy, holds in the worst case, "
            f"measurably, for {improved} of {len(known)}"
        )
    else:
        lines.append(
            "the paper's direction, a gain in robust accuracy, is not confirmed here: no "
            "setting improved the adaptive worst case measurably"
        )
    return lines


def _counted(cells: Sequence[Cell], measure: Measure, what: str) -> str:
    differences = [cell.difference(measure) for cell in cells]
    up = _count(differences, lambda x: x.difference > 0)
    down = _count(differences, lambda x: x.difference < 0)
    settings = text.count(cells, "setting")
    return f"{what}: of {settings} {up} higher, {down} lower than the original"


def _count(
    differences: Sequence[PairedDifference], holds: Callable[[PairedDifference], bool]
) -> str:
    chosen = [x for x in differences if holds(x)]
    measurable = sum(x.p < SIGNIFICANT for x in chosen)
    return f"{len(chosen)} ({measurable} measurably)"
