"""The section on certificates: its curves against NumPy, its table, its words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lipcompile.report import Report
from lipcompile.report.blocks import Cell, Facts, Figure, Table
from lipcompile.report.charts import Chart, Series
from lipcompile.report.sections.certificates import certificates
from tests.report import documents as made

ROLES = ("original", "model")


def blocks(content: made.JSON, kind: type) -> list[Any]:
    section = certificates(Report((made.document("certify", content),)).evidence)
    assert section is not None
    return [block for block in section.blocks if isinstance(block, kind)]


def chart(content: made.JSON) -> Chart:
    (figure,) = blocks(content, Figure)
    found = figure.make()
    assert isinstance(found, Chart)
    return found


def rows(content: made.JSON) -> dict[str, list[str]]:
    (table,) = blocks(content, Table)
    return {
        name: [cell.text if isinstance(cell, Cell) else cell for cell in cells]
        for name, *cells in table.rows
    }


def height(series: Series, radius: float) -> float:
    """Of the drawn steps at a radius; where they fall, what is above."""
    ends = zip(series.x, series.x[1:], series.y, strict=False)
    return max(y for left, right, y in ends if left <= radius <= right)


def share(model: made.JSON, radius: float) -> float:
    held = (np.array(model["right"]) > 0) & (np.array(model["radii_l2"]) >= radius)
    return float(held.mean())


def test_curves_are_certified_accuracy_at_every_radius() -> None:
    content = made.certify()
    found = chart(content)
    assert [one.name for one in found.series] == ["original", "hardened"]
    assert found.mark_x == (0.25, "eps = 0.25")
    for series, role in zip(found.series, ROLES, strict=True):
        right = np.array(content[role]["right"]) > 0
        last = np.array(content[role]["radii_l2"])[right].max()
        for radius in np.linspace(1e-6, last, 300):
            assert height(series, radius) == pytest.approx(share(content[role], radius))
        assert (series.x[-1], series.y[-1]) == (last, 0.0)


def test_planted_higher_curve_is_caught() -> None:
    content = made.certify()
    series = chart(content).series[0]
    raised = Series(series.name, series.x, tuple(y + 0.025 for y in series.y))
    assert height(raised, 0.2) != pytest.approx(share(content["original"], 0.2))


def test_a_long_curve_is_thinned_and_never_above() -> None:
    content = made.certify(n=4000)
    for series, role in zip(chart(content).series, ROLES, strict=True):
        assert len(series.x) < 310
        gaps = [
            share(content[role], radius) - height(series, radius)
            for radius in np.linspace(1e-6, series.x[-1], 200)
        ]
        assert min(gaps) > -1e-12
        assert 0 < max(gaps) < 0.01


def test_images_without_a_radius_have_no_curve() -> None:
    content = made.certify(original=False)
    content["model"]["radii_l2"] = [0.0] * 40
    assert blocks(content, Figure) == []
    for procedure in ("predict", "test"):
        assert blocks(made.smoothed(procedure), Figure) == []


def test_the_caption_names_method_and_meaning() -> None:
    (bounds,), (smoothed,) = blocks(made.certify(), Figure), blocks(made.smoothed(), Figure)
    assert "by Lipschitz bounds. Within its radius no perturbation" in bounds.caption
    assert "this holds for the network in real numbers" in bounds.caption
    assert "by randomized smoothing, sigma = 0.25. The classes are those" in smoothed.caption
    assert "for each image with probability 0.999" in smoothed.caption


def test_the_table_of_bounds() -> None:
    assert rows(made.certify()) == {
        "accuracy": ["80.00 %", "80.00 %"],
        "certified at l2 0.25": ["40.00 %", "35.00 %"],
        "median l2 radius": ["0.2", "0.18"],
        "Lipschitz bound, product": ["1234", "1234"],
        "Lipschitz bound, LipLT": ["41.5", "46.11"],
        "Lipschitz bound, ECLipsE-Fast": ["77", "77"],
        "largest bound of a pair": ["39.25", "43.61"],
    }
    content = made.certify()
    del content["original"]["bounds"]["by_method"]["ECLipsE-Fast"]
    content["original"]["bounds"]["by_method"]["product"] = None
    assert rows(content)["Lipschitz bound, ECLipsE-Fast"] == ["-", "77"]
    assert rows(content)["Lipschitz bound, product"] == ["-", "1234"]
    assert rows(made.certify(original=False))["accuracy"] == ["80.00 %"]


def test_the_table_of_votes() -> None:
    found = rows(made.smoothed())
    assert found["a class is claimed, and right"] == ["80.00 %", "80.00 %"]
    assert found["noisy images"] == ["44,000", "44,000"]
    assert found["images: abstained"] == ["10", "10"]
    assert "largest bound of a pair" not in found
    assert "median l2 radius" in found
    assert "median l2 radius" not in rows(made.smoothed("test"))
    (facts,) = blocks(made.smoothed("test"), Facts)
    settings = dict(facts.rows)
    assert settings["draws that count (n)"] == "at most 1,000 per image"
    assert (settings["sigma"], settings["alpha"]) == ("0.25, in pixels of [0, 1]", "0.001")


def test_without_certificates_there_is_no_section() -> None:
    assert certificates(Report((made.document("audit", made.audit()),)).evidence) is None
