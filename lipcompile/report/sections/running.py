"""What a model costs, and whether the file is what it says: latency and verification."""

from __future__ import annotations

from lipcompile.report.blocks import Block, Cell, Notice, Prose, Row, Section, Table
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.measures import latencies
from lipcompile.report.wording import ratio


def latency(evidence: Evidence) -> Section | None:
    """The latency ratio that each result measured."""
    found = list(latencies(evidence))
    if not found:
        return None
    rows: list[Row] = [
        (
            kind,
            ratio(one["median"]),
            f"{ratio(one['low'])} to {ratio(one['high'])}",
            str(one["pairs"]),
        )
        for kind, one in found
    ]
    blocks: tuple[Block, ...] = (
        Prose(
            "Latency of the hardened model over the original's, both in ONNX Runtime, taking "
            "turns in one process on one machine; above 1 the hardened model is slower. The "
            "range holds four fifths of the single ratios, and is no confidence interval."
        ),
        Table(
            ("measured by", "median ratio", "10 to 90 % of ratios", "pairs"),
            tuple(rows),
            frozenset({1, 2, 3}),
        ),
    )
    return Section("latency", "Latency", blocks)


def verification(evidence: Evidence) -> Section | None:
    """The checks of `verify`."""
    if evidence.verify is None:
        return None
    result = evidence.verify
    sentence = f"{result['verdict'][:1].upper()}{result['verdict'][1:]}."
    blocks: tuple[Block, ...] = (
        Notice(sentence, "neutral" if result["holds"] else "bad"),
        Table(
            ("result", "check"),
            tuple(_row(check) for check in result["checks"]),
            wide=frozenset({1}),
        ),
    )
    return Section("verification", "Is the file what it says?", blocks)


def _row(check: Content) -> Row:
    what = Cell(check["name"], check["evidence"])
    if check["holds"] is None:
        return "informs", what
    return Cell("ok", tone="good") if check["holds"] else Cell("FAILED", tone="bad"), what
