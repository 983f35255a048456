"""Writes a report to files, each in the format that its suffix names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lipcompile import atomic, model_io
from lipcompile.errors import OptionError
from lipcompile.extras import require_extra
from lipcompile.report.report import Report

FORMATS: Mapping[str, Callable[[Report], str]] = {
    ".html": Report.to_html,
    ".md": Report.to_markdown,
    ".json": lambda report: json.dumps(report.to_json(), indent=1) + "\n",
}


def check_outputs(
    outputs: Sequence[Path], *, force: bool = False, inputs: Sequence[Path] = ()
) -> None:
    """Refuses what cannot be written, before any work.

    Raises:
        OptionError: A suffix that names no format, or one file twice.
        OutputError: A file exists without `force`, is an input, or cannot be written.
        MissingExtraError: HTML is asked for without the packages that draw it.
    """
    for path in outputs:
        if path.suffix.lower() not in FORMATS:
            raise OptionError(
                f"'{path}' does not say which format it is to have: end its name in .html, "
                ".md or .json"
            )
        model_io.check_output(path, force, tuple(inputs))
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise OptionError("-o names one file twice: give every format a file of its own")
    if any(path.suffix.lower() == ".html" for path in outputs):
        require_extra("report", "jinja2", "matplotlib", "scipy")


def write_report(
    report: Report,
    outputs: Sequence[Path],
    *,
    force: bool = False,
    inputs: Sequence[Path] = (),
) -> None:
    """Writes a report as .html, .md or .json: all of them, or none where one cannot be made.

    Args:
        report: What to write.
        outputs: Files; the suffix names the format.
        force: Replace existing files.
        inputs: Files that must not be overwritten even then.

    Raises:
        OptionError, OutputError, MissingExtraError: As `check_outputs`.
        SaveError: Writing failed; an old file is still whole.
    """
    check_outputs(outputs, force=force, inputs=inputs)
    texts = [FORMATS[path.suffix.lower()](report) for path in outputs]
    for path, text in zip(outputs, texts, strict=True):
        atomic.write_bytes(path, text.encode())
