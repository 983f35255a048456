"""lipcompile verify on the command line: output, exit codes, one message per mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.hardened import GRAPHS, Graph, harden, write

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.onnx, model.hardened.onnx, tampered.onnx, other.onnx and some data."""
    path = write(GRAPHS["chain"], tmp_path)
    hardened = harden(path, "smooth").output
    tampered = onnx.load(hardened)
    tampered.graph.node[-1].input[1] = "W"
    onnx.save(tampered, tmp_path / "tampered.onnx")
    onnx.save(GRAPHS["relu"].proto(), tmp_path / "other.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:100])
    np.save(tmp_path / "rows.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "wide.npy", np.ones((3, 5), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


PAIR = ("verify", "model.onnx", "model.hardened.onnx")


def test_a_clean_model_exits_with_0(folder: Path, run: Run) -> None:
    code, out, err = run(*PAIR, "--pairs", "3", "--samples", "4")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("model.hardened.onnx against model.onnx (sha256:")
    assert lines[2].split() == ["check", "result", "evidence"]
    assert lines[-1] == "verdict: the file is what its provenance says"
    assert "on 4 random samples (seed 0)" in out


def test_a_tampered_model_exits_with_1_after_its_result(folder: Path, run: Run) -> None:
    code, out, err = run("verify", "model.onnx", "tampered.onnx", "--pairs", "0")
    assert code == 1
    assert out.startswith("FAILED: the file is NOT what its provenance says: rebuilt from pro")
    assert "FAILED  changed MatMul node 'y'" in out
    assert out.splitlines()[-1] == "verdict: the file is NOT what its provenance says"
    assert err.startswith("error: the file is NOT what its provenance says: rebuilt from pro")
    assert "untouched nodes and weights failed" in err


def test_json_is_printed_and_written(folder: Path, run: Run) -> None:
    options = ("--pairs", "0", "--data", "rows.npy", "--format", "json", "-o", "out.json")
    code, out, err = run(*PAIR, *options)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert list(result)[:2] == ["outcome", "schema"]
    assert result["outcome"] == "passed"
    assert result == json.loads((folder / "out.json").read_text())
    assert (result["holds"], result["variant"]) == (True, "forged")
    assert result["data"] == "3 samples of 'rows.npy'"
    assert {"name", "holds", "evidence", "decides"} == set(result["checks"][0])
    assert run(*PAIR, "--pairs", "0", "-q", "-o", "out.json", "--force") == (0, "", "")


def test_gates_exit_with_1(folder: Path, run: Run) -> None:
    code, out, err = run(*PAIR, "--pairs", "2", "--max-latency-ratio", "1e-9")
    assert code == 1
    assert out.startswith("FAILED: latency ratio is ")
    assert out.splitlines()[-1] == "verdict: the file is what its provenance says"
    assert err.startswith("error: latency ratio is ")
    assert run(*PAIR, "--pairs", "2", "--max-latency-ratio", "1e9", "-q")[0] == 0
    assert run(*PAIR, "--pairs", "0", "--min-agreement", "0.01", "-q")[0] == 0


def test_images(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = "a = Conv(x, K) r = Relu(a) m = Conv(r, K) y = Flatten(m)"
    graph = Graph(body, "float[N,4,6,6] x", "float[N,M] y")
    proto = graph.proto()
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "first"))
    proto.graph.node[0].input[1] = "first"
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    harden(write(proto, tmp_path), "soft")
    (tmp_path / "images").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    flags = ("--data", "images", "--mean", "0.5", "--std", "0.25", "--pairs", "0")
    code, out, err = run(*PAIR, *flags)
    assert (code, err) == (0, "")
    assert "on 3 samples of 'images'" in out


# Mistakes: arguments, exit code, what the message says

MISTAKES: list[tuple[str, int, str]] = [
    ("model.onnx nosuch.onnx", 2, "model 'nosuch.onnx' does not exist"),
    ("nosuch.onnx model.hardened.onnx", 2, "model 'nosuch.onnx' does not exist"),
    ("model.onnx cut.onnx", 2, "was cut short"),
    ("model.onnx model.onnx", 2, "is not hardened"),
    ("model.hardened.onnx model.onnx", 2, "give the original first"),
    ("other.onnx model.hardened.onnx", 2, "do not belong together"),
    ("model.onnx", 2, "Missing argument 'HARDENED'"),
    ("model.onnx model.hardened.onnx --data nosuch", 2, "no such file or folder"),
    ("model.onnx model.hardened.onnx --data wide.npy", 2, "5"),
    ("model.onnx model.hardened.onnx --data random:x", 2, "is no random data"),
    ("model.onnx model.hardened.onnx --data rows.npy --mean 0.5", 2, "holds arrays"),
    ("model.onnx model.hardened.onnx --samples 0", 2, "samples = 0 is out of range"),
    ("model.onnx model.hardened.onnx --pairs -1", 2, "pairs = -1 is negative"),
    ("model.onnx model.hardened.onnx --min-agreement 2", 2, "is out of range"),
    ("model.onnx model.hardened.onnx --max-latency-ratio 0", 2, "is out of range"),
    ("model.onnx model.hardened.onnx --providers qnn", 3, "is not active"),
    ("model.onnx model.hardened.onnx -o other.onnx", 2, "pass --force"),
    ("model.onnx model.hardened.onnx -o model.onnx --force", 2, "is the input itself"),
]


@pytest.mark.parametrize(("line", "code", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_message(
    line: str, code: int, message: str, folder: Path, run: Run
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    got, out, err = run("verify", *line.split())
    assert got == code, err
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("error:") + err.count("Error:") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_damaged_provenance_is_one_message(folder: Path, run: Run) -> None:
    shutil.copy("model.hardened.onnx", "damaged.onnx")
    model = onnx.load("damaged.onnx")
    next(p for p in model.metadata_props if p.key == "lipcompile.sites").value = "{"
    onnx.save(model, "damaged.onnx")
    code, out, err = run("verify", "model.onnx", "damaged.onnx")
    assert (code, out) == (2, "")
    assert "metadata 'lipcompile.sites' is damaged" in err
