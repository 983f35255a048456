"""Settings in a file: `lipcompile.toml`, or -c FILE, for every command alike.

A table per command, with the names of its flags and arguments:

    [harden]
    calib = "calib/"
    cr = "2^-7"
    include = ["layer4", "fc"]
"""

from __future__ import annotations

import copy
import difflib
import functools
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from lipcompile import atomic
from lipcompile.cli.config_values import converted, written
from lipcompile.cli.output_files import check_apart, check_kept, check_output
from lipcompile.cli.show import unheard
from lipcompile.cli.toml_files import read_toml, table_text
from lipcompile.errors import OptionError, OutputError

DEFAULT_FILE = "lipcompile.toml"
_FOUND = "lipcompile.config"  # in click's notes about a run: the file that was found by itself
_READ = "lipcompile.config_read"  # the file that was read, found or named
_SAVE = "lipcompile.save_config"
_GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)
_NEVER_SAVED = ("force",)  # what was saved must not replace files by itself
_WRITTEN = re.compile(r"outputs?|save_\w+|junit_xml|step_summary")  # parameters
_SECRET = re.compile(r"://[^/?#]*@")  # user:password@ or token@ in an address


def configured(command: click.Command, commands: tuple[str, ...]) -> click.Command:
    """The command with --config and --save-config; the original is not changed.

    Args:
        command: A command of the command line.
        commands: Names of all commands, which are the tables that a file may have.
    """
    known = copy.copy(command)
    known.params = [*map(_askable, command.params), *_options(commands)]
    assert command.callback is not None
    known.callback = _with_config(command.callback)
    return known


def _askable(param: click.Parameter) -> click.Parameter:
    """click before 8.3 takes "no words" for the value of an argument of any number of words,
    and looks for no default, unless the argument may come from the environment."""
    if param.nargs != -1 or not isinstance(param, click.Argument):
        return param
    param = copy.copy(param)
    param.envvar = "LIPCOMPILE_NO_WORDS"  # nobody sets it
    return param


def _options(commands: tuple[str, ...]) -> list[click.Option]:
    config = click.Option(
        ["-c", "--config"],
        metavar="TOML",
        help=f"Take settings from this file.  [default: {DEFAULT_FILE}, if it is here]",
        expose_value=False,
        is_eager=True,  # before other values are looked for
        callback=functools.partial(_load, commands),
    )
    save = click.Option(
        ["--save-config"],
        metavar="TOML",
        help="Write the settings of this run to this file, and run.",
        expose_value=False,
        callback=_note_saving,
    )
    return [config, save]


def _load(
    commands: tuple[str, ...], ctx: click.Context, _: click.Parameter, value: str | None
) -> None:
    """Makes the settings of a file the defaults of this command."""
    path = Path(value) if value is not None else Path(DEFAULT_FILE)
    if value is None and not path.is_file():
        return
    tables = read_toml(path)
    ctx.meta[_READ] = str(path)
    _check_tables(path, tables, commands)
    command = _name(ctx)
    found = [table for table in tables if table.replace("_", "-") == command]
    if len(found) > 1:
        raise OptionError(f"'{path}' has [{found[0]}] and [{found[1]}]: keep one of the two")
    if not found:
        return
    ctx.default_map = _defaults(ctx, path, found[0], tables[found[0]])
    if value is None:
        ctx.meta[_FOUND] = str(path)


def _name(ctx: click.Context) -> str:
    assert ctx.command.name is not None
    return ctx.command.name


def _check_tables(path: Path, tables: dict[str, Any], commands: tuple[str, ...]) -> None:
    for table, content in tables.items():
        if isinstance(content, list) and all(isinstance(item, dict) for item in content):
            raise OptionError(
                f"'{path}': [[{table}]] is a list of tables, and a command has one: write "
                f"[{table}], once"
            )
        if not isinstance(content, dict):
            raise OptionError(
                f"'{path}': '{table}' stands outside of any table: put it under the name of "
                f"its command, such as [{commands[0]}]"
            )
        if table.replace("_", "-") not in commands:
            raise OptionError(
                f"'{path}': there is no command '{table}': did you mean "
                f"[{_nearest(table, commands)}]?"
            )


