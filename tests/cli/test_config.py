"""lipcompile.toml, -c and --save-config: for every command, and one message per mistake."""

from __future__ import annotations

import importlib
import io
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from lipcompile.cli.config import key_of
from lipcompile.cli.main import COMMANDS

Params = dict[str, Any]
Run = Callable[..., tuple[int, str, str]]


def original(name: str) -> click.Command:
    module = importlib.import_module(f"lipcompile.cli.{name.replace('-', '_')}_command")
    assert isinstance(module.command, click.Command)
    return module.command


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Params]:
    """What commands were called with; they do nothing else, in an empty folder."""
    calls: list[Params] = []
    for name in COMMANDS:
        monkeypatch.setattr(original(name), "callback", lambda **params: calls.append(params))
    monkeypatch.chdir(tmp_path)
    return calls


def write(text: str, name: str = "lipcompile.toml") -> None:
    Path(name).write_text(text, encoding="utf-8")


# Round trip


def words(param: click.Parameter) -> Iterator[str]:
    """Something legal for any parameter, with characters that TOML has to escape."""
    if isinstance(param, click.Option):
        if param.is_flag:
            yield param.opts[-1]
            return
        for number in range(2 if param.multiple else 1):
            yield from (param.opts[-1], word(param, number))
    else:
        yield from (word(param, number) for number in range(1 if param.nargs == 1 else 2))


def word(param: click.Parameter, number: int) -> str:
    if isinstance(param.type, click.Choice):
        return str(param.type.choices[-1])
    if isinstance(param.type, type(click.INT)):
        return "3"
    if isinstance(param.type, type(click.FLOAT)):
        return "0.1"
    return f'{param.name} "{number}" \\ é\t\x7f\n'


@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_saved_gives_the_same_run(name: str, seen: list[Params], run: Run) -> None:
    params = [p for p in original(name).params if key_of(p) is not None]
    given = [w for param in params for w in words(param)]
    assert run(name, *given, "--save-config", "a.toml")[0] == 0
    assert run(name, "-c", "a.toml", *(["--force"] if "--force" in given else []))[0] == 0
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(seen[0]) == len(params)
    table = tomllib.loads(Path("a.toml").read_text())[name]
    assert set(table) == {key_of(param) for param in params} - {"force"}


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_not_saved(name: str, seen: list[Params], run: Run) -> None:
    needed = [p for p in original(name).params if p.required]
    given = [w for param in needed for w in words(param)]
    assert run(name, *given, "--save-config", "a.toml")[0] == 0
    table = tomllib.loads(Path("a.toml").read_text())[name]
    assert set(table) == {key_of(param) for param in needed}


# Reading


CONFIG = """
[harden]
model = "model.onnx"
calib = "calib/"
cr = 0.0078125
include = ["layer4", "fc"]
exclude = "stem"
mean = [0.485, 0.456, 0.406]
op_types = ["Conv", "Gemm"]
batch-size = 16
zero-rate = 1
compact = true
rescale = "1/255"

[audit]
eps = 0.03
samples = 500
"""


def test_values_are_written_as_is_natural(seen: list[Params], run: Run) -> None:
    assert run("harden", "default") == (0, "", "")
    write(CONFIG)
    assert run("harden") == (0, "", "settings of 'lipcompile.toml' are used\n")
    defaults, found = seen
    assert {key: value for key, value in found.items() if value != defaults[key]} == {
        "model": "model.onnx",
        "calib": "calib/",
        "cr": "0.0078125",
        "include": ("layer4", "fc"),
        "exclude": ("stem",),
        "mean": "0.485,0.456,0.406",
        "op_types": "Conv,Gemm",
        "batch_size": 16,
        "zero_rate": 1.0,
        "compact": True,
        "rescale": "1/255",
    }


def test_flags_of_the_command_line_win(seen: list[Params], run: Run) -> None:
    write(CONFIG)
    given = ("other.onnx", "--cr", "2^-5", "--include", "x", "-q", "--batch_size", "1")
    assert run("harden", *given) == (0, "", "")
    names = ("model", "cr", "include", "batch_size", "calib")
    assert [seen[0][k] for k in names] == ["other.onnx", "2^-5", ("x",), 1, "calib/"]


