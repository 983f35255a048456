"""What a result says about a model, check by check: for CI servers, and for people in a hurry.

A result is judged by two things: `findings()`, everything that was looked at, and
`failed_gates`, the reasons for which a pipeline must stop. Only these decide the exit code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: In words: a check, or the flag of a gate.
        holds: Whether it holds; None where it was not decided, or only informs.
        evidence: The numbers, or why it was not decided.
    """

    name: str
    holds: bool | None
    evidence: str


class Judged(Protocol):
    """A result with findings: of harden, verify, audit, certify and sweep."""

    @property
    def failed_gates(self) -> tuple[str, ...]: ...

    def findings(self) -> tuple[Finding, ...]: ...

    def to_json(self) -> dict[str, Any]: ...


def failures(gates: Iterable[Finding]) -> tuple[str, ...]:
    """The evidence of those that do not hold, each told once."""
    return tuple(dict.fromkeys(gate.evidence for gate in gates if gate.holds is False))


def reason(result: Judged) -> str | None:
    """Why a pipeline must stop; None where it may go on."""
    return "; ".join(result.failed_gates) or None


def document(result: Judged) -> dict[str, Any]:
    """The result as a JSON object whose first key, "outcome", is "passed" or the reason."""
    why = reason(result)
    return {"outcome": PASSED if why is None else f"failed: {why}", **result.to_json()}


def document_text(result: Judged) -> str:
    """`document` as a file has it; a number that JSON does not know is a defect of ours."""
    return json.dumps(document(result), indent=1, allow_nan=False)


def ranked(result: Judged) -> tuple[Finding, ...]:
    """All findings: what stops the pipeline, then other checks that failed, then the rest.

    A failed gate that no finding tells of becomes one.
    """
    found = result.findings()
    told = {finding.evidence for finding in found if finding.holds is False}
    untold = [Finding("outcome", False, g) for g in result.failed_gates if g not in told]

    def rank(finding: Finding) -> int:
        if finding.holds is not False:
            return 2
        return 0 if finding.evidence in result.failed_gates else 1

    return tuple(sorted([*untold, *found], key=rank))
