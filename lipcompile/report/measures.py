"""The key numbers: the original against the hardened model, each with what it is sure of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lipcompile.report.blocks import Cell, Row, Table
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import (
    MISSING,
    between,
    certified_by,
    certified_within,
    points,
    ratio,
    share,
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number.

    Attributes:
        value: The number.
        low: Lower end of its interval, where it has one.
        high: Upper end.
        n: Images or pairs of runs, where known.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """One key number.

    Attributes:
        name: What was measured.
        where: On what, and which result says so.
        unit: "share" in [0, 1], or "ratio" of the hardened model's over the original's, whose
            interval holds 80 % of the single ratios.
        original: None for what compares the two, or was not measured.
        hardened: Of the hardened model; None where it was not measured.
        difference: Hardened - original, with its interval, where pairs were compared.
    """

    name: str
    where: str
    unit: Literal["share", "ratio"]
    original: Estimate | None
    hardened: Estimate | None
    difference: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> Row:
        """Name, original, hardened, difference."""
        gap = self.difference
        change: str | Cell = MISSING
        if gap is not None and gap.value is not None:
            limits = f"{points(gap.low or 0.0)} to {points(gap.high or 0.0)}"
            change = Cell(f"{points(gap.value)} points", limits)
        before, after = self._cell(self.original), self._cell(self.hardened)
        return (Cell(self.name, self.where), before, after, change)

    def _cell(self, found: Estimate | None) -> str | Cell:
        if found is None:
            return MISSING
        if self.unit == "share":
            return Cell(share(found.value), between(found.low, found.high))
        return Cell(ratio(found.value), f"10-90 %: {ratio(found.low)} to {ratio(found.high)}")


def measures(evidence: Evidence) -> tuple[Measure, ...]:
    """In the order in which they matter."""
    return (
        *_robustness(evidence),
        *_certificates(evidence),
        *_accuracy(evidence),
        *_agreement(evidence),
        *_latency(evidence),
    )


def measures_table(found: tuple[Measure, ...]) -> Table:
    return Table(
        ("measured", "original", "hardened", "difference"),
        tuple(measure.cells() for measure in found),
        frozenset({1, 2, 3}),
        wide=frozenset({0}),
        stacked=True,
    )


def _of_model(model: Content, which: str, n: int) -> Estimate:
    low, high = model[f"{which}_interval"]
    return Estimate(model[f"{which}_accuracy"], low, high, n)


def _pairs(found: Content | None) -> Estimate | None:
    if not found:
        return None
    return Estimate(found["difference"], found["low"], found["high"], found["n"])


def _audited(evidence: Evidence, name: str, which: str, gap: str, where: str) -> Measure:
    assert evidence.audit
    n = evidence.audit["data"]["images"]
    return Measure(
        name,
        f"{where}, n = {n}",
        "share",
        _of_model(evidence.audit["original"], which, n),
        _of_model(evidence.audit["hardened"], which, n),
        _pairs(evidence.audit[gap]),
    )


def _robustness(evidence: Evidence) -> Iterator[Measure]:
    if evidence.audit:
        where = "audit, every attack on every path"
        yield _audited(
            evidence, "worst-case accuracy", "worst_case", "worst_case_difference", where
        )


def _certificates(evidence: Evidence) -> Iterator[Measure]:
    certify = evidence.certify
    found = {role: one["certified"] for role, one in evidence.certified.items()}
    if certify is None or not any(found.values()):
        return
    known = {role: interval_estimate(one) for role, one in found.items() if one}
    yield Measure(
        "certified accuracy",
        f"certify, {certified_within(certify)}, {certified_by(certify)}, "
        f"n = {next(iter(known.values())).n}",
        "share",
        known.get("original"),
        known.get("hardened"),
        _pairs(certify["difference"]),
    )


def _accuracy(evidence: Evidence) -> Iterator[Measure]:
    if evidence.audit:
        yield _audited(
            evidence, "clean accuracy", "clean", "clean_difference", "audit, no attack"
        )
    confirmed = evidence.confirmed
    if confirmed and confirmed["accuracy"]:
        after, before = confirmed["accuracy"], confirmed["original_accuracy"]
        yield Measure(
            "clean accuracy",
            f"{_held_out(evidence)}, n = {after['n']}",
            "share",
            interval_estimate(before) if before else None,
            interval_estimate(after),
            _pairs(confirmed["clean_difference"]),
        )


def _swept(evidence: Evidence) -> str:
    return f"sweep, {evidence.chosen['name']}" if evidence.chosen else "sweep"


def _held_out(evidence: Evidence) -> str:
    return f"{_swept(evidence)}, held-out {evidence.things}"


def interval_estimate(found: Content) -> Estimate:
    """From {"value", "interval", "n"}, as a sweep writes it."""
    low, high = found["interval"] or (None, None)
    return Estimate(found["value"], low, high, found.get("n"))


def _agreement(evidence: Evidence) -> Iterator[Measure]:
    name = "agreement with the original"
    confirmed = evidence.confirmed
    if confirmed and confirmed["agreement"]:
        found = interval_estimate(confirmed["agreement"])
        yield Measure(name, f"{_held_out(evidence)}, n = {found.n}", "share", None, found)
    audit = evidence.audit
    if audit and audit.get("agreement") is not None:
        n = audit["data"]["images"]
        value = Estimate(audit["agreement"], n=n)
        yield Measure(name, f"audit, no attack, n = {n}", "share", None, value)
    for kind, result in (("harden", evidence.harden), ("verify", evidence.verify)):
        agreement = (result or {}).get("agreement")
        if agreement and agreement["top1"] is not None:
            n = agreement["samples"]
            data = f"{n} calibration samples"
            if kind == "verify" and result and result["data"]:
                data = result["data"]
            yield Measure(
                name,
                f"{kind}, top-1, {data}",
                "share",
                None,
                Estimate(agreement["top1"], n=n),
            )


def latencies(evidence: Evidence) -> Iterator[tuple[str, Content]]:
    """Which result measured it, of which setting, and the ratio."""
    sources = (
        ("audit", None if evidence.audit_of_sweep else evidence.audit),
        (_swept(evidence), evidence.confirmed),
        ("verify", evidence.verify),
        ("harden", evidence.harden),
    )
    for kind, result in sources:
        if result and result.get("latency"):
            yield kind, result["latency"]


def _latency(evidence: Evidence) -> Iterator[Measure]:
    for kind, found in latencies(evidence):
        value = Estimate(found["median"], found["low"], found["high"], found["pairs"])
        yield Measure(
            "latency ratio",
            f"{kind}, median of {found['pairs']} pairs of runs",
            "ratio",
            None,
            value,
        )