def test_a_named_file_takes_the_place_of_the_one_found(seen: list[Params], run: Run) -> None:
    write("[strip]\nhardened = 'a'\noutput = 'x'")
    write("[strip]\nhardened = 'b'", "other.toml")
    assert run("strip", "-c", "other.toml") == (0, "", "")
    assert (seen[0]["hardened"], seen[0]["output"]) == ("b", None)


def test_quiet_may_stand_in_the_file(seen: list[Params], run: Run) -> None:
    write("[harden]\nmodel = 'a'\nquiet = true\ncalib = 'c'")
    assert run("harden") == (0, "", "")


def test_a_file_without_a_table_for_the_command_says_nothing(
    seen: list[Params], run: Run
) -> None:
    write(CONFIG)
    assert run("inspect", "m.onnx") == (0, "", "")


def test_a_byte_order_mark_is_no_mistake(seen: list[Params], run: Run) -> None:
    Path("w.toml").write_bytes(b"\xef\xbb\xbf[strip]\r\nhardened = 'a'\r\n")
    assert run("strip", "-c", "w.toml")[0] == 0
    assert seen[0]["hardened"] == "a"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_both_flags(name: str, run: Run) -> None:
    out = run(name, "--help")[1]
    assert "-c, --config TOML" in out
    assert "--save-config TOML" in out
    own = {opt for param in original(name).params for opt in param.opts}
    assert own & {"-c", "--config", "--save-config"} == set()


# Mistakes: file, command line, what the message says

MISTAKES: list[tuple[str, str, str]] = [
    ("[harden]\ncaib = 1", "harden m", "[harden] has no key 'caib': did you mean 'calib'?"),
    ("[harden]\nbatch_sise = 1", "harden m", "did you mean 'batch-size'?"),
    ("[hardn]\n", "harden m", "there is no command 'hardn': did you mean [harden]?"),
    ("[hardn]\n", "inspect m", "there is no command 'hardn': did you mean [harden]?"),
    ("cr = 1\n", "harden m", "'cr' stands outside of any table: put it under the name of its"),
    ("[harden]\nconfig = 'x'", "harden m", "has no key 'config'"),
    ("[harden]\nsave-config = 'x'", "harden m", "has no key 'save-config'"),
    ("[harden]\nbatch-size = 1\nbatch_size = 2", "harden m", "has 'batch_size' twice"),
    ("[export-triton]\n[export_triton]", "export-triton", "keep one of the two"),
    ("[harden]\nsamples = '5'", "harden m", '[harden] samples = "5" is not a whole number'),
    ("[harden]\nsamples = 5.0", "harden m", "samples = 5.0 is not a whole number"),
    ("[harden]\nsamples = true", "harden m", "samples = true is not a whole number"),
    ("[harden]\ncompact = 1", "harden m", "compact = 1 is not true or false"),
    ("[harden]\ncompact = 'yes'", "harden m", 'compact = "yes" is not true or false'),
    ("[harden]\nzero-rate = '1'", "harden m", 'zero-rate = "1" is not a number'),
    ("[harden]\nzero-rate = [1]", "harden m", "zero-rate = [1] is not a number"),
    ("[harden]\ncr = true", "harden m", "cr = true is not a string or a number"),
    ("[harden]\ncalib = ['a']", "harden m", 'calib = ["a"] is not a string or a number'),
    ("[harden]\ncr = 2020-01-01", "harden m", "cr = 2020-01-01 is not a string or a number"),
    ("[harden]\ninclude = [1]", "harden m", "include = 1 is not a string, or an array of str"),
    ("[harden]\ninclude = {a = 1}", "harden m", 'include = {"a": 1} is not a string, or an'),
    ("[harden]\nmean = [[1]]", "harden m", "mean = [1] is not an array of strings or numbers"),
    ("[harden]\nform = 'softer'", "harden m", "form = \"softer\": 'softer' is not one of"),
    ("[harden]\nform = 1", "harden m", "form = 1: '1' is not one of"),
    (f"[harden]\na = 1{'0' * 400}", "harden m", "is too large"),
    (
        "[harden]\ncr = 2^-7",
        "harden m",
        "'lipcompile.toml' is no TOML (Expected newline or end",
    ),
    (
        "[[harden]]\ncr = 1",
        "harden m",
        "[[harden]] is a list of tables, and a command has one",
    ),
    ("[harden]\nCALIB = 1", "harden m", "has no key 'CALIB': did you mean 'calib'?"),
    (f"a = 1{'0' * 5000}", "harden m", "is no TOML (Exceeds the limit (4300 digits) for"),
    ("[harden\n", "harden m", "(at line 1, column 8)"),
    ("a = " + "[" * 5000, "harden m", "is no TOML ("),
]


