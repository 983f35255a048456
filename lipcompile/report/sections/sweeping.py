"""A sweep: what each setting costs and brings, and which one was chosen."""

from __future__ import annotations

from collections.abc import Iterator

from lipcompile.report.blocks import Block, Code, Figure, Notice, Prose, Section
from lipcompile.report.charts import INKS, MARKS, Chart, Level, Series
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.sections.settings import layers_table, settings_table
from lipcompile.report.wording import c_r, sentence, share

_APART = 2**0.07  # series stand beside each other, so that their intervals can be told apart


def accuracy_over_cr(evidence: Evidence) -> Section | None:
    """Accuracy against c_r, the settings, and why one of them was chosen."""
    sweep = evidence.sweep
    if sweep is None:
        return None
    blocks: list[Block] = [Prose(_budget(evidence, sweep))]
    if sweep["why"] and evidence.audit and not evidence.audit_of_sweep:
        # Otherwise it stands with the verdict, which is the sweep's.
        blocks.append(Prose(sentence(sweep["why"])))
    if sweep["chosen"] is None:
        blocks.append(Notice("No setting was chosen.", "neutral"))
    if evidence.beyond_budget:
        blocks.append(Notice(evidence.beyond_budget))
    if _with_cr(sweep, _measure_of(sweep)):
        blocks.append(_accuracy_figure(evidence, sweep))
    if _with_cr(sweep, "worst_case"):
        blocks.append(_worst_case_figure(evidence, sweep))
    blocks.append(settings_table(sweep, evidence.things))
    if evidence.chosen and evidence.chosen["c_r_by_layer"]:
        blocks.append(layers_table(evidence.chosen))
    if sweep["command"]:
        blocks += [Prose("The chosen setting, as a command:"), Code(sweep["command"])]
    return Section("sweep", "Accuracy against c_r", tuple(blocks))


def _budget(evidence: Evidence, sweep: Content) -> str:
    budget, data = sweep["budget"], sweep["data"]
    limits = []
    if budget["max_accuracy_drop"] is not None:
        limits.append(f"accuracy drop at most {share(budget['max_accuracy_drop'])}")
    if budget["min_agreement"] is not None:
        limits.append(f"agreement at least {share(budget['min_agreement'])}")
    if budget["max_latency_ratio"] is not None:
        limits.append(f"latency ratio at most {budget['max_latency_ratio']:g}")
    if budget.get("min_robust_accuracy") is not None:
        limits.append(f"worst-case accuracy at least {share(budget['min_robust_accuracy'])}")
    others = f"the chosen one was measured again on {data['reporting']} others"
    if sweep["chosen"] is None:
        others = "there was none to be measured again on the others"
    return (
        f"Budget: {', '.join(limits) or 'none'}. Settings were measured and chosen on "
        f"{data['choosing']} {evidence.things}; {others}."
    )


def _measure_of(sweep: Content) -> str:
    """Accuracy; agreement with the original where the images have no labels."""
    known = any(setting["accuracy"] for setting in sweep["settings"])
    return "accuracy" if known else "agreement"


def _with_cr(sweep: Content, key: str) -> dict[str, list[Content]]:
    """Settings with one c_r and this number, by their form, variant and ensemble."""
    lines: dict[str, list[Content]] = {}
    for setting in sweep["settings"]:
        if _on_axis(setting) and setting[key]:
            lines.setdefault(_line(setting), []).append(setting)
    for found in lines.values():
        found.sort(key=lambda setting: float(setting["c_r"]))
    return lines


def _has_place(setting: Content) -> bool:
    """Whether it has one c_r for all layers, and so a place on the axis."""
    return bool(setting["c_r"]) and not setting["c_r_by_layer"]


def _ratios(sweep: Content) -> tuple[tuple[float, str], ...]:
    found = sorted({float(one["c_r"]) for one in sweep["settings"] if _on_axis(one)})
    return tuple((place, c_r(place)) for place in found)


def _on_axis(setting: Content) -> bool:
    return _has_place(setting) and not setting["problem"]


