"""JUnit XML as a CI server reads it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from lipcompile.findings import Finding
from lipcompile.junit import junit, junit_error
from tests.test_findings import BAD, GATE, GOOD, OPEN, Made


def suite_of(content: bytes) -> ET.Element:
    root = ET.fromstring(content)
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


def test_one_case_per_finding_and_failures_first() -> None:
    suite = suite_of(junit("audit", Made((GOOD, OPEN, BAD, GATE), (GATE.evidence,))))
    assert suite.attrib == {
        "name": "lipcompile.audit",
        "tests": "4",
        "failures": "2",
        "errors": "0",
        "skipped": "1",
    }
    assert [case.get("name") for case in suite] == ["--gate", "bad", "good", "open"]
    assert {case.get("classname") for case in suite} == {"lipcompile.audit"}
    states = [(child.tag, child.get("message")) for case in suite for child in case]
    assert states == [
        ("failure", "1 is above --gate 0"),
        ("failure", "0 of 1"),
        ("system-out", None),
        ("skipped", "too few"),
    ]
    assert suite.findtext("testcase/system-out") == "1 of 1"


def test_an_error_is_one_case() -> None:
    suite = suite_of(junit_error("verify", "model 'a' does not exist"))
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("1", "1", "0")
    error = suite.find("testcase/error")
    assert error is not None
    assert error.get("message") == "model 'a' does not exist"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x00b\x1b[31m", r"a\x00b\x1b[31m"),
        ("\ud800 \ufffe \x7f", r"\ud800 \ufffe \x7f"),
        ('<b a="1"> & ]]> \' é 模', '<b a="1"> & ]]> \' é 模'),
        ("two\nlines\ttab", "two\nlines\ttab"),
    ],
)
@pytest.mark.parametrize("holds", [True, False, None])
def test_any_name_can_be_read_again(name: str, shown: str, holds: bool | None) -> None:
    suite = suite_of(junit("audit", Made((Finding(name, holds, name),))))
    assert suite[0].get("name") == shown
    child = suite[0][0]
    assert (child.text if holds else child.get("message")) == shown
    message = suite_of(junit_error("audit", name))[0][0].get("message")
    assert message == shown
