"""Where a judged result goes besides standard output, and what it does to the exit code."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from lipcompile import atomic, model_io
from lipcompile.cli.output_files import (
    check_apart,
    check_appendable,
    check_no_weights,
    check_output,
)
from lipcompile.cli.show import show_judged
from lipcompile.errors import GateFailed, LipCompileError, SaveError
from lipcompile.findings import Judged, document_text, reason
from lipcompile.junit import junit, junit_error
from lipcompile.step_summary import error_summary, step_summary

Command = TypeVar("Command", bound=Callable[..., Any])
_MODELS = ("model", "original", "hardened")  # parameters of commands with evidence
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
        wrote: JSON and JUnit that have the result by now: no later error replaces them.
    """

    command: str
    result: Path | None
    junit: Path | None
    summary: Path | None
    wrote: list[Path] = field(default_factory=list)

    def conclude(self, result: Judged, format_: str, quiet: bool) -> None:
        """Writes and shows a result.

        Raises:
            GateFailed: It must stop a pipeline.
        """
        self.publish(result, format_, quiet)
        stop_where_failed(result)

    def publish(self, result: Judged, format_: str, quiet: bool) -> None:
        """Writes a result to all files, and shows it; also one that must stop a pipeline.

        Hours of work are in every file that can be written, and shown, before the first
        error is raised.
        """
        errors: list[Exception] = []
        steps: tuple[Callable[[], None], ...] = (
            lambda: self._write(self.result, lambda: document_text(result).encode()),
            lambda: self._write(self.junit, lambda: junit(self.command, result)),
            lambda: _append(self.summary, lambda: step_summary(self.command, result)),
            lambda: show_judged(result, format_, quiet, self.wrote),
        )
        for step in steps:
            try:
                step()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _write(self, path: Path | None, content: Callable[[], bytes]) -> None:
        if path is not None:
            atomic.write_bytes(path, content())
            self.wrote.append(path)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """An error is written as well, since a CI shows files before it shows output."""
        try:
            yield
        except (GateFailed, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            with contextlib.suppress(LipCompileError):  # the first error is the one to tell
                self._record(_message(error))
            raise

    def _record(self, message: str) -> None:
        if self.junit not in self.wrote:
            self._write(self.junit, lambda: junit_error(self.command, message))
        _append(self.summary, lambda: error_summary(self.command, message))


def _message(error: BaseException) -> str:
    if isinstance(error, LipCompileError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"a defect of LipCompile ({type(error).__name__}: {error})"


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
            files |= {"--junit-xml": junit_xml, "--step-summary": step_summary}
            check_apart(files)
            check_no_weights(files, [flags[key] for key in _MODELS if flags.get(key)])
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


def _append(path: Path | None, text: Callable[[], str]) -> None:
    """In one write, so that what other steps append meanwhile stays whole."""
    if path is None:
        return
    content = text().encode()
    try:
        with path.open("ab", buffering=0) as stream:
            stream.write(content)
    except OSError as error:
        raise SaveError(
            f"'{path}' was not appended to ({error.strerror}): see --step-summary"
        ) from error


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