@pytest.mark.parametrize(
    ("text", "line", "message"), MISTAKES, ids=[m[2][:50] for m in MISTAKES]
)
def test_a_mistake_in_a_file_is_one_message(
    text: str, line: str, message: str, seen: list[Params], run: Run
) -> None:
    write(text)
    code, out, err = run(*line.split())
    assert (code, out, seen) == (2, "", []), err
    assert message in err
    assert "'lipcompile.toml'" in err
    assert err.count("rror:") == 1
    assert "Traceback" not in err


def test_files_that_cannot_be_read(seen: list[Params], run: Run, tmp_path: Path) -> None:
    Path("latin.toml").write_bytes("[harden]\ncalib = 'é'".encode("latin-1"))
    Path("large.toml").write_bytes(b"#" * (1 << 21))
    for name, message in {
        "gone.toml": "settings 'gone.toml' cannot be read (No such file",
        ".": "'.' is no file: name a TOML file with -c",
        "latin.toml": "'latin.toml' is no TOML: byte 18 is not UTF-8",
        "large.toml": "has 2,097,152 bytes, and holds no settings",
    }.items():
        code, _, err = run("harden", "m", "-c", name)
        assert code == 2
        assert message in err
    assert seen == []


def test_a_folder_of_the_name_is_no_config(seen: list[Params], run: Run) -> None:
    Path("lipcompile.toml").mkdir()
    assert run("inspect", "m.onnx") == (0, "", "")


def test_missing_arguments_are_still_missed(seen: list[Params], run: Run) -> None:
    write("[audit]\neps = 0.1")
    code, _, err = run("audit", "m.onnx")
    assert (code, seen) == (2, [])
    assert "Missing option '--original'" in err


# Saving


def test_other_tables_are_kept(seen: list[Params], run: Run) -> None:
    write("# by hand\n[audit]\neps = 0.03\n\n")
    assert run("strip", "a.onnx", "-o", "b.onnx", "--save-config", "lipcompile.toml")[0] == 0
    assert Path("lipcompile.toml").read_text() == (
        '# by hand\n[audit]\neps = 0.03\n\n[strip]\nhardened = "a.onnx"\noutput = "b.onnx"\n'
    )


def test_settings_of_a_file_are_saved_with_those_of_flags(
    seen: list[Params], run: Run
) -> None:
    write("[harden]\nmodel = 'a'\nform = 'hard'\ncr = 0.5\nforce = true")
    assert run("harden", "--cr", "2^-7", "--save-config", "b.toml")[0] == 0
    saved = tomllib.loads(Path("b.toml").read_text())
    assert saved == {"harden": {"model": "a", "form": "hard", "cr": "2^-7"}}
    assert seen[0]["force"] is True


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "lipcompile.toml",
            "has settings of harden already: remove its table [harden], or name",
        ),
        ("model.onnx", "output 'model.onnx' is the input itself, which is never touched"),
        ("settings.bin", "'settings.bin' is no TOML"),
        ("no/where.toml", "folder 'no' does not exist: create it, or change --save-config"),
        (".", "output '.' is a folder: name a file in it with --save-config"),
    ],
)
def test_what_is_not_saved(target: str, message: str, seen: list[Params], run: Run) -> None:
    write("[harden]\nform = 'hard'")
    for name in ("model.onnx", "settings.bin"):
        Path(name).write_bytes(b"\x08\x08\x12\x00")
    code, _, err = run("harden", "model.onnx", "-q", "--save-config", target)
    assert (code, seen) == (2, [])
    assert message in err
    assert Path("model.onnx").read_bytes() == b"\x08\x08\x12\x00"
    assert Path("lipcompile.toml").read_text() == "[harden]\nform = 'hard'"


