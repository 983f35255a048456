"""One page of what the other commands found: the verdict, then its evidence.

from lipcompile.report import read_report, write_report
report = read_report([Path("audit.json"), Path("harden.json")])
write_report(report, [Path("report.html"), Path("comment.md")])
"""

from __future__ import annotations

from lipcompile.report.report import Report, read_report
from lipcompile.report.write import write_report

__all__ = ["Report", "read_report", "write_report"]
