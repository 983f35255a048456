"""Markdown for the summary of a CI job."""

from __future__ import annotations

import pytest

from lipcompile.findings import Finding
from lipcompile.step_summary import error_summary, step_summary
from tests.test_findings import BAD, GATE, GOOD, OPEN, Made


def test_a_failed_gate_is_told_first() -> None:
    text = step_summary("audit", Made((GOOD, OPEN, GATE), (GATE.evidence,)))
    assert text.splitlines() == [
        "### lipcompile audit: FAILED",
        "",
        "**1 is above --gate 0**",
        "",
        "| result | check | evidence |",
        "|---|---|---|",
        "| **FAILED** | --gate | 1 is above --gate 0 |",
        "| ok | good | 1 of 1 |",
        "| - | open | too few |",
        "",
    ]
    assert text.endswith("|\n\n")  # what other steps append is no row of this table


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ((GOOD, OPEN), "passed"),
        ((GOOD, BAD), "done, 1 check failed"),
        ((BAD, BAD), "done, 2 checks failed"),
    ],
)
def test_outcome_without_gates(found: tuple[Finding, ...], outcome: str) -> None:
    head = step_summary("audit", Made(found)).splitlines()[0]
    assert head == f"### lipcompile audit: {outcome}"


def test_names_are_shown_and_mean_nothing() -> None:
    name = "a|b `c` <img src=x> **d**\nl"
    rows = step_summary("audit", Made((Finding(name, True, name),))).splitlines()
    shown = r"a&#124;b &#96;c&#96; &lt;img src=x&gt; \*\*d\*\* l"
    assert rows[-2] == f"| ok | {shown} | {shown} |"


def test_an_error_is_one_line() -> None:
    text = error_summary("harden", "model 'a_b' is\nempty")
    assert text == "**lipcompile harden: error:** model 'a\\_b' is empty\n\n"
