"""The entry point: finds the command, and turns errors into one message and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from lipcompile.cli.lazy_modules import load_later
from lipcompile.errors import LipCompileError
from lipcompile.unprintable import one_line, shown
from lipcompile.version import __version__

# Name -> one line; each command lives in lipcompile.cli.<name>_command as `command`, and is
# imported when it is asked for, so that --help stays quick.
COMMANDS = {
    "harden": "Harden layers of a model, or average a classifier over views.",
    "calibrate": "Record activation maxima over calibration data.",
    "merge": "Merge calibration tables of one model.",
    "inspect": "List linear layers, and what would be done to them.",
    "verify": "Check that a hardened model is what its provenance says.",
    "strip": "Give back the model as it was before hardening.",
    "sweep": "Find the setting to ship: c_r, form and variant.",
    "audit": "Attack a hardened model and its original, and compare them.",
    "certify": "Prove how far images can be perturbed before the class changes.",
    "report": "Make one page of what the other commands found.",
    "export-triton": "Put a model into a Triton model repository.",
    "log-mlflow": "Log results to MLflow.",
    "demo": "Harden a bundled classifier, and measure it.",
    "doctor": "Check versions, execution providers and extras.",
}
_INTERRUPTED = 130
_INTERNAL = 4


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        stem = cmd_name.replace("-", "_")
        module = importlib.import_module(f"lipcompile.cli.{stem}_command")
        # Not above: it loads what the list of commands has no use for.
        from lipcompile.cli.config import configured

        return configured(module.command, tuple(COMMANDS))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Hardens exported ONNX models against small input perturbations, after training."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    load_later()
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    # What onnx-ir warns of in damaged models ends in an error of ours, told once.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        code: Any = cli.main(
            args=list(arguments) if arguments is not None else None,
            prog_name="lipcompile",
            standalone_mode=False,
        )
    except LipCompileError as error:
        _tell(f"error: {error}")
        return error.exit_code
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        with contextlib.suppress(BrokenPipeError):
            click.echo(shown(told.getvalue()), err=True, nl=False)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _tell("interrupted")
        return _INTERRUPTED
    except SystemExit:
        # click exits with 1 when the reader of --help or --version went away, and 1 is for
        # gates; what commands say goes through `show.unheard`.
        return 0
    except Exception as error:
        if os.environ.get("LIPCOMPILE_DEBUG"):
            raise
        _tell(
            f"error: a defect of LipCompile ({type(error).__name__}: {error}); nothing was "
            "half-written; set LIPCOMPILE_DEBUG=1 for the traceback, and report it"
        )
        return _INTERNAL
    return code if isinstance(code, int) else 0


def _tell(message: str) -> None:
    """Prints to standard error, if anyone still reads it: the exit code is told anyway.

    Messages hold names from files, which may be control sequences of a terminal.
    """
    with contextlib.suppress(BrokenPipeError):
        click.echo(one_line(message), err=True)