def _line(setting: Content) -> str:
    name = setting["form"]["name"] if setting["form"] else str(setting["variant"])
    rate = setting["zero_rate"]
    if rate is not None and rate != 1:
        name += f" {share(rate)}"
    return f"{name} + {setting['ensemble']}" if setting["ensemble"] else name


def _accuracy_figure(evidence: Evidence, sweep: Content) -> Figure:
    what = _measure_of(sweep)
    title = "clean accuracy" if what == "accuracy" else "agreement with the original"
    return Figure(
        f"{title} of every setting against c_r, with intervals",
        f"{title.capitalize()} on the {sweep['data']['choosing']} {evidence.things} that "
        "choose, with exact 95 % intervals; the line is the original, with its interval as a "
        f"band. The chosen setting on the held-out {evidence.things} is a mark (or a line, "
        "where it has no single c_r) of its own.",
        lambda: _accuracy_chart(evidence, sweep, what, title),
    )


def _accuracy_chart(evidence: Evidence, sweep: Content, what: str, title: str) -> Chart:
    series = [_series(name, found, what, i) for i, (name, found) in _numbered(sweep, what)]
    levels: list[Level] = []
    chosen, held_out = evidence.chosen, (evidence.confirmed or {}).get(what)
    at = chosen["c_r"] if chosen and _has_place(chosen) else None
    if held_out and at is not None:
        value, (low, high) = (float(held_out["value"]),), held_out["interval"]
        place = (at * _APART ** (len(series) + 1),)
        star = Series("chosen, held out", place, value, (low,), (high,), "accent", "star")
        series.append(star)
    elif held_out and chosen:
        name = f"chosen ({chosen['name']}), held out"
        levels.append(Level(name, float(held_out["value"]), None, "accent"))
    if what == "accuracy" and sweep["original"]["choosing"]["accuracy"] is not None:
        original = sweep["original"]["choosing"]
        levels.append(Level("original", original["accuracy"], tuple(original["interval"])))
    return Chart(
        "c_r (threshold over largest activation)",
        f"{title} (%)",
        tuple(series),
        tuple(levels),
        x_scale="powers",
        mark_x=(at, "chosen") if at is not None else None,
        ticks=_ratios(sweep),
    )


def _numbered(sweep: Content, key: str) -> Iterator[tuple[int, tuple[str, list[Content]]]]:
    return enumerate(_with_cr(sweep, key).items())


def _series(name: str, found: list[Content], key: str, index: int) -> Series:
    return Series(
        name,
        tuple(setting["c_r"] * _APART**index for setting in found),
        tuple(setting[key]["value"] for setting in found),
        tuple(setting[key]["interval"][0] for setting in found),
        tuple(setting[key]["interval"][1] for setting in found),
        INKS[index % len(INKS)],
        MARKS[index % len(MARKS)],
    )


def _worst_case_figure(evidence: Evidence, sweep: Content) -> Figure:
    attack = sweep["attack"] or {}
    return Figure(
        "change of the worst-case accuracy of every setting against c_r, with intervals",
        f"Worst-case accuracy, hardened - original, on {evidence.attacked} images "
        f"under the {attack.get('preset', 'audit')} attacks, with 95 % intervals. Above 0 the "
        "setting is harder to fool; an interval that holds 0 shows nothing.",
        lambda: _worst_case_chart(sweep),
    )


def _worst_case_chart(sweep: Content) -> Chart:
    series = []
    for index, (name, found) in _numbered(sweep, "worst_case"):
        gaps = [setting["worst_case"]["difference"] for setting in found]
        series.append(
            Series(
                name,
                tuple(setting["c_r"] * _APART**index for setting in found),
                tuple(gap["difference"] for gap in gaps),
                tuple(gap["low"] for gap in gaps),
                tuple(gap["high"] for gap in gaps),
                INKS[index % len(INKS)],
                MARKS[index % len(MARKS)],
            )
        )
    return Chart(
        "c_r (threshold over largest activation)",
        "worst case, hardened - original (points)",
        tuple(series),
        (Level("no difference", 0.0),),
        x_scale="powers",
        y_scale="points",
        ticks=_ratios(sweep),
    )
