"""The documentation against the code: flags, errors, examples, links and paths.

The console blocks of docs/ show what the tool really prints. Here they are run again and
compared, numbers aside; LIPCOMPILE_UPDATE_DOCS=1 writes the new output into the pages. Between
the first and the last lines of an output, "..." stands for any number of lines; at the end of
a line it stands for the rest of the line.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from lipcompile import demo, errors, model_io
from lipcompile.cli.main import COMMANDS, cli, run
from lipcompile.runtime import Session

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PROSE = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [ROOT / "docs" / "commands" / f"{name}.md" for name in COMMANDS]
ERRORS = ROOT / "docs" / "errors.md"
PROGRAMS = [
    README,
    ROOT / "docs" / "python.md",
    ROOT / "docs" / "writing_a_forged_function.md",
]
ASSETS = "lipcompile/demo_assets"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
_MACHINE_PATH = re.compile(r"(?<![\w.}])/(?:work|tmp|root|home)/")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [body for language, body in _BLOCK.findall(text) if language in languages]


# A folder like the reader's


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages assume: model.onnx, calibration_images/, and inputs that go wrong."""
    root = tmp_path_factory.mktemp("reader")
    shutil.copy(demo.MODEL, root / "model.onnx")
    images = sorted(demo.CALIBRATION.glob("*.png"))[:64]
    shards = {"shard_1": images[:32], "shard_2": images[32:], "calibration_images": images}
    for name, chosen in shards.items():
        (root / name).mkdir()
        for image in chosen:
            shutil.copy(image, root / name)
    (root / "external").mkdir()
    model = onnx.load(demo.MODEL)
    options = {"save_as_external_data": True, "location": "model.weights"}
    onnx.save(model, root / "external" / "model.onnx", size_threshold=0, **options)
    stack = np.zeros((4, 1, 28, 28), np.float32)
    stack[2] = 3e38
    np.save(root / "huge.npy", stack)
    np.save(root / "narrow.npy", np.ones((4, 6), np.float32))
    onnx.save(free_width_model(), root / "free_width.onnx")
    return root


def free_width_model() -> onnx.ModelProto:
    """Declares any width, and works for width 8 alone."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    nodes = []
    for i, source in enumerate(("x", "r0", "r1")):
        out = "y" if i == 2 else f"m{i}"
        nodes.append(helper.make_node("MatMul", [source, "w"], [out], f"fc{i}"))
        if i < 2:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
    ends = [helper.make_tensor_value_info(n, 1, ["n", "width"]) for n in "xy"]
    graph = helper.make_graph(nodes, "free_width", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def reader(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the folder, and the current directory."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# (a) Commands and flags


def command_named(name: str) -> click.Command:
    command = importlib.import_module(f"lipcompile.cli.{name}_command").command
    assert isinstance(command, click.Command)
    return command


def options_of(command: click.Command) -> list[click.Option]:
    group = click.Context(cli, **cli.context_settings)
    params = command.get_params(click.Context(command, parent=group))
    return [option for option in params if isinstance(option, click.Option)]


def table_rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def what_an_option_says(option: click.Option) -> set[str]:
    """Its choices and its default, which the row must name."""
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    default = option.default
    stated = isinstance(default, str | int | float) and not option.is_flag
    return {*map(str, choices), *([str(default)] if stated else [])}


def undocumented(command: click.Command, page: str) -> list[str]:
    """Options without a row, and rows that miss a name, a choice or the default."""
    rows = table_rows(page)
    problems = []
    for option in options_of(command):
        label = option.opts[-1]
        row = next((row for row in rows if label in quoted(row[0])), None)
        if row is None:
            problems.append(f"{label} has no row")
            continue
        told = set(re.findall(r"[^\s`,;()]+", " ".join(row)))
        missing = ({*option.opts} - quoted(row[0])) | (what_an_option_says(option) - told)
        problems += [f"{label}: its row misses {word}" for word in sorted(missing)]
    return problems


def invented(command: click.Command, page: str) -> list[str]:
    """Flags that a page's tables give to a command that does not have them."""
    known = {name for option in options_of(command) for name in option.opts}
    listed = {name for row in table_rows(page) for name in quoted(row[0])}
    return sorted(name for name in listed if name.startswith("-") and name not in known)


def unknown_flags(text: str, known: set[str]) -> list[str]:
    """Flags of LipCompile in prose and blocks that no command has."""
    mine = "\n".join(line for line in text.splitlines() if not runs_something_else(line))
    mine = re.sub(r"`(?!-|lipcompile)[a-z]+ [^`]*`", "", mine)  # `pip install --no-deps x`
    return sorted({f for f in _FLAG.findall(mine) if f.replace("_", "-") not in known})


def runs_something_else(line: str) -> bool:
    program = re.match(r"\s*(?:\$ )?(pip|python|python3|pytest|git|ruff|trtexec)\s", line)
    return program is not None


