"""Results as JUnit XML, which CI servers read: one test case per check and per gate."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from lipcompile.findings import Finding, Judged, ranked
from lipcompile.unprintable import UNPRINTABLE


def junit(command: str, result: Judged) -> bytes:
    """The findings of a result; what failed stands first, and what stops a pipeline before it.

    A check that was not decided is a skipped case. The exit code is about gates alone: an
    audit may end with 0, and have a masking check that failed.
    """
    found = ranked(result)
    suite = _suite(command, found)
    for finding in found:
        _case(suite, finding)
    return _written(suite)


def junit_error(command: str, message: str) -> bytes:
    """One case, for a command that ended without a result."""
    suite = _suite(command, (), errors=1)
    case = ET.SubElement(suite, "testcase", classname=suite.attrib["name"], name="outcome")
    ET.SubElement(case, "error", message=_legal(message))
    return _written(suite)


def _suite(command: str, found: Sequence[Finding], errors: int = 0) -> ET.Element:
    failed = sum(finding.holds is False for finding in found)
    skipped = sum(finding.holds is None for finding in found)
    return ET.Element(
        "testsuite",
        name=f"lipcompile.{command}",
        tests=str(len(found) + errors),
        failures=str(failed),
        errors=str(errors),
        skipped=str(skipped),
    )


def _case(suite: ET.Element, finding: Finding) -> None:
    name, evidence = _legal(finding.name), _legal(finding.evidence)
    case = ET.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name)
    if finding.holds is None:
        ET.SubElement(case, "skipped", message=evidence)
    elif finding.holds:
        ET.SubElement(case, "system-out").text = evidence
    else:
        ET.SubElement(case, "failure", message=evidence)


def _written(suite: ET.Element) -> bytes:
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root, space=" ")
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _legal(text: str) -> str:
    """The text, with what XML cannot hold or show written as in Python: \\x00."""
    return UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)
