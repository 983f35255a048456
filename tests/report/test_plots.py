"""Charts as SVG: colours of the page, ids of their own, names as they are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from lipcompile.report import Report
from lipcompile.report.blocks import Figure, Table
from lipcompile.report.charts import Bars, Chart, Level, Series
from lipcompile.report.plots import draw
from lipcompile.report.sections.layers import suppressed
from lipcompile.report.sections.robustness import robustness
from lipcompile.report.sections.sweeping import accuracy_over_cr
from lipcompile.report.swatches import legend
from tests.report import documents as made

LINE = Series("smooth", (0.0, 1.0, 2.0), (0.2, 0.5, 0.4), (0.1, 0.4, 0.3), (0.3, 0.6, 0.5))
CHART = Chart("x (unit)", "y (%)", (LINE,), (Level("original", 0.45, (0.4, 0.5)),))
BARS = Bars("images", ("a <b> $x$", "c"), (Series("original", (0.0, 1.0), (3.0, 4.0)),))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


def figures(report: Report) -> list[Chart | Bars]:
    blocks = [block for one in report.sections() for block in one.blocks]
    return [block.make() for block in blocks if isinstance(block, Figure)]


@pytest.mark.parametrize("figure", [CHART, BARS], ids=["chart", "bars"])
def test_only_colours_of_the_page_are_used(figure: Chart | Bars) -> None:
    svg = draw(figure, "f1", "label")
    assert "#0a0b" not in svg
    assert re.findall(r"(?:fill|stroke): ?#[0-9a-f]+", svg) == []
    assert "var(--text)" in svg


def test_the_drawing_is_a_labelled_image_without_a_style_sheet() -> None:
    svg = draw(CHART, "f1", 'a "label" <b>')
    root = ET.fromstring(svg)
    assert (root.tag, root.get("role"), root.get("aria-label")) == (
        "svg",
        "img",
        'a "label" <b>',
    )
    assert not list(root.iter("style"))
    assert not list(root.iter("metadata"))
    assert "http" not in svg
    assert "font-family" not in svg


def test_axes_have_their_labels_with_units() -> None:
    assert {"x (unit)", "y (%)"} <= set(texts(draw(CHART, "f1", "x")))
    for chart in figures(Report(made.everything())):
        found = texts(draw(chart, "f1", "x"))
        assert chart.x_label in found
        if isinstance(chart, Chart):
            assert chart.y_label in found


def test_shares_are_shown_in_percent_and_differences_with_a_sign() -> None:
    assert {"20", "60"} <= set(texts(draw(CHART, "f1", "x")))
    gap = Chart("x", "points", (Series("a", (0.0, 1.0), (-0.02, 0.04)),), y_scale="points")
    assert {"+4", "0", "-2"} <= set(texts(draw(gap, "f1", "x")))


def test_powers_of_two_are_named() -> None:
    line = Series("a", (2**-9, 2**-8, 2**-7), (0.1, 0.2, 0.3))
    found = texts(draw(Chart("c_r", "y", (line,), x_scale="powers"), "f1", "x"))
    assert {"2^-9", "2^-8", "2^-7"} <= set(found)


@pytest.mark.parametrize("ratios", [(0.011,), (0.011, 0.02), (2**-7,)])
def test_a_threshold_between_powers_has_a_tick(ratios: tuple[float, ...]) -> None:
    sweep = made.sweep()
    kept = sweep["settings"][: len(ratios)]
    for one, ratio in zip(kept, ratios, strict=True):
        one |= {"c_r": ratio, "name": f"smooth {ratio}"}
    chart = chart_of(
        accuracy_over_cr(swept(sweep | {"settings": kept, "chosen": None}).evidence)
    )
    found = set(texts(draw(chart, "f1", "x")))
    assert {"2^-7" if ratio == 2**-7 else str(ratio) for ratio in ratios} <= found


def test_names_are_no_mathematics_and_no_markup() -> None:
    svg = draw(BARS, "f1", "x")
    assert "a <b> $x$" in texts(svg)
    assert "<b>" not in svg


def test_ids_start_with_the_prefix_and_are_used() -> None:
    first, second = draw(CHART, "f1", "x"), draw(CHART, "f2", "x")
    ids = re.findall(r'\bid="([^"]+)"', first)
    assert ids
    assert all(one.startswith("f1-") for one in ids)
    assert all(f"#{one}" in first for one in ids)
    assert set(ids).isdisjoint(re.findall(r'\bid="([^"]+)"', second))


def test_the_same_chart_gives_the_same_bytes_whatever_the_user_configured() -> None:
    expected = draw(CHART, "f1", "x")
    with matplotlib.rc_context({"svg.hashsalt": None, "text.usetex": False}):
        assert draw(CHART, "f1", "x") == expected


def test_a_hundred_layers_have_few_ticks_and_few_marks() -> None:
    x = tuple(float(i) for i in range(1, 121))
    line = Series("a", x, tuple(i / 120 for i in x))
    svg = draw(Chart("layer", "y", (line,), x_scale="layers"), "f1", "x")
    numbers = [text for text in texts(svg) if text.isdigit()]
    assert len(numbers) < 24
    assert svg.count("<use") < 60


def test_one_layer_has_one_tick_that_is_a_whole_number() -> None:
    svg = draw(
        Chart("layer", "y", (Series("a", (1.0,), (0.5,)),), x_scale="layers"), "f1", "x"
    )
    assert "1" in texts(svg)
    assert "1.5" not in texts(svg)


def test_the_legend_names_every_line() -> None:
    assert [entry.name for entry in legend(CHART)] == ["smooth", "original"]
    assert [entry.name for entry in legend(BARS)] == ["original"]


# What the charts hold


def swept(sweep: made.JSON) -> Report:
    return Report((made.document("sweep", sweep),))


def chart_of(section: object) -> Chart:
    found = [b.make() for b in section.blocks if isinstance(b, Figure)]  # type: ignore[attr-defined]
    assert isinstance(found[0], Chart)
    return found[0]


def test_accuracy_has_a_line_per_form_and_marks_the_choice() -> None:
    chart = chart_of(accuracy_over_cr(Report(made.everything()).evidence))
    assert [one.name for one in chart.series] == [
        "smooth",
        "hard",
        "weight",
        "chosen, held out",
    ]
    assert chart.series[-1].y == (215 / 250,)
    assert chart.series[0].low[0] == pytest.approx(made.estimate(217, 250)["interval"][0])
    assert chart.levels[0].y == 218 / 250
    assert chart.mark_x == (2**-7, "chosen")


def test_a_choice_without_one_c_r_is_a_line() -> None:
    report = Report((made.document("sweep", made.per_layer()),))
    chart = chart_of(accuracy_over_cr(report.evidence))
    assert [level.name for level in chart.levels] == [
        "chosen (smooth per layer), held out",
        "original",
    ]
    assert chart.mark_x is None


def test_without_labels_the_agreement_is_shown() -> None:
    sweep = made.sweep(attacked=False)
    for one in sweep["settings"]:
        one["accuracy"] = one["clean_difference"] = None
    sweep["original"] = {
        part: {"accuracy": None, "interval": None} for part in ("choosing", "reporting")
    }
    sweep["confirmed"] |= {
        "accuracy": None,
        "original_accuracy": None,
        "clean_difference": None,
    }
    chart = chart_of(accuracy_over_cr(Report((made.document("sweep", sweep),)).evidence))
    assert chart.y_label == "agreement with the original (%)"
    assert chart.levels == ()
    assert chart.series[-1].y == (247 / 250,)


def test_forms_with_the_same_c_r_share_a_line_of_suppressed_inputs() -> None:
    sweep = made.sweep()
    sweep["settings"] = [x for x in sweep["settings"] if x["variant"] == "forged"]
    chart = chart_of(suppressed(swept(sweep).evidence))
    assert [one.name for one in chart.series] == [
        "without hardening",
        "forged 2^-9",
        "forged 2^-8",
        "forged 2^-7 (chosen)",
        "forged 2^-6",
        "forged 2^-5",
    ]
    assert chart.series[0].y[1] == 0.02


@pytest.mark.parametrize("exponent", range(-14, 0))
def test_the_line_of_the_chosen_setting_is_never_left_out(exponent: int) -> None:
    sweep = made.sweep()
    sweep["settings"] = [made.setting("hard", k) for k in range(-14, 0)]
    for i, one in enumerate(sweep["settings"]):
        one["layers"][0]["suppressed"] = i / 20  # all differ
    sweep["chosen"] = f"hard 2^{exponent}"
    chart = chart_of(suppressed(swept(sweep).evidence))
    names = [one.name for one in chart.series]
    assert len(names) == 7
    assert f"hard 2^{exponent} (chosen)" in names
    assert names[1].startswith("hard 2^-14")
    assert names[-1].startswith("hard 2^-1")
    assert len(set(names)) == 7
    starts = [one.y[0] for one in chart.series[1:]]
    assert starts == sorted(starts)


def test_layers_are_paired_by_their_names() -> None:
    sweep = made.sweep()
    first = sweep["settings"][0]
    del first["layers"][1]
    sweep["settings"] = [first]
    section = suppressed(swept(sweep).evidence)
    assert section
    chart = chart_of(section)
    assert chart.series[1].x == (1.0, 3.0, 4.0, 5.0, 6.0)
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[1] for row in table.rows] == list(made.NAMES)
    assert table.rows[1][3] == "-"
    assert table.rows[2][3] == f"{100 * first['layers'][1]['suppressed']:.2f} %"


def test_captions_say_what_variant_weight_and_the_worst_ratio_are() -> None:
    text = str(Report(made.everything()).sections())
    assert "inputs that are 0 anyway or whose column was zeroed" in text
    assert (
        "The worst ratio is the largest among 64 inputs per layer, and bounds nothing." in text
    )


def test_robustness_curves_start_at_all_correct_and_have_intervals() -> None:
    section = robustness(Report(made.everything()).evidence)
    chart = chart_of(section)
    for one in chart.series:
        assert (one.x[0], one.y[0]) == (0.0, 1.0)
        assert all(
            low <= y <= high for low, y, high in zip(one.low, one.y, one.high, strict=True)
        )
        assert one.low[1] < 0.55 < one.high[1]
    assert chart.mark_x == (8 / 255, "audited")


def test_bars_end_with_all_paths_together() -> None:
    blocks = robustness(Report(made.everything()).evidence).blocks
    bars = blocks[1].make()  # type: ignore[union-attr]
    assert isinstance(bars, Bars)
    assert bars.rows[-1] == "all paths together"
    assert not any(name.startswith("transfer ") for name in bars.rows)
    original = bars.series[0]
    assert original.y[-1] == 168 - 84
    assert original.low[-1] < original.y[-1] < original.high[-1]
    assert original.low[0] == original.y[0]
