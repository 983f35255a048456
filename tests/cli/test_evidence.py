"""--junit-xml, --step-summary and JSON files: written whatever a command ends with."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from lipcompile import atomic
from lipcompile.cli import evidence as evidence_module
from lipcompile.cli.evidence import Evidence, evidence_flags
from lipcompile.cli.show import format_flag
from lipcompile.errors import GateFailed, LipCompileError, ModelError, SaveError
from lipcompile.findings import Finding
from tests.test_findings import BAD, GATE, GOOD, OPEN, Made

FILES = ("-o", "r.json", "--junit-xml", "j.xml", "--step-summary", "s.md")
PASSING = Made((GOOD, OPEN))
FAILING = Made((GOOD, BAD, GATE), (GATE.evidence,))

Run = Callable[..., str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """A command that ends with what it is given: a result, or an error."""
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(b"\x08\x00\x12")

    def call(ending: Made | BaseException, *arguments: str) -> str:
        @click.command("judge")
        @click.argument("model")
        @click.option("-o", "--output")
        @click.option("--table")
        @click.option("--force", is_flag=True)
        @evidence_flags("judge", elsewhere=("table",))
        @format_flag
        @click.option("-q", "--quiet", is_flag=True)
        def command(
            model: str, evidence: Evidence, format_: str, quiet: bool, **flags: Any
        ) -> None:
            assert set(flags) == {"table", "force"}
            if isinstance(ending, BaseException):
                raise ending
            evidence.conclude(ending, format_, quiet)

        try:
            command.main(["model.onnx", *arguments], standalone_mode=False)
        finally:
            call.out = capsys.readouterr().out  # type: ignore[attr-defined]
        return call.out  # type: ignore[attr-defined,no-any-return]

    return call


def cases(name: str = "j.xml") -> list[tuple[str | None, list[str]]]:
    return [(c.get("name"), [k.tag for k in c]) for c in ET.parse(name).iter("testcase")]


def test_a_result_that_passes(run: Run) -> None:
    out = run(PASSING, *FILES)
    assert out.splitlines()[-2:] == ["wrote 'r.json'", "wrote 'j.xml'"]
    assert "FAILED" not in out
    assert json.loads(Path("r.json").read_text()) == {"outcome": "passed", "schema": "made"}
    assert cases() == [("good", ["system-out"]), ("open", ["skipped"])]
    assert Path("s.md").read_text().startswith("### lipcompile judge: passed\n")


def test_a_failed_gate_is_told_first_everywhere(run: Run) -> None:
    with pytest.raises(GateFailed, match="^1 is above --gate 0$"):
        run(FAILING, *FILES)
    assert run.out.startswith("FAILED: 1 is above --gate 0\n")  # type: ignore[attr-defined]
    document = json.loads(Path("r.json").read_text())
    assert next(iter(document.items())) == ("outcome", "failed: 1 is above --gate 0")
    assert [name for name, _ in cases()] == ["--gate", "bad", "good"]
    assert Path("s.md").read_text().splitlines()[:3] == [
        "### lipcompile judge: FAILED",
        "",
        "**1 is above --gate 0**",
    ]


def test_json_on_standard_output_is_the_file(run: Run) -> None:
    with pytest.raises(GateFailed):
        run(FAILING, "--format", "json", "-o", "r.json")
    assert json.loads(run.out) == json.loads(Path("r.json").read_text())  # type: ignore[attr-defined]


def test_a_failed_check_without_a_gate_stops_nothing(run: Run) -> None:
    assert run(Made((GOOD, BAD)), *FILES).startswith("Made(")
    assert cases() == [("bad", ["failure"]), ("good", ["system-out"])]


def test_quiet_prints_nothing_and_writes_all(run: Run) -> None:
    assert run(PASSING, "-q", *FILES) == ""
    assert {path.name for path in Path().iterdir()} == {
        "model.onnx",
        "r.json",
        "j.xml",
        "s.md",
    }


def test_an_error_is_written_as_well(run: Run) -> None:
    with pytest.raises(ModelError):
        run(ModelError("model 'x' is empty"), *FILES)
    assert cases() == [("outcome", ["error"])]
    assert "**lipcompile judge: error:** model 'x' is empty" in Path("s.md").read_text()
    assert not Path("r.json").exists()


def test_a_defect_is_written_as_well(run: Run) -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError("planted"), *FILES)
    text = "a defect of LipCompile (ZeroDivisionError: planted)"
    assert text in Path("j.xml").read_text()
    assert text in Path("s.md").read_text()


def test_the_first_error_is_the_one_that_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SaveError("the disk is full")

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(ModelError, match="first"):
        run(ModelError("first"), *FILES)


def test_a_result_that_cannot_be_written_is_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SaveError("the disk is full")

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(SaveError):
        run(FAILING, *FILES)
    assert run.out.startswith("FAILED: ")  # type: ignore[attr-defined]
    assert "wrote" not in run.out  # type: ignore[attr-defined]
    assert "gate" in Path("s.md").read_text()


def fail(*_: object) -> None:
    raise SaveError("planted")


@pytest.mark.parametrize("step", ["show_judged", "_append"])
def test_a_late_error_leaves_the_result_in_junit(
    step: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_module, step, fail)
    with pytest.raises(SaveError, match="planted"):
        run(FAILING, *FILES)
    assert [name for name, _ in cases()] == ["--gate", "bad", "good"]
    assert json.loads(Path("r.json").read_text())["outcome"].startswith("failed")


def test_an_error_after_the_result_leaves_it_in_junit(tmp_path: Path) -> None:
    files = Evidence("judge", None, tmp_path / "j.xml", tmp_path / "s.md")

    def judge() -> None:
        with files.recording():
            files.publish(FAILING, "text", True)
            fail()

    with pytest.raises(SaveError, match="planted"):
        judge()
    found = [name for name, _ in cases(str(tmp_path / "j.xml"))]
    assert found == ["--gate", "bad", "good"]
    assert "**lipcompile judge: error:** planted" in (tmp_path / "s.md").read_text()


def test_one_file_that_cannot_be_written_costs_no_other(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = atomic.write_bytes

    def full(path: Path, *chunks: bytes) -> None:
        if path.name == "r.json":
            raise SaveError("'r.json': the disk is full")
        write(path, *chunks)

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(SaveError, match=r"r\.json"):
        run(FAILING, *FILES)
    assert [name for name, _ in cases()] == ["--gate", "bad", "good"]
    out = run.out  # type: ignore[attr-defined]
    assert "wrote 'j.xml'" in out
    assert "r.json" not in out


def test_an_interruption_is_written(run: Run) -> None:
    with pytest.raises(click.Abort):
        run(KeyboardInterrupt(), *FILES)
    assert cases() == [("outcome", ["error"])]
    assert 'message="interrupted"' in Path("j.xml").read_text()
    assert "**lipcompile judge: error:** interrupted" in Path("s.md").read_text()


def test_the_summary_is_appended_to(run: Run) -> None:
    Path("s.md").write_text("before\n")
    run(PASSING, "--step-summary", "s.md")
    run(PASSING, "--step-summary", "s.md")
    text = Path("s.md").read_text()
    assert text.startswith("before\n### lipcompile judge: passed\n")
    assert text.count("### lipcompile judge: passed") == 2


MISTAKES: list[tuple[str, str]] = [
    (
        "--junit-xml taken",
        "output 'taken' exists: pass --force to replace it, or name another ",
    ),
    ("--junit-xml no/j.xml", "folder 'no' does not exist: create it, or change --junit-xml"),
    (
        "--junit-xml model.onnx --force",
        "is the input itself, which is never touched: name anot",
    ),
    ("--junit-xml .", "output '.' is a folder: name a file in it with --junit-xml"),
    ("--step-summary model.onnx", "is the input itself"),
    (
        "--step-summary array.npy",
        "'array.npy' is no text file, and text would be appended to i",
    ),
    ("--step-summary no/s.md", "folder 'no' does not exist: create it, or change --step-summ"),
    ("--step-summary /dev/null", "'/dev/null' is no text file"),
    ("-o taken", "name another with --output"),
    (
        "-o x --junit-xml x",
        "--output and --junit-xml would both be written to 'x': name two f",
    ),
    ("-o x --step-summary ./x", "--output and --step-summary would both be written to 'x'"),
    ("-o m.0123abcd.data", "'m.0123abcd.data' is a name for weights beside a model: name an"),
    ("--table m.0123abcd-2.data", "weights beside a model: name another file with --table"),
    ("--table x --junit-xml x", "--table and --junit-xml would both be written to 'x'"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_file_that_must_not_be_written(line: str, message: str, run: Run) -> None:
    Path("taken").write_text("old")
    Path("array.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    with pytest.raises(LipCompileError, match="(?s).*") as error:
        run(PASSING, *line.split())
    assert error.value.exit_code == 2
    assert message in str(error.value)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_a_taken_result_is_told_in_junit(run: Run) -> None:
    Path("taken").write_text("old")
    with pytest.raises(LipCompileError):
        run(PASSING, "-o", "taken", "--junit-xml", "j.xml")
    assert cases() == [("outcome", ["error"])]


def test_force_replaces_files(run: Run) -> None:
    run(PASSING, *FILES)
    run(Made((Finding("new", True, ""),)), *FILES, "--force")
    assert cases() == [("new", ["system-out"])]


@pytest.mark.parametrize("flag", ["-o", "--table", "--junit-xml", "--step-summary"])
def test_weights_of_a_model_are_never_replaced(
    flag: str, run: Run, tmp_path: Path, external_cnn: Callable[..., Path]
) -> None:
    external_cnn(tmp_path).replace("model.onnx")
    Path("link").symlink_to("net.bin")
    before = Path("net.bin").read_bytes()
    for name in ("net.bin", "link"):
        with pytest.raises(LipCompileError, match=f"'{name}' holds weights of 'model.onnx'"):
            run(PASSING, flag, name, "--force")
    assert Path("net.bin").read_bytes() == before
    Path("other").write_text("")
    run(PASSING, flag, "other", "--force")
