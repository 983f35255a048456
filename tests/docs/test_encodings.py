"""The table of encodings in the docs is the one that the code gives."""

from __future__ import annotations

from pathlib import Path

from lipcompile.forged import FORMS, TARGETS
from lipcompile.forged.catalogue import SITUATIONS, encoding_table

PAGE = Path(__file__).parents[2] / "docs" / "encodings.md"


def test_the_page_holds_the_table_of_the_code() -> None:
    assert "\n".join(encoding_table()) in PAGE.read_text()


def test_the_table_has_a_row_for_every_form_and_situation_and_a_reason_for_every_cell() -> None:
    lines = encoding_table()
    end = lines.index("")
    rows = [line.strip("| ").split(" | ") for line in lines[2:end]]
    assert len(rows) == len(FORMS) * len(SITUATIONS)
    assert {len(row) for row in rows} == {2 + len(TARGETS)}
    reasons = dict(line.strip("| ").split(" | ") for line in lines[end + 3 :])
    assert {cell for row in rows for cell in row[2:]} <= set(reasons)
    assert all(reasons.values())
