"""lipcompile report on the command line: files, exit codes, one message per mistake."""

from __future__ import annotations

import builtins
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lipcompile.report import read_report
from tests.report import documents as made

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A result of each kind, and results that go wrong."""
    made.save(tmp_path, *made.everything())
    other = made.audit() | {"schema": "lipcompile.audit/7"}
    (tmp_path / "newer.json").write_text(json.dumps(other))
    (tmp_path / "again.json").write_text(json.dumps(made.audit()))
    foreign = made.verify() | {"source": "sha256:" + "9e" * 32}
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    (tmp_path / "cut.json").write_text(json.dumps(made.audit())[:500])
    (tmp_path / "bare.json").write_text('{"schema": "lipcompile.audit/1", "version": "0.1.0"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ("harden.json", "sweep.json", "audit.json", "verify.json", "certify.json")


def test_without_output_markdown_is_printed(folder: Path, run: Run) -> None:
    code, out, err = run("report", *ALL)
    assert (code, err) == (0, "")
    assert out == read_report([Path(name) for name in ALL]).to_markdown()
    assert out.startswith(
        "## net.hardened.onnx against net.onnx\n\n### Verdict: no measurable"
    )


def test_every_format_is_written_at_once(folder: Path, run: Run) -> None:
    files = ("a.html", "a.md", "a.json")
    outputs = [word for name in files for word in ("-o", name)]
    code, out, err = run("report", *ALL, *outputs, "--title", "A <title>")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        *(f"wrote '{name}'" for name in files),
        "verdict: no measurable change",
    ]
    assert "<h1>A &lt;title&gt;</h1>" in (folder / "a.html").read_text()
    assert (folder / "a.md").read_text().startswith("## A &lt;title&gt;\n")
    assert json.loads((folder / "a.json").read_text())["title"] == "A <title>"


@pytest.mark.parametrize("name", ALL)
def test_each_result_makes_a_report_alone(name: str, folder: Path, run: Run) -> None:
    code, out, err = run("report", name, "-o", "a.html", "-o", "a.md")
    assert (code, err) == (0, "")
    assert "verdict: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json",), "'none.json' cannot be read (No such file or directory)"),
        (("cut.json",), "'cut.json' is no JSON"),
        (("bare.json",), "'bare.json' is no complete result of audit: 'verdict' is missing"),
        (("newer.json",), "has the layout 'lipcompile.audit/7'"),
        (("audit.json", "again.json"), "'audit.json' and 'again.json' are both results of"),
        (("audit.json", "foreign.json"), "are about different original models"),
        (("audit.json", "-o", "a.pdf"), "'a.pdf' does not say which format it is to have"),
        (("audit.json", "-o", "audit.json", "--force"), "'audit.json' is the input itself"),
        (("audit.json", "-o", "again.json"), "'again.json' exists: pass --force"),
        (("audit.json", "-o", "a.md", "-o", "a.md"), "-o names one file twice"),
        (("audit.json", "-o", "out/a.md"), "folder 'out' does not exist"),
    ],
)
def test_mistakes_end_with_one_message(
    arguments: tuple[str, ...], message: str, folder: Path, run: Run
) -> None:
    before = sorted(folder.iterdir())
    code, out, err = run("report", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_result_is_required(run: Run) -> None:
    code, _, err = run("report")
    assert code == 2
    assert "Missing argument 'RESULT...'" in err


def test_only_html_needs_the_extra(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, plain = importlib.import_module, builtins.__import__
    missing = ("jinja2", "matplotlib", "scipy", "markupsafe")

    def refuse(name: str) -> None:
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named '{name}'")

    def load(name: str, package: str | None = None) -> ModuleType:
        refuse(name)
        return real(name, package)

    def load_plainly(name: str, *given: object, **named: object) -> ModuleType:
        refuse(name)
        return plain(name, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib, "import_module", load)
    monkeypatch.setattr(builtins, "__import__", load_plainly)
    assert run("report", *ALL, "-o", "a.md", "-o", "a.json")[0] == 0
    code, out, err = run("report", *ALL, "-o", "b.md", "-o", "b.html")
    assert (code, out) == (3, "")
    assert "package 'jinja2'" in err
    assert 'pip install "lipcompile[report]"' in err
    assert not (folder / "b.md").exists()