def test_a_name_that_is_no_unicode_cannot_be_saved(seen: list[Params], run: Run) -> None:
    code, _, err = run("strip", "caf\udce9.onnx", "--save-config", "a.toml")
    assert (code, seen) == (2, [])
    assert "a name that is no UTF-8 cannot be written to 'a.toml'" in err
    assert not Path("a.toml").exists()


# Files that steer a run

HARDEN, SWEEP = "harden m --calib c", "sweep m --calib c --data d"
STEERING: list[tuple[str, str]] = [
    (f"{HARDEN} --cr-file x --save-table x --force", "--save-table"),
    (f"{HARDEN} --preprocess x -o x --force", "-o"),
    ("calibrate m --calib c --preprocess x -o x --force", "-o"),
    (f"{SWEEP} --classes x --save-table x --force", "--save-table"),
    ("merge a x -o ./x --force", "-o"),
    (f"{HARDEN} -c x --save-result x --force", "--save-result"),
    (f"{HARDEN} -c x --step-summary x", "--step-summary"),
    ("strip m -c x -o x --force", "-o"),
    (f"{HARDEN} --cr-file x --save-config x", "--save-config"),
    ("merge a x -o b --save-config x", "--save-config"),
]


@pytest.mark.parametrize(("line", "flag"), STEERING, ids=[line for line, _ in STEERING])
def test_what_steers_a_run_is_not_replaced(
    line: str, flag: str, seen: list[Params], run: Run
) -> None:
    write("", "x")
    code, _, err = run(*line.split())
    assert (code, seen) == (2, [])
    assert "x' is the input itself, which is never touched: name another file" in err
    assert err.endswith(f"with {flag}\n")
    assert Path("x").read_text() == ""


def test_settings_that_were_found_are_not_replaced(seen: list[Params], run: Run) -> None:
    write("[audit]")
    code, _, err = run("strip", "m", "-o", "lipcompile.toml", "--force")
    assert (code, seen) == (2, [])
    assert "'lipcompile.toml' is the input itself" in err


def test_settings_are_saved_apart_from_results(seen: list[Params], run: Run) -> None:
    line = f"{HARDEN} --save-config y --save-result ./y --force"
    code, _, err = run(*line.split())
    assert (code, seen) == (2, [])
    assert "--save-result and --save-config would both be written to './y'" in err
    assert not Path("y").exists()


def test_words_that_are_files_by_accident_are_no_inputs(seen: list[Params], run: Run) -> None:
    write("", "hard")
    line = f"{HARDEN} --form hard -o hard --force"
    assert run(*line.split()) == (0, "", "")


@pytest.mark.parametrize("user", ["me:secret", "token"])
def test_passwords_are_not_saved(user: str, seen: list[Params], run: Run) -> None:
    address = f"https://{user}@host/x"
    line = ("log-mlflow", "r.json", "--tracking-uri", address)
    code, _, err = run(*line, "--save-config", "a.toml")
    assert (code, seen) == (2, [])
    assert "--tracking-uri holds a name or password" in err
    assert "MLFLOW_TRACKING_URI" in err
    assert user not in err
    assert not Path("a.toml").exists()
    assert run(*line)[0] == 0


@pytest.mark.parametrize("address", ["https://host/a@b", "sqlite:///a@b", "mlruns@2"])
def test_other_addresses_are_saved(address: str, seen: list[Params], run: Run) -> None:
    line = ("log-mlflow", "r.json", "--tracking-uri", address)
    assert run(*line, "--save-config", "a.toml")[0] == 0


def test_nobody_reads_where_settings_came_from(
    seen: list[Params], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    write("[strip]\nhardened = 'a'")
    monkeypatch.setattr(sys, "stderr", Gone())
    assert run("strip")[0] == 0
    assert len(seen) == 1
