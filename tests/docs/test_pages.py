"""What the pages say against the code: flags, errors, links and machine paths."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lipcompile.cli.main import COMMANDS, cli
from tests.docs.pages import (
    BLOCK,
    CONFIGURATION,
    ERRORS,
    PROSE,
    ROOT,
    error_classes,
    name_of,
    sections,
)

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
_MACHINE_PATH = re.compile(r"(?<![\w.}])/(?:work|tmp|root|home)/")


# Commands and flags


def command_named(name: str) -> click.Command:
    stem = name.replace("-", "_")
    command = importlib.import_module(f"lipcompile.cli.{stem}_command").command
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


def names_of(option: click.Option) -> list[str]:
    """Every way to write it: `--resume` and `--no-resume` are one option."""
    return [*option.opts, *option.secondary_opts]


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
        missing = ({*names_of(option)} - quoted(row[0])) | (what_an_option_says(option) - told)
        problems += [f"{label}: its row misses {word}" for word in sorted(missing)]
    return problems


def invented(command: click.Command, page: str) -> list[str]:
    """Flags that a page's tables give to a command that does not have them."""
    known = {name for option in options_of(command) for name in names_of(option)}
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


def common_options() -> list[click.Option]:
    """What every command gets beside its own."""
    own = command_named("merge")
    known = cli.get_command(click.Context(cli), "merge")
    assert known is not None
    return known.params[len(own.params) :]  # type: ignore[return-value]


def all_flags() -> set[str]:
    options = [option for name in COMMANDS for option in options_of(command_named(name))]
    options += common_options()
    return {"--version", *(name for option in options for name in names_of(option))}


@pytest.mark.parametrize("name", COMMANDS)
def test_page_names_every_option_with_choices_and_default(name: str) -> None:
    page = (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")
    command = command_named(name)
    assert undocumented(command, page) == []
    assert invented(command, page) == []
    assert f"# lipcompile {name}\n" in page


def test_common_flags_are_documented_once() -> None:
    page = CONFIGURATION.read_text(encoding="utf-8")
    common = click.Command("common", params=list(common_options()), add_help_option=False)
    assert [option.opts[-1] for option in options_of(common)] == ["--config", "--save-config"]
    assert undocumented(common, page) == []
    assert undocumented(common, page.replace("`--save-config` TOML", "")) != []


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


# Errors


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


# Links


def anchors(page: str) -> set[str]:
    """GitHub's names of a page's headings."""
    page = BLOCK.sub("", page)
    titles = re.findall(r"^#+ +(.+?)\s*$", page, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in plain}


def broken_links(path: Path, text: str) -> list[str]:
    """Relative targets of links and images that do not exist."""
    text = BLOCK.sub("", text)
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


# Paths


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
    assert not machine_paths("https://example.org/home/x and docs/work/x")
    assert not machine_paths("".join(["{base}", "/tmp", "/x"]))


# Operators of the torch view


def listed_operators(page: str) -> set[str]:
    """The names in the paragraph after "The operators:"."""
    paragraph = page.partition("The operators:\n\n")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)`", paragraph))


def test_every_operator_of_the_torch_view_is_listed() -> None:
    from lipcompile.torchview.view import OPERATORS

    page = (ROOT / "docs" / "torchview.md").read_text(encoding="utf-8")
    assert listed_operators(page) == set(OPERATORS)


def test_planted_missing_operator_is_caught() -> None:
    assert listed_operators("`No` The operators:\n\n`Add`,\n`Conv`\n\n`Relu`") == {
        "Add",
        "Conv",
    }
