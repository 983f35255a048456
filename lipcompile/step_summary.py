"""Results as Markdown for the summary of a CI job: the outcome first, then the checks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lipcompile.findings import Judged, ranked, reason

_SIGNS = {True: "ok", False: "**FAILED**", None: "-"}
# Every character that Markdown, GitHub's additions to it or HTML give a meaning to. Names of
# files and layers are not ours, so they appear as text, whatever they hold.
_SPECIAL = {ord(char): f"&#{ord(char)};" for char in "\\`*_[]|<>&~$@"}
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")


def step_summary(command: str, result: Judged) -> str:
    """A heading with the outcome, the reason, and a table of findings; failed ones first."""
    found = ranked(result)
    failed = sum(finding.holds is False for finding in found)
    why = reason(result)
    if why is not None:
        head = [_heading(command, "FAILED"), "", f"**{escaped(why)}**"]
    elif failed:  # a check that no gate rests on
        checks = "check" if failed == 1 else "checks"
        head = [_heading(command, f"done, {failed} {checks} failed")]
    else:
        head = [_heading(command, "passed")]
    rows = [(_SIGNS[f.holds], escaped(f.name), escaped(f.evidence)) for f in found]
    return "\n".join([*head, "", *_table(rows), "", ""])


def error_summary(command: str, message: str) -> str:
    """One line, for a command that ended without a result."""
    return f"**lipcompile {escaped(command)}: error:** {escaped(message)}\n\n"


def escaped(text: str) -> str:
    """The text as Markdown that shows it as it is, on one line."""
    plain = _CONTROL.sub(" ", text).translate(_SPECIAL)
    return plain.replace("://", "&#58;//")  # or GitHub makes a link of it


def _heading(command: str, outcome: str) -> str:
    return f"### lipcompile {escaped(command)}: {outcome}"


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    yield "| result | check | evidence |"
    yield "|---|---|---|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
