"""lipcompile certify as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lipcompile.certifying.smoothing import journal as journal_module
from lipcompile.certifying.smoothing.counting import CountingModel
from lipcompile.cli import main
from lipcompile.report import read_report
from tests.certifying import small

Run = Callable[..., tuple[int, str, str]]
SMOOTHING = ("--method", "smoothing", "--sigma", "0.1", "--n", "300", "--n0", "50")


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs the command on model.onnx and test.npz in the current folder."""
    monkeypatch.chdir(tmp_path)
    small.fill(tmp_path)

    def call(*arguments: str, model: str = "model.onnx") -> tuple[int, str, str]:
        code = main.run(["certify", model, "--data", "test.npz", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_text_and_progress(run: Run) -> None:
    code, out, err = run("--original", "other.onnx", "--eps", "36/255")
    assert code == 0
    assert out.startswith("model.onnx and other.onnx: 24 images of 'test.npz', l2")
    assert "certified at 0.1412 *" in out
    assert "bounded 'other.onnx'" in err
    assert run("-q")[1:] == ("", "")


def test_result_goes_to_files_that_are_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    targets = {"-o": "c.json", "--csv": "c.csv", "--junit-xml": "c.xml"}
    targets["--step-summary"] = "c.md"
    files = tuple(word for pair in targets.items() for word in pair)
    assert run(*files, "-q", "--eps", "0.1") == (0, "", "")
    content = json.loads((tmp_path / "c.json").read_text())
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [float(row["radius_l2"]) for row in rows] == content["model"]["radii_l2"]
    assert "model: certified at l2 0.1" in (tmp_path / "c.xml").read_text()
    assert "model: certified at l2 0.1" in (tmp_path / "c.md").read_text()
    for flag, name in (("-o", "c.json"), ("--csv", "c.csv")):
        code, _, err = run(flag, name, "-q")
        assert code == 2
        assert f"'{name}' exists" in err
    assert run(*files, "-q", "--force")[0] == 0
    assert "would both be written to 'x'" in run("-o", "x", "--csv", "x")[2]
    report = read_report([tmp_path / "c.json"])
    assert report.heading == "Certificates of model.onnx"


def test_json_is_alone_on_standard_output(run: Run) -> None:
    code, out, err = run("--format", "json", "--no-progress")
    assert (code, err) == (0, "")
    assert json.loads(out)["schema"] == "lipcompile.certify/1"


def test_a_gate_that_fails_is_exit_1_after_the_result(run: Run, tmp_path: Path) -> None:
    gate = ("--eps", "0.2", "--min-certified-accuracy")
    code, out, err = run(*gate, "0.9", "-o", "c.json", "--no-progress")
    assert code == 1
    assert out.startswith("FAILED: certified accuracy is 54.17 %, below --min-certified-acc")
    assert err.startswith("error: certified accuracy is 54.17 %")
    assert json.loads((tmp_path / "c.json").read_text())["failed_gates"] != []
    assert run(*gate, "0.5", "-q")[0] == 0


def test_journal_is_removed_when_the_work_is_done(run: Run, tmp_path: Path) -> None:
    before = names(tmp_path)
    assert run(*SMOOTHING, "--samples", "4", "-q")[0] == 0
    assert names(tmp_path) == before
    assert run(*SMOOTHING, "--samples", "4", "-q", "--journal", "kept")[0] == 0
    assert len(names(tmp_path / "kept")) == 1


def test_ctrl_c_keeps_what_was_counted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SECONDS", 0.0)
    ask = (*SMOOTHING, "--samples", "4", "--format", "json", "--original", "other.onnx")
    whole = json.loads(run(*ask)[1])
    count, runs = CountingModel.count, []

    def stop(self: CountingModel, *given: object) -> object:
        runs.append(1)
        if len(runs) == 11:
            raise KeyboardInterrupt
        return count(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(CountingModel, "count", stop)
        code, out, err = run(*ask)
    assert (code, out) == (130, "")
    assert "run the same command again to go on from there" in err
    assert any(".certify-journal-" in name for name in names(tmp_path))
    again = run(*ask)
    assert again[2].count("image 1 of 4") == 1, "the first model was finished"
    found = json.loads(again[1])
    for role in ("original", "model"):
        assert found[role]["outcomes"] == whole[role]["outcomes"]
    assert not any(".certify-journal-" in name for name in names(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "smoothing"), "smoothing needs the standard deviation of its noise"),
        (
            ("--sigma", "0.2"),
            "--sigma is about smoothing: add --method",
        ),
        (("--alpha", "0.2"), "--alpha is about smoothing"),
        (("--journal", "kept"), "--journal is about smoothing: add --method smoothing"),
        ((*SMOOTHING, "--procedure", "test"), "procedure test asks about a radius: add --eps"),
        (
            (*SMOOTHING, "--procedure", "test", "--eps", "2"),
            "radius = 2 is out of range: it is an l2 radius in pixel units, above 0 and at",
        ),
        (
            (*SMOOTHING, "--procedure", "predict", "--eps", "0.1"),
            "procedure predict names classes and certifies no radius",
        ),
        (
            (*SMOOTHING, "--journal", "test.npz"),
            "folder 'test.npz' cannot be made",
        ),
        ((*SMOOTHING, "--alpha", "0.5"), "alpha = 0.5 is out of range"),
        ((*SMOOTHING, "--sigma", "0"), "sigma = 0 is out of range"),
        (("--eps", "0"), "eps = 0 is out of range: it must be above 0"),
        (("--eps", "lots"), "eps 'lots' is no number: give an l2 radius in pixel units"),
        (("--eps", "1/0"), "eps '1/0' is no number"),
        (
            ("--min-certified-accuracy", "0.3"),
            "about a radius, and none is named: add",
        ),
        (
            ("--eps", "1", "--min-certified-accuracy", "30"),
            "accuracy 30 is out",
        ),
        (("--norm", "linf"), "Invalid value for '--norm'"),
        (("--samples", "x"), "--samples 'x' is no number: give one like 500, or all"),
        (("--samples", "0"), "samples is 0"),
        (("--batch-size", "0"), "--batch-size 0 is out of range"),
        (("--original", "gone.onnx"), "model 'gone.onnx' does not exist"),
        (("--original", "half.onnx"), "cannot be compared on the same images"),
        (("--data", "unlabelled.npy"), "no labels found for 'unlabelled.npy'"),
        (("--data", "gone/"), "no such file or folder"),
    ],
)
def test_one_message_per_mistake(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = names(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert names(tmp_path) == before, "nothing was left behind"


@pytest.mark.parametrize(
    ("model", "node"),
    [("attention.onnx", "Mul_3"), ("qdq.onnx", "QuantizeLinear_3"), ("half.onnx", "Gemm_")],
)
def test_a_model_without_a_bound_is_refused_by_the_name_of_its_node(
    run: Run, model: str, node: str
) -> None:
    code, out, err = run(model=model)
    assert (code, out) == (2, "")
    assert f"error: '{model}' has no Lipschitz bound: node '{node}" in err
    assert "certify --method smoothing" in err
