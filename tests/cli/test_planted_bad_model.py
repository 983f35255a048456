"""A model that hardening ruined (c_r = 2^-2) is stopped, and the reason comes first."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from lipcompile.auditing import presets
from lipcompile.cli import main
from lipcompile.demo import CALIBRATION, MODEL, TEST
from tests.auditing.quick import QUICK

Run = Callable[..., tuple[int, str, str]]

HARDEN = ("harden", str(MODEL), "--calib", str(CALIBRATION), "--samples", "64")
FILES = ("--junit-xml", "j.xml", "--step-summary", "s.md", "--no-progress")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.setitem(presets.PRESETS, "fast", QUICK)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def told_first(out: str, err: str) -> list[str]:
    """The failed gates, which come first in text, JSON, JUnit, Markdown and the error."""
    document = json.loads(Path("r.json").read_text())
    gates: list[str] = document["failed_gates"]
    reason = "; ".join(gates)
    assert out.splitlines()[0] == f"FAILED: {reason}"
    assert err == f"error: {reason}\n"
    assert next(iter(document.items())) == ("outcome", f"failed: {reason}")
    case = next(ET.parse("j.xml").iter("testcase"))
    assert [(child.tag, child.get("message")) for child in case] == [("failure", gates[0])]
    assert Path("s.md").read_text().splitlines()[2] == f"**{reason}**"
    return gates


def test_harden_writes_no_model(run: Run, tmp_path: Path) -> None:
    flags = ("--cr", "2^-2", "--min-agreement", "0.95", "-o", "bad.onnx", *FILES)
    code, out, err = run(*HARDEN, *flags, "--save-result", "r.json", "--save-table", "t.json")
    assert code == 1
    (gate,) = told_first(out, err)
    assert gate.startswith("top-1 agreement is ")
    assert gate.endswith(" %, below --min-agreement 95.00 %")
    assert "no model was written, since a gate does not hold" in out
    assert {path.name for path in tmp_path.iterdir()} == {"j.xml", "s.md", "r.json", "t.json"}
    document = json.loads(Path("r.json").read_text())
    assert (document["output"], document["files"], document["digest"]) == (None, [], None)


def test_audit_stops_it(run: Run) -> None:
    assert run(*HARDEN, "--cr", "2^-2", "-o", "bad.onnx", "-q")[0] == 0
    words = ("audit", "bad.onnx", "--original", str(MODEL), "--data", str(TEST))
    flags = ("--eps", "0.02", "--samples", "24", "--max-accuracy-drop", "0.02", *FILES)
    code, out, err = run(*words, *flags, "-o", "r.json")
    assert code == 1
    gates = told_first(out, err)
    assert gates[0].startswith("clean accuracy fell by ")
    assert gates[0].endswith(" %, more than --max-accuracy-drop 2.00 %")


def test_a_good_model_passes(run: Run) -> None:
    flags = ("--cr", "2^-9", "--min-agreement", "0.95", "--max-latency-ratio", "1000")
    code, out, err = run(*HARDEN, *flags, "-o", "good.onnx", *FILES, "--save-result", "r.json")
    assert (code, err) == (0, "")
    assert out.startswith("fashion_mnist_adv.onnx: ")
    document = json.loads(Path("r.json").read_text())
    assert (document["outcome"], document["failed_gates"]) == ("passed", [])
    assert document["latency"]["pairs"] == 50
    states = {c.get("name"): [k.tag for k in c] for c in ET.parse("j.xml").iter("testcase")}
    assert states["--min-agreement"] == states["--max-latency-ratio"] == ["system-out"]
    assert Path("good.onnx").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-agreement", "95"), "--min-agreement 95 is out of range"),
        (("--max-latency-ratio", "0"), "--max-latency-ratio 0 is out of range"),
    ],
)
def test_gates_out_of_range(flags: tuple[str, ...], message: str, run: Run) -> None:
    code, out, err = run(*HARDEN, *flags)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("gate", ["--min-agreement", "--max-latency-ratio"])
def test_gates_need_data_before_any_work(gate: str, run: Run) -> None:
    code, out, err = run("harden", "nosuch.onnx", "--ensemble", "flip", gate, "0.5")
    assert (code, out) == (2, "")
    assert (
        f"{gate} runs both models on calibration data, and there is none: add --calib" in err
    )
