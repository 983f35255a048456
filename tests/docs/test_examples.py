"""The examples of the pages: console blocks, Python blocks and the README's commands.

The console blocks of docs/ show what the tool really prints. Here they are run again and
compared, numbers aside; LIPCOMPILE_UPDATE_DOCS=1 writes the new output into the pages. Between
the first and the last lines of an output, "..." stands for any number of lines; at the end of
a line it stands for the rest of the line.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lipcompile import demo, errors, model_io
from lipcompile.cli.main import run
from lipcompile.runtime import Session
from tests.docs.pages import (
    BLOCK,
    CONFIGURATION,
    ERRORS,
    PAGES,
    PROGRAMS,
    PROSE,
    README,
    ROOT,
    blocks,
    error_classes,
    name_of,
    sections,
)

ASSETS = "lipcompile/demo_assets"


# Console blocks: run again, and compared


def steps(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the output that the page shows."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def lines_like(shown: list[str], real: list[str]) -> list[str]:
    """`real`, cut where `shown` is cut by "..."."""
    if "..." in shown:
        head, tail = shown.index("..."), len(shown) - shown.index("...") - 1
        if len(real) > head + tail:
            middle = [*real[:head], "...", *real[len(real) - tail :]]
            return [cut_like(*pair) for pair in zip(shown, middle, strict=True)]
    if len(shown) != len(real):
        return real
    return [cut_like(*pair) for pair in zip(shown, real, strict=True)]


def cut_like(shown: str, real: str) -> str:
    cut = shown.removesuffix(" ...")
    return f"{real[: len(cut)]} ..." if cut != shown else real


def without_numbers(lines: list[str]) -> list[str]:
    """Digests, numbers and the width of columns may differ."""
    text = "\n".join(lines)
    text = re.sub(r"sha256:[0-9a-f]+|\b[0-9a-f]{8,}\b|\b[\d.,]*\d\b(?:e-?\d+)?", "#", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]


def execute(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    words = shlex.split(command)
    assert words[0] == "lipcompile", f"'{command}' cannot be tested"
    capsys.readouterr()
    code = run(words[1:])
    captured = capsys.readouterr()
    text = (captured.err + captured.out).replace(str(demo.ASSETS), f".../{ASSETS}")
    return code, text.rstrip("\n").splitlines()


def check_block(page: Path, block: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command but the last one exits with 0, and the last one with `code`."""
    commands = steps(block)
    fresh = block
    for index, (command, shown) in enumerate(commands):
        got, real = execute(command, capsys)
        expected = code if index == len(commands) - 1 else 0
        assert got == expected, f"'{command}' exits with {got}: {real}"
        cut = lines_like(shown, real)
        if os.environ.get("LIPCOMPILE_UPDATE_DOCS"):
            old, new = ("\n".join([f"$ {command}", *x, ""]) for x in (shown, cut))
            fresh = fresh.replace(old, new, 1)
        elif command != "lipcompile doctor":  # what it prints is about the machine
            assert without_numbers(cut) == without_numbers(shown), command
    if fresh != block:
        text = page.read_text(encoding="utf-8")
        assert text.count(block) == 1, f"two blocks of {page.name} are the same:\n{block}"
        page.write_text(text.replace(block, fresh, 1), encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_print_what_their_page_shows(
    path: Path, reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(path.read_text(encoding="utf-8"), "console")
    assert found
    for block in found:
        check_block(path, block, 0, capsys)


def test_settings_do_what_their_page_shows(
    reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the two files that the page shows, in the folder of its reader."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    files = dict(
        zip(("lipcompile.toml", "misspelled.toml"), blocks(text, "toml"), strict=True)
    )
    for name, content in files.items():
        (reader / name).write_text(content)
    found = blocks(text, "console")
    assert len(found) == 3
    for block in found:
        wrong = "misspelled" in block
        check_block(CONFIGURATION, block, errors.OptionError.exit_code if wrong else 0, capsys)


def _stop(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _plant_full_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "fsync", _stop)


def _plant_no_gpu(patch: pytest.MonkeyPatch) -> None:
    names = ["AzureExecutionProvider", "CPUExecutionProvider"]
    patch.setattr(onnxruntime, "get_available_providers", lambda: names)


def _plant_no_runtime(patch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> types.ModuleType:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'")
        return real(name, package)

    patch.setattr(importlib, "import_module", load)
    patch.setattr("lipcompile.runtime.package_version", lambda name: None)


def _plant_rejected_result(patch: pytest.MonkeyPatch) -> None:
    verdicts = iter([True, False])
    patch.setattr(model_io, "passes_checker", lambda proto: next(verdicts))


def _plant_ctrl_c(patch: pytest.MonkeyPatch) -> None:
    real, runs = Session.run, iter(range(100))

    def interrupted(self: Session, *given: object) -> dict[str, np.ndarray]:
        if next(runs) == 2:
            raise KeyboardInterrupt
        return real(self, *given)  # type: ignore[arg-type]

    patch.setattr(Session, "run", interrupted)


def _plant_little_memory(patch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def run(self, *_: object) -> None:
            what = "Failed to allocate memory for requested buffer of size 1073741824"
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {what}")

    real = Session.run

    def run(self: Session, *given: object) -> dict[str, np.ndarray]:
        self._native = Refusing()
        return real(self, *given)  # type: ignore[arg-type]

    patch.setattr(Session, "run", run)


# What must go wrong from outside for the example of a section.
PLANTED: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "ProviderError": _plant_no_gpu,
    "MissingExtraError": _plant_no_runtime,
    "OutOfMemory": _plant_little_memory,
    "CheckFailed": _plant_rejected_result,
    "SaveError": _plant_full_disk,
    "Interrupted": _plant_ctrl_c,
}
WITHOUT_EXAMPLE = {"LipCompileError", "InputError", "SetupError"}


@pytest.mark.parametrize("name", [error.__name__ for error in error_classes()])
def test_errors_print_what_their_section_shows(
    name: str,
    reader: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = blocks(sections(ERRORS.read_text(encoding="utf-8"))[name], "console")
    assert bool(found) != (name in WITHOUT_EXAMPLE)
    PLANTED.get(name, lambda patch: None)(monkeypatch)
    for block in found:
        check_block(ERRORS, block, getattr(errors, name).exit_code, capsys)


def test_planted_stale_output_is_caught(
    reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LIPCOMPILE_UPDATE_DOCS", raising=False)
    command = "$ lipcompile inspect model.onnx"
    check_block(ERRORS, f"{command}\nmodel.onnx: opset 18, ...\n...\n", 0, capsys)
    with pytest.raises(AssertionError, match="inspect model"):
        check_block(ERRORS, f"{command}\nmodel: opset 17, ...\n...\n", 0, capsys)
    with pytest.raises(AssertionError, match="exits with 0"):
        check_block(ERRORS, f"{command}\n...\n", 2, capsys)
    with pytest.raises(AssertionError, match="inspect model"):
        check_block(ERRORS, f"{command}\nthe only line\n", 0, capsys)


# Python


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_python_blocks_run_from_top_to_bottom(
    path: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(path.read_text(encoding="utf-8"), "python")
    assert found
    run_blocks(path.name, found, monkeypatch)


def run_blocks(name: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs blocks as one module, which `dataclasses` wants to find in sys.modules."""
    module = types.ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, "docs_example", module)
    for index, block in enumerate(found):
        exec(compile(block, f"{name} block {index}", "exec", dont_inherit=True), vars(module))


def test_planted_python_failure_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError):
        run_blocks("planted", blocks(text, "python"), monkeypatch)
    run_blocks("fine", blocks(text.replace("2", "1"), "python"), monkeypatch)


# README


def shell_lines(text: str) -> list[str]:
    """Commands in the console and sh blocks, with continued lines joined."""
    bodies = blocks(text, "console", "sh", "bash", "shell")
    lines = [x for body in bodies for x in body.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ").strip() for line in lines]


def commands_in(text: str) -> list[str]:
    return [line for line in shell_lines(text) if re.match(r"lipcompile(\s|$)", line)]


def missing_targets(text: str, makefile: str) -> list[str]:
    """Targets that the text's `make` lines name and the Makefile does not have."""
    known = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    lines = [x.partition("#")[0].split() for x in shell_lines(text) if x.startswith("make")]
    named = [word for words in lines for word in words[1:] if words[0] == "make"]
    return [word for word in named if "=" not in word and word not in known | {"-n", "2"}]


def readme_blocks() -> list[str]:
    """Its shell blocks that hold commands of LipCompile; each starts in a fresh folder."""
    fenced = [match.group() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))]
    return [block for block in fenced if commands_in(block)]


@pytest.mark.parametrize("block", readme_blocks())
def test_readme_commands_run(block: str, reader: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands_in(block):
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_make_targets_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert missing_targets(path.read_text(encoding="utf-8"), makefile) == []


def test_planted_make_target_is_caught_and_commands_are_found() -> None:
    text = "```sh\nmake demo  # run it\nmake moon\n$ lipcompile inspect \\\n  m.onnx\nls\n```"
    assert missing_targets(text, "demo: x\n\techo\n") == ["moon"]
    assert [line.split() for line in commands_in(text)] == [
        ["lipcompile", "inspect", "m.onnx"]
    ]
