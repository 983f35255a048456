"""What a pipeline may ask of an audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lipcompile.auditing.results import AuditResult
from lipcompile.findings import Finding
from lipcompile.gates import Gates
from lipcompile.text import percent


def judge(gates: Gates, result: AuditResult) -> tuple[Finding, ...]:
    """One finding per gate."""
    return (
        *gates.agreement(result.agreement),
        *gates.accuracy_drop("clean", -result.clean.difference),
        *judge_worst_case(gates, result),
        *gates.latency(result.latency),
    )


def judge_worst_case(gates: Gates, result: AuditResult) -> tuple[Finding, ...]:
    """One finding per gate on the worst case.

    Behind a failed masking check the worst case is an upper bound: it may break a gate, and no
    gate may rest on it.
    """
    robust = float(result.hardened.robust.mean())
    worst = (
        *gates.robust_accuracy(robust),
        *gates.accuracy_drop("worst-case", -result.worst.difference),
    )
    return tuple(_undecided(worst, robust)) if result.verdict == "masked" else worst


def _undecided(worst: Iterable[Finding], robust: float) -> Iterator[Finding]:
    """Gates that seem to hold, and do not."""
    why = (
        "the gates cannot be decided: masking checks failed, so the worst case of "
        f"{percent(robust)} is only an upper bound"
    )
    for gate in worst:
        yield replace(gate, holds=False, evidence=why) if gate.holds else gate