def _defaults(
    ctx: click.Context, path: Path, table: str, content: dict[str, Any]
) -> dict[str, Any]:
    """Parameter -> value."""
    known = {key: param for param in ctx.command.params if (key := key_of(param)) is not None}
    found: dict[str, Any] = {}
    for key, value in content.items():
        param = known.get(key.replace("_", "-"))
        if param is None:
            raise OptionError(
                f"'{path}': [{table}] has no key '{key}': did you mean "
                f"'{_nearest(key, known)}'?"
            )
        assert param.name is not None
        if param.name in found:
            raise OptionError(f"'{path}': [{table}] has '{key}' twice: keep one of the two")
        try:
            found[param.name] = converted(ctx, param, value)
        except ValueError as error:
            raise OptionError(f"'{path}': [{table}] {key} = {error}") from error
    return found


def _nearest(name: str, known: Collection[str]) -> str:
    plain = name.lower().replace("_", "-")
    return difflib.get_close_matches(plain, known, n=1, cutoff=0.0)[0]


def key_of(param: click.Parameter) -> str | None:
    """What a parameter is called in a file; None for what no file may set."""
    if isinstance(param, click.Argument):
        return (param.name or "").replace("_", "-")
    name = max(param.opts, key=len).lstrip("-")
    return None if name in ("config", "save-config", "help") else name


def _note_saving(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    ctx.meta[_SAVE] = value


def _with_config(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Says where settings came from and saves them, once all of them are known."""

    @functools.wraps(callback)
    def run(*args: Any, **params: Any) -> Any:
        ctx = click.get_current_context()
        found, target = ctx.meta.get(_FOUND), ctx.meta.get(_SAVE)
        if found is not None and not params.get("quiet", False):
            with unheard():
                click.echo(f"settings of '{found}' are used", err=True)
        _check_files(ctx, target)
        if target is not None:
            _save(ctx, Path(target))
        return callback(*args, **params)

    return run


def _check_files(ctx: click.Context, target: str | None) -> None:
    """Nothing that is written replaces a file that steers this run, --force or not."""
    outputs: list[tuple[str, str]] = []
    inputs: list[str] = []
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        values = value if isinstance(value, tuple) else (value,)
        texts = [text for text in values if isinstance(text, str)]
        if _WRITTEN.fullmatch(param.name or ""):
            outputs += [(param.opts[0], text) for text in texts]
        elif not isinstance(param.type, click.Choice):
            inputs += texts
    read = ctx.meta.get(_READ)
    check_kept(outputs, inputs if read is None else [*inputs, read])
    if target is not None:  # it may be the file that was read: a table is added there
        check_kept([("--save-config", target)], inputs)
        for flag, path in outputs:
            check_apart({flag: path, "--save-config": target})


def _save(ctx: click.Context, path: Path) -> None:
    """Adds what was given to this run, by flags or by a file, as a table."""
    command, earlier = _name(ctx), b""
    check_output("--save-config", path, force=True)
    if path.exists():
        tables = read_toml(path)
        if any(table.replace("_", "-") == command for table in tables):
            raise OutputError(
                f"'{path}' has settings of {command} already: remove its table "
                f"[{command}], or name another file with --save-config"
            )
        earlier = path.read_bytes()
    _check_secrets(ctx)
    settings = {
        key: written(ctx.params[param.name])
        for param in ctx.command.params
        if (key := key_of(param)) is not None and key not in _NEVER_SAVED
        if param.name in ctx.params and ctx.get_parameter_source(param.name) in _GIVEN
    }
    if earlier:
        earlier = earlier.rstrip(b"\r\n") + b"\n\n"
    atomic.write_bytes(path, earlier, table_text(path, command, settings).encode())


def _check_secrets(ctx: click.Context) -> None:
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if isinstance(value, str) and _SECRET.search(value):
            raise OptionError(
                f"{param.opts[-1]} holds a name or password, which --save-config would write "
                "as it is: leave --save-config out, or take the address from the environment "
                "(MLFLOW_TRACKING_URI)"
            )
