"""lipcompile audit as a user meets it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lipcompile.auditing import presets
from lipcompile.cli import long_work, main
from lipcompile.demo import CALIBRATION, MODEL, TEST, load_test_images
from tests.auditing.quick import QUICK

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hardened") / "hard.onnx"
    words = ("harden", str(MODEL), "--calib", str(CALIBRATION), "--form", "hard", "-q")
    assert main.run([*words, "--samples", "64", "-o", str(path)]) == 0
    return path


@pytest.fixture
def run(
    hardened: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs the command on a copy of the hardened model in the current folder."""
    monkeypatch.setitem(presets.PRESETS, "fast", QUICK)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hard.onnx").write_bytes(hardened.read_bytes())

    def call(*arguments: str) -> tuple[int, str, str]:
        words = ["audit", "hard.onnx", "--original", str(MODEL), "--data", str(TEST)]
        words += ["--eps", "0.1", "--samples", "12"]
        code = main.run([*words, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_text_ends_with_the_verdict_and_progress_names_each_attack(run: Run) -> None:
    code, out, err = run()
    assert code == 0
    assert out.splitlines()[-1].startswith("verdict: ")
    assert "white-box       apgd-ce" in out
    assert "hardened: black-box square broke" in err


def test_json_has_the_verdict_and_nothing_else_is_on_standard_output(run: Run) -> None:
    code, out, err = run("--format", "json", "--no-progress")
    assert (code, err) == (0, "")
    assert json.loads(out)["verdict"] in (
        "improved",
        "no measurable change",
        "worse",
        "masked",
    )


def test_result_goes_to_a_file_and_is_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    code, out, err = run("-o", "audit.json", "-q")
    assert (code, out, err) == (0, "", "")
    first = json.loads((tmp_path / "audit.json").read_text())
    assert first["data"]["images"] == 12
    code, _, err = run("-o", "audit.json", "-q")
    assert code == 2
    assert "'audit.json' exists" in err
    assert run("-o", "audit.json", "-q", "--force", "--seed", "1")[0] == 0
    assert json.loads((tmp_path / "audit.json").read_text())["seed"] == 1


def test_examples_go_to_a_file_of_their_own(run: Run, tmp_path: Path) -> None:
    assert run("-q", "--save-examples", "examples.npz")[0] == 0
    assert (tmp_path / "examples.npz").stat().st_size > 1000
    code, _, err = run("-q", "--save-examples", "x", "-o", "x")
    assert code == 2
    assert "would both be written to 'x'" in err


def test_failed_gate_is_exit_1_after_the_result(run: Run, tmp_path: Path) -> None:
    gates = ("--min-robust-accuracy", "0.999", "-o", "audit.json", "--no-progress")
    code, out, err = run(*gates)
    assert code == 1
    assert "verdict: " in out
    assert err.startswith("error: worst-case accuracy ")
    assert json.loads((tmp_path / "audit.json").read_text())["failed_gates"] != []
    assert run("--min-robust-accuracy", "0.01", "--max-accuracy-drop", "0.5", "-q")[0] == 0


def test_journal_is_removed_when_the_audit_is_done(run: Run, tmp_path: Path) -> None:
    assert run("-q")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["hard.onnx"]


def test_journal_that_was_named_is_kept_and_used(run: Run, tmp_path: Path) -> None:
    assert run("-q", "--journal", "kept")[0] == 0
    assert list((tmp_path / "kept").iterdir())
    assert "of an earlier run were read from the journal" in run("--journal", "kept")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--eps", "8"), 2, "did you mean 8/255?"),
        (("--eps", "lots"), 2, "eps 'lots' is no number"),
        (("--original", "gone.onnx"), 2, "'gone.onnx' does not exist"),
        (("--data", "gone/"), 2, "no such file or folder"),
        (("--min-robust-accuracy", "30"), 2, "--min-robust-accuracy 30 is out of range"),
        (("--norm", "l1"), 2, "'l1' is not one of 'linf', 'l2'"),
        (("--mean", "0.5,0.5"), 2, "mean has 2 values, but color 'L' has 1"),
        (("--labels", "gone.csv"), 2, "gone.csv"),
        (("--samples", "x"), 2, "--samples 'x' is no number: give one like 500, or all"),
        (("--samples", "1.5"), 2, "--samples '1.5' is no number"),
        (("--samples", ""), 2, "--samples '' is no number"),
        (("--samples", "0"), 2, "samples is 0"),
    ],
)
def test_one_message_per_mistake(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["hard.onnx"]


@pytest.mark.parametrize("model", [".", "..", "/", "./", "sub/"])
def test_folder_in_place_of_the_model(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["audit", model, "--original", str(MODEL), "--data", str(TEST), "--eps", "0.1"]
    assert main.run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == captured.err.count("error: ") == 1
    assert "is a folder, and a model is a file: name" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


def few_images(path: Path) -> None:
    images, labels = load_test_images()
    np.savez(path, images=images[:6], labels=labels[:6])


def test_samples_all_takes_all(run: Run, tmp_path: Path) -> None:
    few_images(tmp_path / "six.npz")
    for samples, taken in (("all", 6), ("4", 4), ("100", 6)):
        words = ("--data", "six.npz", "--samples", samples, "--format", "json")
        code, out, _ = run(*words)
        assert code == 0
        assert json.loads(out)["data"]["images"] == taken


@pytest.mark.parametrize("flag", ["-o", "--save-examples"])
@pytest.mark.parametrize("place", ["labels.csv", "./labels.csv", "hard.onnx", "names.txt"])
def test_inputs_are_not_written_over_even_by_force(
    run: Run, tmp_path: Path, flag: str, place: str
) -> None:
    """They may be the only copy; as a result, the same file would be read and replaced."""
    (tmp_path / "labels.csv").write_text("file,label\n0.png,1\n")
    (tmp_path / "names.txt").write_text("a\nb\n")
    before = (tmp_path / place).read_bytes()
    words = ("--labels", "labels.csv", "--classes", "names.txt", flag, place, "--force")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "is the input itself, which is never touched" in err
    assert (tmp_path / place).read_bytes() == before


# Journals beside the model


def journals(folder: Path) -> dict[str, set[str]]:
    return {
        path.name: {entry.name for entry in path.iterdir()}
        for path in folder.iterdir()
        if path.is_dir()
    }


def interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """An audit that Ctrl-C ends after its tenth attack."""
    told: list[str] = []

    def stop(_: object, text: str) -> None:
        told.append(text)
        if len(told) == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(long_work.Notes, "__call__", stop)
        assert run(*arguments)[0] == 130


@pytest.mark.parametrize(
    "other",
    [("--eps", "0.2"), ("--norm", "l2"), ("--seed", "1"), ("--samples", "11")],
    ids=" ".join,
)
def test_audits_with_other_settings_leave_each_others_journals_alone(
    run: Run, tmp_path: Path, other: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch)
    kept = journals(tmp_path)
    assert len(kept) == 1
    assert all(kept.values())
    interrupted(run, monkeypatch, *other)
    assert len(journals(tmp_path)) == 2
    code, out, _ = run(*other)  # goes on, and tidies up behind itself alone
    assert code == 0
    assert "of an earlier run were read from the journal" in out
    assert journals(tmp_path) == kept
    assert "of an earlier run were read from the journal" in run()[1]
    assert journals(tmp_path) == {}


@pytest.mark.parametrize(
    "other",
    [("-o", "audit.json"), ("--format", "json"), ("--save-examples", "x.npz", "--force")],
    ids=" ".join,
)
def test_where_results_go_is_no_matter_of_the_journal(
    run: Run, tmp_path: Path, other: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch)
    code, out, _ = run(*other)
    assert code == 0
    assert "of an earlier run were read from the journal" in out
    assert journals(tmp_path) == {}


# Readers that go away

QUICKLY = """
from lipcompile.auditing import presets
from lipcompile.cli.main import main
from tests.auditing.quick import QUICK

presets.PRESETS["fast"] = QUICK
main()
"""
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def piped(folder: Path, into: str, *arguments: object) -> int:
    """The exit code of a quick audit in a process of its own, with its output in a pipe."""
    words = [sys.executable, "-c", QUICKLY, "audit", *map(str, arguments)]
    script = f"{shlex.join(words)} {into}\nexit ${{PIPESTATUS[0]}}"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    return done.returncode


@needs_bash
@pytest.mark.parametrize(
    ("into", "gate", "code"),
    [
        ("| true", "1", 1),
        ("2>&1 | head -1", "1", 1),
        ("2>&1 | head -1", "0", 0),
        ("--format json --no-progress | true", "0", 0),
    ],
)
def test_reader_that_goes_away_changes_neither_gate_nor_file(
    hardened: Path, tmp_path: Path, into: str, gate: str, code: int
) -> None:
    words = ("--data", TEST, "--eps", "0.1", "--samples", "4", "--threads", "1")
    gates = ("--min-robust-accuracy", gate, "-o", "audit.json")
    # Of 4 images of this model one or more is broken at 0.1.
    assert piped(tmp_path, into, hardened, "--original", MODEL, *words, *gates) == code
    found = json.loads((tmp_path / "audit.json").read_text())
    assert bool(found["failed_gates"]) is (code == 1)
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]
    assert journals(hardened.parent) == {}


@needs_bash
@pytest.mark.parametrize(
    "arguments",
    [
        ("gone.onnx", "--original", MODEL, "--data", TEST, "--eps", "0.1"),
        ("gone.onnx", "--original"),
    ],
    ids=["refused", "misused"],
)
def test_reader_that_goes_away_makes_no_mistake_a_failed_gate(
    tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    assert piped(tmp_path, "2>&1 | true", *arguments) == 2


def test_missing_extra_is_exit_3() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lipcompile.cli.main import run\n"
        "sys.exit(run(['audit', 'x', '--original', 'y', '--data', 'z', '--eps', '0.1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert "the package 'torch'" in done.stderr
    assert 'pip install "lipcompile[audit]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child")
def test_ctrl_c_is_exit_130_and_the_same_command_goes_on(
    hardened: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from lipcompile.cli.main import main; main()"]
    command += ["audit", str(hardened), "--original", str(MODEL), "--data", str(TEST)]
    command += ["--eps", "0.1", "--samples", "8", "--journal", str(tmp_path / "journal")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "original: white-box apgd-ce" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "journal").iterdir()}
    assert kept
    time.sleep(0.01)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "hardened: white-box fgsm" in line:
                break
        process.kill()
    for name, written in kept.items():
        assert (tmp_path / "journal" / name).stat().st_mtime_ns == written
