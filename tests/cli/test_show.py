"""Output that nobody reads, or that cannot be written."""

from __future__ import annotations

import errno
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lipcompile.cli import show as module
from lipcompile.cli.show import progress, show, show_judged
from lipcompile.errors import SaveError
from tests.test_findings import GATE, Made


class Closed(io.StringIO):
    """A stream that fails with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, _: str) -> int:
        raise OSError(self.number, "planted")


def test_progress_that_nobody_reads_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", Closed(errno.EPIPE))
    with progress("reading", True) as update:
        assert update is not None
        update(1, 2)


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_result_that_nobody_reads(format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed(errno.EPIPE))
    show(Made(), format_, False)
    show_judged(Made(), format_, False)


def test_a_result_that_cannot_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed(errno.ENOSPC))
    with pytest.raises(SaveError, match="the work is done, but its result could not be print"):
        show(Made(), "text", False)


def test_the_reason_is_first(capsys: pytest.CaptureFixture[str]) -> None:
    failed: Any = Made((GATE,), (GATE.evidence,))
    show_judged(failed, "text", False, [Path("a")])
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("FAILED: 1 is above --gate 0", "wrote 'a'")
    show_judged(failed, "json", False, [Path("a")])
    assert next(iter(json.loads(capsys.readouterr().out))) == "outcome"
