"""lipcompile sweep as a user meets it, on the bundled model."""

from __future__ import annotations

import json
import shlex
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lipcompile.auditing import presets
from lipcompile.cli import long_work, main
from lipcompile.demo import CALIBRATION, MODEL, TEST
from tests.auditing.quick import QUICK

Run = Callable[..., tuple[int, str, str]]
ONE = ("--forms", "hard", "--variants", "forged", "--cr", "2^-6")
ATTACK = ("--eps", "0.1", "--attack-samples", "8", "--max-accuracy-drop", "0.2")
QUIET = ("--no-progress",)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command on the bundled model in an empty current folder."""
    monkeypatch.setitem(presets.PRESETS, "fast", QUICK)
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "model.onnx")

    def call(*arguments: str, data: str = str(TEST), samples: str = "60") -> Any:
        words = ["sweep", "model.onnx", "--calib", str(CALIBRATION), "--samples", "32"]
        words += ["--data", data, "--data-samples", samples, "--threads", "1"]
        code = main.run([*words, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_text_json_and_progress(run: Run) -> None:
    code, out, err = run("--cr", "2^-7,2^-6", "--forms", "hard", "-o", "s.json")
    assert code == 0
    assert out.startswith("model.onnx: 4 settings compared on 30 images of 'test.npz', the")
    assert "verdict: not attacked" in out and out.rstrip().endswith("wrote 's.json'")
    notes = [line.split("  ", 2)[-1] for line in err.splitlines() if "admitted" in line]
    assert [note.partition(":")[0] for note in notes] == [
        *("hard 2^-7", "hard 2^-6", "weight 2^-7", "weight 2^-6")
    ]
    document = json.loads(Path("s.json").read_text())
    assert document["outcome"] == "passed"
    assert document["schema"] == "lipcompile.sweep/1"
    table = [line for line in out.splitlines() if line.startswith("original ")]
    assert len(table) == 1 and "%" in table[0]
    code, out, err = run(*ONE, "--format", "json", *QUIET)
    assert (code, err) == (0, "")
    assert json.loads(out)["chosen"] == "hard 2^-6"
    assert run(*ONE, "-q") == (0, "", "")


@pytest.mark.parametrize(
    "flags",
    [
        ("--forms", "hard", "--variants", "forged", "--cr", "0.0123456789"),
        ("--variants", "weight", "--cr", "2^-3", "--zero-rate", "0.9987654321"),
        (*ONE, "--rule", "all", "--exclude", "fc1", "--exclude", "skip"),
        (*ONE, "--op-types", "conv", "--seed", "3", "--crop-pct", "0.9"),
        (*ONE, "--save-table", "my table.json"),
        (*ONE, "--per-layer", "--save-cr", "cr.toml", "--cr", "2^-7,2^-3"),
    ],
    ids=lambda flags: " ".join(flags[-2:]),
)
def test_the_printed_command_makes_the_saved_model(flags: tuple[str, ...], run: Run) -> None:
    loose = ("--max-accuracy-drop", "1", "--save-model", "chosen.onnx")
    code, out, _ = run(*flags, *loose, *QUIET)
    assert code == 0
    line = next(x for x in out.splitlines() if x.startswith("to make it: "))
    words = shlex.split(line.removeprefix("to make it: "))
    assert words[:3] == ["lipcompile", "harden", "model.onnx"]
    assert main.run([*words[1:], "-q", "-o", "again.onnx"]) == 0
    assert Path("again.onnx").read_bytes() == Path("chosen.onnx").read_bytes()
    assert main.run(["verify", "model.onnx", "chosen.onnx", "-q"]) == 0


def test_an_ensemble_and_its_command(run: Run) -> None:
    flags = ("--variants", "", "--ensembles", "flip", *ATTACK, "--max-accuracy-drop", "1")
    code, out, _ = run(*flags, "-o", "s.json", *QUIET)
    assert code == 0 and "ensemble flip" in out
    (row,) = json.loads(Path("s.json").read_text())["settings"]
    assert row["flags"] == "--ensemble flip"
    assert row["worst_case"]["difference"]["n"] == 8


# A pipeline that is stopped


def test_a_ruined_model_is_stopped_and_the_reason_comes_first(run: Run) -> None:
    """c_r = 2^-2 is far too large."""
    files = ("-o", "r.json", "--junit-xml", "j.xml", "--step-summary", "s.md")
    flags = ("--forms", "hard", "--variants", "forged", "--cr", "2^-2")
    code, out, err = run(*flags, *files, "--save-model", "bad.onnx", *QUIET)
    assert code == 1
    document = json.loads(Path("r.json").read_text())
    (reason,) = document["failed_gates"]
    assert reason.startswith(
        "no setting keeps within the limits; nearest was hard 2^-2: clean"
    )
    assert out.splitlines()[0] == f"FAILED: {reason}"
    assert err == f"error: {reason}\n"
    assert next(iter(document.items())) == ("outcome", f"failed: {reason}")
    case = next(ET.parse("j.xml").iter("testcase"))
    assert [(child.tag, child.get("message")) for child in case] == [("failure", reason)]
    assert reason in Path("s.md").read_text().splitlines()[2]
    assert not Path("bad.onnx").exists()
    assert document["chosen"] is document["command"] is document["confirmed"] is None
    row = next(line for line in out.splitlines() if line.startswith("hard 2^-2"))
    assert "more than --max-accuracy-drop 1.00 %" in row


def test_a_wish_for_robustness_is_a_gate(run: Run) -> None:
    flags = (*ONE, *ATTACK, "--min-robust-accuracy", "0.99", "--save-model", "m.onnx")
    code, out, err = run(*flags, *QUIET)
    assert code == 1
    assert out.startswith("FAILED: ") and err.startswith("error: ")
    assert not Path("m.onnx").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-robust-accuracy", "0.5"), "--min-robust-accuracy needs attacks: add --eps"),
        (("--cr", "2^-9:3"), "c_r = 3 is out of range"),
        (("--cr", "2^-9:0.3"), "--cr '2^-9:0.3' is no range"),
        (("--forms", "smooth,rough"), "form 'rough' is unknown: use smooth, hard, soft"),
        (("--variants", "none"), "variant 'none' is unknown: use forged, weight"),
        (("--unlabelled", "--eps", "0.1"), "--eps attacks labelled images, and the data is"),
        (("--unlabelled", "--labels", "x.csv"), "labels or class names were given"),
        (("--data-samples", "few"), "--data-samples 'few' is no number: give one like 500"),
        (("--data-samples", "0"), "data samples = 0: give 1 or more, or all"),
        (("--data-samples", "1"), "the data has 1 usable sample, and settings are chosen"),
        (("--max-accuracy-drop", "5"), "--max-accuracy-drop 5 is out of range"),
        (("--eps", "2"), "eps"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_wrong_flags_are_one_message(flags: tuple[str, ...], message: str, run: Run) -> None:
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    assert message in err and err.count("error: ") == 1


def test_unlabelled_images(run: Run) -> None:
    folder = {"data": str(CALIBRATION)}
    code, out, err = run(*ONE, **folder)
    assert (code, out) == (2, "")
    assert "or pass --unlabelled to compare with the original's answers instead" in err
    code, out, _ = run(*ONE, "--unlabelled", "--max-accuracy-drop", "0.5", *QUIET, **folder)
    assert code == 0
    assert "samples without labels" in out
    Path("empty").mkdir()
    for flags in ((), ("--unlabelled",)):
        code, out, err = run(*ONE, *flags, data="empty")
        assert (code, out) == (2, "") and "empty" in err


def test_a_hardened_model_is_one_message(run: Run) -> None:
    words = ("harden", "model.onnx", "--calib", str(CALIBRATION), "--samples", "32", "-q")
    assert main.run([*words, "-o", "hard.onnx"]) == 0
    Path("hard.onnx").replace("model.onnx")
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "'model.onnx' is hardened already" in err and err.count("\n") == 1


@pytest.mark.parametrize("flag", ["-o", "--save-model", "--save-table", "--save-cr"])
def test_existing_files_stay(flag: str, run: Run) -> None:
    Path("mine").write_text("mine")
    code, out, err = run(*ONE, flag, "mine")
    assert (code, out) == (2, "")
    assert "'mine' exists" in err
    assert Path("mine").read_text() == "mine"


def test_two_files_of_one_name(run: Run) -> None:
    code, _, err = run(*ONE, "-o", "x.json", "--save-table", "x.json")
    assert code == 2 and "x.json" in err
    assert not Path("x.json").exists()


# Interruptions


def interrupted(run: Run, patch: pytest.MonkeyPatch, *flags: str) -> str:
    """A sweep that Ctrl-C ends during the attacks."""
    told: list[str] = []

    def stop(_: object, text: str) -> None:
        told.append(text)
        if sum("broke" in line for line in told) == 9:
            raise KeyboardInterrupt

    with patch.context() as planted:
        planted.setattr(long_work.Notes, "__call__", stop)
        code, _, err = run(*ONE, *ATTACK, *flags)
    assert code == 130
    return err


def journals() -> list[Path]:
    return sorted(Path().glob("*journal*"))


def untimed(document: Any) -> Any:
    slow = ("seconds", "latency", "notes")  # a note tells of the journal
    if isinstance(document, dict):
        return {k: untimed(v) for k, v in document.items() if k not in slow}
    return [untimed(x) for x in document] if isinstance(document, list) else document


def test_ctrl_c_keeps_a_journal_and_the_same_command_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = interrupted(run, monkeypatch)
    (folder,) = journals()
    assert str(folder) in err and "run the same command again" in err
    entries = {path.name for path in folder.iterdir()}
    assert entries
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    interrupted(run, monkeypatch, "--force", "--save-table", "t.json")  # the same work
    assert journals() == [folder]
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert times.items() <= after.items()  # read, and not made again
    code, _, _ = run(*ONE, *ATTACK, "-o", "again.json", *QUIET)
    assert code == 0 and journals() == []
    code, _, _ = run(*ONE, *ATTACK, "-o", "fresh.json", *QUIET)
    fresh, again = (json.loads(Path(x).read_text()) for x in ("fresh.json", "again.json"))
    assert untimed(fresh) == untimed(again)


def test_a_journal_that_was_named_stays(run: Run) -> None:
    code, _, _ = run(*ONE, *ATTACK, "--journal", "kept", *QUIET)
    assert code == 0
    assert any(Path("kept").iterdir())


def test_without_attacks_there_is_no_journal(run: Run) -> None:
    assert run(*ONE, "-q")[0] == 0
    assert [path.name for path in Path().iterdir()] == ["model.onnx"]
