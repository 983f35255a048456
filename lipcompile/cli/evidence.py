"""Where a judged result goes besides standard output, and what it does to the exit code."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from lipcompile import atomic, model_io
from lipcompile.cli.output_files import check_apart, check_appendable, check_output
from lipcompile.cli.show import show_judged, unheard
from lipcompile.errors import GateFailed, LipCompileError, SaveError
from lipcompile.findings import Judged, document, reason
from lipcompile.junit import junit, junit_error
from lipcompile.step_summary import error_summary, step_summary

Command = TypeVar("Command", bound=Callable[..., Any])
_JUNIT = click.option(
    "--junit-xml",
    metavar="FILE",
    help="Write a test case per check and per gate to this file, for a CI server.",
)
_SUMMARY = click.option(
    "--step-summary",
    metavar="FILE",
    help='Append Markdown to this file; for GitHub "$GITHUB_STEP_SUMMARY".',
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The files of one command.

    Attributes:
        command: Its name.
        result: JSON.
        junit: JUnit XML.
        summary: Markdown, which is appended to.
    """

    command: str
    result: Path | None
    junit: Path | None
    summary: Path | None

    def conclude(self, result: Judged, format_: str, quiet: bool) -> None:
        """Writes and shows a result.

        Raises:
            GateFailed: It must stop a pipeline.
        """
        self.publish(result, format_, quiet)
        stop_where_failed(result)

    def publish(self, result: Judged, format_: str, quiet: bool) -> None:
        """Writes a result to all files, and shows it; also one that must stop a pipeline."""
        try:
            if self.result is not None:
                content = json.dumps(document(result), indent=1).encode()
                atomic.write_bytes(self.result, content)
            if self.junit is not None:
                atomic.write_bytes(self.junit, junit(self.command, result))
            if self.summary is not None:
                _append(self.summary, step_summary(self.command, result))
        finally:  # hours of work are shown even where they cannot be written
            with unheard():
                show_judged(result, format_, quiet, (self.result, self.junit))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """An error is written as well, since a CI shows files before it shows output."""
        try:
            yield
        except (GateFailed, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            with contextlib.suppress(LipCompileError):  # the first error is the one to tell
                self._record(error)
            raise

    def _record(self, error: Exception) -> None:
        message = str(error)
        if not isinstance(error, LipCompileError):
            message = f"a defect of LipCompile ({type(error).__name__}: {error})"
        if self.junit is not None:
            atomic.write_bytes(self.junit, junit_error(self.command, message))
        if self.summary is not None:
            _append(self.summary, error_summary(self.command, message))


def stop_where_failed(result: Judged) -> None:
    """Ends with exit code 1 where a gate, or a check that stops a pipeline, does not hold.

    Raises:
        GateFailed: It does not.
    """
    why = reason(result)
    if why is not None:
        raise GateFailed(why)


def evidence_flags(
    name: str, outputs: tuple[str, ...] = ("output",), elsewhere: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """--junit-xml --step-summary; the command gets an `evidence` to conclude with.

    The command needs a flag --force. An error ends up in the files as well.

    Args:
        name: Of the command.
        outputs: Its parameters that name files to write. The first one names the JSON, and is
            not handed to the command.
        elsewhere: More of them, which the command checks by itself.
    """

    def decorate(command: Command) -> Command:
        @_JUNIT
        @_SUMMARY
        @functools.wraps(command)
        def run(*, junit_xml: str | None, step_summary: str | None, **flags: Any) -> Any:
            given = {key: flags[key] for key in (*outputs, *elsewhere)}
            inputs = _inputs(flags, given)
            files = {_flag(key): path for key, path in given.items()}
            check_apart(files | {"--junit-xml": junit_xml, "--step-summary": step_summary})
            force = bool(flags["force"])
            if junit_xml is not None:
                check_output("--junit-xml", Path(junit_xml), force, inputs)
            if step_summary is not None:
                check_appendable("--step-summary", Path(step_summary), inputs)
            target = flags.pop(outputs[0])
            evidence = Evidence(name, _path(target), _path(junit_xml), _path(step_summary))
            with evidence.recording():
                for key in outputs:
                    if given[key] is not None:
                        check_output(_flag(key), Path(given[key]), force, inputs)
                return command(**flags, evidence=evidence)

        return run  # type: ignore[return-value]

    return decorate


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def _inputs(flags: Mapping[str, Any], outputs: Mapping[str, Any]) -> tuple[Path, ...]:
    """Whatever may be a file that the command reads."""
    return model_io.paths_among(*(v for key, v in flags.items() if key not in outputs))


def _append(path: Path, text: str) -> None:
    """In one write, so that what other steps append meanwhile stays whole."""
    try:
        with path.open("ab", buffering=0) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise SaveError(
            f"'{path}' was not appended to ({error.strerror}): see --step-summary"
        ) from error


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
