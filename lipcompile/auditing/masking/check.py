"""One masking check: what was looked at, and what it showed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Source = Literal["paper", "autoattack", "ours"]

# A comparison of two attacks fails beyond noise: significant at this level, and by at least
# this share of the images. About ten comparisons are made per audit.
LEVEL = 0.001
LEAST_SHARE = 0.01
LEAST_IMAGES = 10  # below it no comparison can be significant


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: In words: what should hold.
        source: Who asks for it: "paper" (arXiv 2406.19622), "autoattack" or "ours".
        passed: Whether it holds; None where it could not be looked at.
        evidence: The numbers, in words.
    """

    name: str
    source: Source
    passed: bool | None
    evidence: str

    @property
    def failed(self) -> bool:
        return self.passed is False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> tuple[str, str, str]:
        """Mark, name and evidence, for a table."""
        mark = {True: "pass", False: "FAIL", None: "-"}[self.passed]
        return mark, self.name, self.evidence