def all_flags() -> set[str]:
    options = [option for name in COMMANDS for option in options_of(command_named(name))]
    return {"--version", *(name for option in options for name in option.opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_page_names_every_option_with_choices_and_default(name: str) -> None:
    page = (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")
    command = command_named(name)
    assert undocumented(command, page) == []
    assert invented(command, page) == []
    assert f"# lipcompile {name}\n" in page


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_every_flag_exists(path: Path) -> None:
    assert unknown_flags(path.read_text(encoding="utf-8"), all_flags()) == []


def test_planted_gaps_in_a_page_are_caught() -> None:
    page = (
        "| flag | meaning | default |\n| `--output` DIR | Where. | none |\n| `--fast` | x | |"
    )
    problems = undocumented(command_named("merge"), page)
    assert "--output: its row misses -o" in problems
    assert "--force has no row" in problems
    assert "--format has no row" in problems
    assert invented(command_named("merge"), page) == ["--fast"]
    row = "| `--rule` RULE | auto or mlp. | auto |"
    assert "--rule: its row misses all" in undocumented(command_named("inspect"), row)


def test_planted_unknown_flags_are_caught() -> None:
    text = "`--quick`\n$ lipcompile harden --on_bad_sample skip --slow\npip install --upgrade"
    known = {"--on-bad-sample"}
    assert unknown_flags(text, known) == ["--quick", "--slow"]
    assert unknown_flags("`pip install --no-deps x`, `--on-bad-sample`", known) == []


# (b) Errors


def error_classes() -> list[type[errors.LipCompileError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.LipCompileError)
    ]


def sections(page: str) -> dict[str, str]:
    """Heading -> what stands below it, for headings that are one name in backticks."""
    parts = re.split(r"^#+ `(\w+)`$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def wrong_exit_codes(page: str) -> list[str]:
    found = sections(page)
    return [
        f"{error.__name__}: expected exit code {error.exit_code}"
        for error in error_classes()
        if f"Exit code {error.exit_code}." not in found.get(error.__name__, "")
    ]


def test_every_error_has_a_section_with_its_exit_code() -> None:
    page = ERRORS.read_text(encoding="utf-8")
    assert wrong_exit_codes(page) == []
    assert set(sections(page)) == {error.__name__ for error in error_classes()}


def test_planted_wrong_exit_code_is_caught() -> None:
    page = ERRORS.read_text(encoding="utf-8").replace("Exit code 3.", "Exit code 2.")
    assert wrong_exit_codes(page) == [
        f"{name}: expected exit code 3"
        for name in ("SetupError", "ProviderError", "MissingExtraError")
    ]
    assert len(wrong_exit_codes("")) == len(error_classes())


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


# What must go wrong from outside for the example of a section.
PLANTED: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "ProviderError": _plant_no_gpu,
    "MissingExtraError": _plant_no_runtime,
    "CheckFailed": _plant_rejected_result,
    "SaveError": _plant_full_disk,
    "Interrupted": _plant_ctrl_c,
}
WITHOUT_EXAMPLE = {"LipCompileError", "GateFailed", "InputError", "SetupError"}


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


# (c) Python


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


# (d) README


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
    fenced = [match.group() for match in _BLOCK.finditer(README.read_text(encoding="utf-8"))]
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


# (e) Links


def anchors(page: str) -> set[str]:
    """GitHub's names of a page's headings."""
    page = _BLOCK.sub("", page)
    titles = re.findall(r"^#+ +(.+?)\s*$", page, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in plain}


def broken_links(path: Path, text: str) -> list[str]:
    """Relative targets of links and images that do not exist."""
    text = _BLOCK.sub("", text)
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"", text)
    broken = []
    for target in (first or second for first, second in targets):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = path if not file else path.parent / file
        found = place.exists()
        if found and anchor:
            found = anchor in anchors(place.read_text(encoding="utf-8"))
        broken += [] if found else [target]
    return broken


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path, path.read_text(encoding="utf-8")) == []


def test_planted_broken_links_are_caught() -> None:
    text = "[x](no.md) [y](#a-b) [z](#c) ![i](no.svg) [w](https://x.org) [m](Makefile)"
    page = ROOT / "README.md"
    assert broken_links(page, text + '<img src="none.png">') == [
        *("no.md", "#a-b", "#c", "no.svg", "none.png")
    ]


# (f) Paths


def machine_paths(text: str) -> list[str]:
    """Lines that name a folder of the machine that they were written on."""
    return [line for line in text.splitlines() if _MACHINE_PATH.search(line)]


def text_files() -> Iterator[Path]:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this is no git checkout, so nothing is tracked")
    for name in done.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            yield path


def test_no_tracked_file_names_a_machine_path() -> None:
    found = {
        name_of(path): lines
        for path in text_files()
        if (lines := machine_paths(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


def test_planted_machine_path_is_caught() -> None:
    for folder in ("work", "tmp", "root", "home"):
        assert machine_paths(f"wrote '/{folder}/x.onnx'")
    assert not machine_paths("https://example.org/home/x and docs/work/x and {base}/tmp/x")
