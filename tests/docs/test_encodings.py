"""The table of encodings in the docs is the one that the code gives, and what it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipcompile.forged import FORMS, TARGETS, Target
from lipcompile.forged.catalogue import SITUATIONS, encoding_table, encodings
from lipcompile.sites import Selector
from tests.forging import CONV_IN, CONV_OUT, forge, model

PAGE = Path(__file__).parents[2] / "docs" / "encodings.md"
# A site of each situation in the order of the table: in front of a Conv, and of a MatMul.
GRAPHS = [
    (
        "z = Conv<pads = [1,1,1,1]>(x, K, B) h = Relu(z) y = Conv<pads = [1,1,1,1]>(h, K)",
        "z = Gemm(x, W, B) h = Relu(z) y = MatMul(h, W)",
    ),
    (
        "z = Conv<pads = [1,1,1,1]>(x, K, B) h = Clip(z, ZERO, SIX) "
        "y = Conv<pads = [1,1,1,1]>(h, K)",
        "z = Gemm(x, W, B) h = Clip(z, ZERO, SIX) y = MatMul(h, W)",
    ),
    (
        "h = Relu(x) y = Conv<pads = [1,1,1,1]>(h, K)",
        "h = Relu(x) y = MatMul(h, W)",
    ),
    (
        "z = Relu(x) h = Sqrt(z) y = Conv<pads = [1,1,1,1]>(h, K)",
        "z = Relu(x) h = Sqrt(z) y = MatMul(h, W)",
    ),
    (
        "h = Tanh(x) y = Conv<pads = [1,1,1,1]>(h, K)",
        "h = Tanh(x) y = MatMul(h, W)",
    ),
]


def test_the_page_holds_the_table_of_the_code() -> None:
    assert "\n".join(encoding_table()) in PAGE.read_text()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("situation", range(len(GRAPHS)))
def test_a_real_graph_gets_the_encoding_of_its_row(
    situation: int, form: str, target: Target
) -> None:
    expected = encodings(form, list(SITUATIONS)[situation], target)
    for body, encoding in zip(GRAPHS[situation], expected, strict=True):
        shapes = (CONV_OUT, CONV_IN) if "Conv" in body else ()
        outcome = forge(model(body, *shapes), form, Selector("all"), target=target)
        assert outcome.plans["h"].encoding.label == encoding.label


def test_every_situation_has_a_graph_and_every_cell_a_reason() -> None:
    assert len(GRAPHS) == len(SITUATIONS)
    lines = encoding_table()
    end = lines.index("")
    rows = [line.strip("| ").split(" | ") for line in lines[2:end]]
    assert {len(row) for row in rows} == {2 + len(TARGETS)}
    assert {row[0] for row in rows} == {f"`{form}`" for form in FORMS}
    reasons = dict(line.strip("| ").split(" | ") for line in lines[end + 3 :])
    labels = {
        part.removeprefix("Conv: ").removeprefix("else: ")
        for row in rows
        for cell in row[2:]
        for part in cell.split("<br>")
    }
    assert labels <= set(reasons)
    assert all(reasons.values())
