"""What a result says as findings, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lipcompile.findings import (
    Finding,
    document,
    document_text,
    failures,
    ranked,
    reason,
)

GOOD = Finding("good", True, "1 of 1")
BAD = Finding("bad", False, "0 of 1")
OPEN = Finding("open", None, "too few")
GATE = Finding("--gate", False, "1 is above --gate 0")


@dataclass(frozen=True)
class Made:
    """A result made by hand."""

    found: tuple[Finding, ...] = ()
    failed_gates: tuple[str, ...] = ()

    def findings(self) -> tuple[Finding, ...]:
        return self.found

    def to_json(self) -> dict[str, Any]:
        return {"schema": "made"}


def test_each_failure_is_told_once() -> None:
    again = Finding("other gate", False, GATE.evidence)
    assert failures([GOOD, GATE, OPEN, again, BAD]) == (GATE.evidence, BAD.evidence)


def test_outcome_is_the_first_key() -> None:
    assert list(document(Made())) == ["outcome", "schema"]
    assert document(Made((BAD,)))["outcome"] == "passed"  # no gate rests on that check
    failed = Made((BAD,), ("one", "two"))
    assert reason(failed) == "one; two"
    assert document(failed)["outcome"] == "failed: one; two"


def test_a_document_is_json_or_nothing() -> None:
    @dataclass(frozen=True)
    class Broken(Made):
        def to_json(self) -> dict[str, Any]:
            return {"value": float("nan")}

    assert document_text(Made()) == '{\n "outcome": "passed",\n "schema": "made"\n}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        document_text(Broken())


def test_what_stops_a_pipeline_comes_first() -> None:
    result = Made((GOOD, OPEN, BAD, GATE), (GATE.evidence,))
    assert ranked(result) == (GATE, BAD, GOOD, OPEN)


def test_a_failed_gate_without_a_finding_becomes_one() -> None:
    result = Made((GOOD, GATE), ("told nowhere", GATE.evidence))
    assert ranked(result) == (Finding("outcome", False, "told nowhere"), GATE, GOOD)
