"""A report as a value: the results that it rests on, and what it says in each format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from lipcompile.documents import REPORT, Document, check_one_model, read_document
from lipcompile.errors import DataError
from lipcompile.report.blocks import Section
from lipcompile.report.evidence import Evidence, printable
from lipcompile.report.measures import measures
from lipcompile.report.sections.certificates import certificates
from lipcompile.report.sections.layers import singular_values, suppressed
from lipcompile.report.sections.overview import compared, key_numbers
from lipcompile.report.sections.provenance import notes, provenance
from lipcompile.report.sections.robustness import masking, robustness
from lipcompile.report.sections.running import latency, verification
from lipcompile.report.sections.sweeping import accuracy_over_cr
from lipcompile.report.sections.thresholds import thresholds
from lipcompile.report.shape import check_shape
from lipcompile.report.verdict import Verdict, decide
from lipcompile.version import __version__


@dataclass(frozen=True, slots=True)
class Report:
    """What results of one model say together.

    Attributes:
        documents: One at most of each kind, about one model.
        title: Heading of the page; None names the models.
        evidence: The same, by kind.

    Raises:
        DataError: There is no document, one is damaged, two are of a kind, or they are about
            different models.
    """

    documents: tuple[Document, ...]
    title: str | None = None
    evidence: Evidence = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.documents:
            raise DataError(
                "a report needs a result: give one of harden, audit, sweep, verify or certify"
            )
        for first, second in combinations(self.documents, 2):
            if first.kind == second.kind:
                raise DataError(
                    f"'{first.name}' and '{second.name}' are both results of {first.kind}: "
                    "give one of them, and make a report of its own for the other"
                )
        for document in self.documents:
            check_shape(document)
        check_one_model(list(self.documents))
        object.__setattr__(self, "evidence", Evidence.of(self.documents))

    @property
    def verdict(self) -> Verdict:
        return decide(self.evidence)

    @property
    def heading(self) -> str:
        """The title that was given, or one that names the models."""
        if self.title is not None:
            return str(printable(self.title))
        evidence = self.evidence
        if evidence.certified_alone:
            return f"Certificates of {evidence.certified_alone}"
        if evidence.hardened_name:
            return f"{evidence.hardened_name} against {evidence.original_name}"
        return f"Hardening {evidence.original_name}"

    def sections(self) -> tuple[Section, ...]:
        """What stands below the verdict; parts whose result is missing are left out."""
        evidence = self.evidence
        found = (
            compared(evidence),
            key_numbers(measures(evidence)),
            accuracy_over_cr(evidence),
            suppressed(evidence),
            singular_values(evidence),
            thresholds(evidence),
            robustness(evidence),
            masking(evidence),
            certificates(evidence),
            latency(evidence),
            verification(evidence),
            provenance(evidence),
            notes(evidence),
        )
        return tuple(section for section in found if section is not None)

    def to_json(self) -> dict[str, Any]:
        """The verdict, the key numbers and the documents; see report.schema.json."""
        evidence = self.evidence
        content = {
            "schema": REPORT,
            "version": __version__,
            "title": self.heading,
            "verdict": self.verdict.to_json(),
            "failures": list(evidence.failures),
            "models": {
                "original": evidence.original_name,
                "hardened": evidence.hardened_name,
            },
            "key_numbers": [measure.to_json() for measure in measures(evidence)],
            "notes": list(evidence.disagreements),
            "results": {one.kind: one.content for one in self.documents},
        }
        return {key: _finite(value) for key, value in content.items()}

    def to_markdown(self) -> str:
        """For a pull-request comment: the verdict, the key numbers, the rest folded."""
        from lipcompile.report.markdown import render

        return render(self)

    def to_html(self) -> str:
        """One self-contained page.

        Raises:
            MissingExtraError: jinja2 or matplotlib is not installed.
        """
        from lipcompile.report.page import render

        return render(self)


def read_report(paths: Sequence[Path], title: str | None = None) -> Report:
    """Reads results that harden, audit, sweep, verify and certify wrote.

    Raises:
        DataError: One cannot be read, is no result, or they do not belong together.
    """
    return Report(tuple(map(read_document, paths)), title)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value
