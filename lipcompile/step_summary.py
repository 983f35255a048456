"""Results as Markdown for the summary of a CI job: the outcome first, then the checks."""

from __future__ import annotations

from collections.abc import Iterator

from lipcompile.findings import Judged, ranked, reason
from lipcompile.markdown_text import escape

_SIGNS = {True: "ok", False: "**FAILED**", None: "-"}


def step_summary(command: str, result: Judged) -> str:
    """A heading with the outcome, the reason, and a table of findings; failed ones first."""
    found = ranked(result)
    failed = sum(finding.holds is False for finding in found)
    why = reason(result)
    if why is not None:
        head = [_heading(command, "FAILED"), "", f"**{escape(why)}**"]
    elif failed:  # a check that no gate rests on
        checks = "check" if failed == 1 else "checks"
        head = [_heading(command, f"done, {failed} {checks} failed")]
    else:
        head = [_heading(command, "passed")]
    rows = [(_SIGNS[f.holds], escape(f.name), escape(f.evidence)) for f in found]
    return "\n".join([*head, "", *_table(rows), "", ""])


def error_summary(command: str, message: str) -> str:
    """One line, for a command that ended without a result."""
    return f"**lipcompile {escape(command)}: error:** {escape(message)}\n\n"


def _heading(command: str, outcome: str) -> str:
    return f"### lipcompile {escape(command)}: {outcome}"


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    yield "| result | check | evidence |"
    yield "|---|---|---|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
