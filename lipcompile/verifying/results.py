"""What a verification found: checks with their evidence, and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lipcompile.checks import Agreement
from lipcompile.documents import header
from lipcompile.findings import Finding, failures
from lipcompile.fusions import LostFusions
from lipcompile.measure import LatencyRatio
from lipcompile.text import table

_SHOWN = 3  # differences that are named, before they are counted


@dataclass(frozen=True, slots=True)
class VerifyCheck:
    """One thing that should hold.

    Attributes:
        name: What was looked at.
        holds: Whether it does; None where it was not checked, or only informs.
        evidence: The numbers, or why it was not checked.
        decides: Whether the verdict rests on it; what only informs can fail a gate.
    """

    name: str
    holds: bool | None
    evidence: str
    decides: bool = True

    @property
    def failed(self) -> bool:
        return self.holds is False and self.decides

    def cells(self) -> tuple[str, str, str]:
        word = {None: "-", True: "ok", False: "FAILED"}[self.holds]
        return self.name, word, self.evidence


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What `verify` found. It prints itself, and becomes JSON.

    Attributes:
        original: Name of the model before hardening.
        hardened: Name of the hardened model.
        source: Digest of what the original computes.
        digest: Of what the hardened model computes.
        variant: "forged", "weight", or "none" for what stands around the model alone.
        data: The samples in words; None where nothing was run.
        checks: In the order in which they were made.
        agreement: Outputs against the original's, where both were run.
        latency: Of the hardened model over the original's, where it was measured.
        fusions: What ONNX Runtime fuses in both, where it was looked at.
        gates: Conditions of the user, where there are any.
    """

    original: str
    hardened: str
    source: str
    digest: str
    variant: str
    data: str | None
    checks: tuple[VerifyCheck, ...]
    agreement: Agreement | None = None
    latency: LatencyRatio | None = None
    fusions: LostFusions | None = None
    gates: tuple[Finding, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return not any(check.failed for check in self.checks)

    @property
    def verdict(self) -> str:
        word = "is" if self.holds else "is NOT"
        return f"the file {word} what its provenance says"

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Why a pipeline must stop: failed checks, and gates that do not hold."""
        names = [check.name for check in self.checks if check.failed]
        failed = [f"{self.verdict}: {', '.join(names)} failed"] if names else []
        return (*failed, *failures(self.gates))

    def findings(self) -> tuple[Finding, ...]:
        """Every check, and every gate."""
        checks = (Finding(c.name, c.holds, c.evidence) for c in self.checks)
        return (*checks, *self.gates)

    def to_json(self) -> dict[str, Any]:
        return {
            **header("verify"),
            "verdict": self.verdict,
            "holds": self.holds,
            "original": self.original,
            "hardened": self.hardened,
            "source": self.source,
            "digest": self.digest,
            "variant": self.variant,
            "data": self.data,
            "checks": [asdict(check) for check in self.checks],
            "agreement": self.agreement.to_json() if self.agreement else None,
            "latency": asdict(self.latency) if self.latency else None,
            "fusions": self.fusions.to_json() if self.fusions else None,
            "failed_gates": list(self.failed_gates),
        }

    def __str__(self) -> str:
        head = f"{self.hardened} against {self.original} ({self.source[:19]})"
        rows = table(("check", "result", "evidence"), [check.cells() for check in self.checks])
        gates = [f"gate failed: {gate}" for gate in failures(self.gates)]
        return "\n".join([head, "", *rows, "", *gates, f"verdict: {self.verdict}"])


def some(items: list[str]) -> str:
    """The first few items, and how many more there are."""
    rest = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
