"""The command line as a user meets it: results, exit codes, one message per mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from PIL import Image

import lipcompile
from lipcompile.errors import LipCompileError

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] image) => (float[N, 4] scores)
{
    c0 = Conv (image, w0)
    r0 = Relu (c0)
    c1 = Conv (r0, w1)
    r1 = Relu (c1)
    g = GlobalAveragePool (r1)
    f = Flatten (g)
    scores = MatMul (f, w2)
}
"""

VECTOR = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 8] features) => (float[N, 4] scores) { scores = MatMul (features, w2) }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `model.onnx` and twelve images in `calib/`."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 4)}.items():
        weight = rng.normal(size=shape).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for index in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "calib" / f"{index:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# Results


def test_harden_prints_layers_and_writes_the_model(folder: Path, run: Run) -> None:
    code, out, err = run("harden", "model.onnx", "--calib", "calib", "--cr", "2^-7")
    assert (code, err) == (0, "")
    assert "form smooth (a = 10, b = 1), c_r = 2^-7 = 0.0078125" in out
    assert "graph-input" in out
    assert "1 layer at 1 site forged, 2 left alone" in out
    assert "top-1 agreement with the original on 12 calibration samples" in out
    assert "wrote 'model.hardened.onnx'" in out
    assert files(folder) == {"model.onnx", "calib", "model.hardened.onnx"}


def test_json_is_one_object_on_standard_output(folder: Path, run: Run) -> None:
    options = ("--form", "hard", "--cr", "1/64", "--format", "json", "-o", "out.onnx")
    code, out, _ = run("harden", "model.onnx", "--calib", "calib", *options)
    result = json.loads(out)
    assert code == 0
    assert result["form"] == {"name": "hard"}
    assert result["c_r"] == 1 / 64
    assert result["output"] == "out.onnx"
    forged = [row for row in result["layers"] if row["selected"]]
    assert forged[0]["c"] == forged[0]["absmax"] / 64
    assert result["calibration"]["data"]["samples"] == 12


def test_tables_travel_between_commands(folder: Path, run: Run) -> None:
    (folder / "rest").mkdir()
    for name in ("10.png", "11.png"):
        shutil.move(folder / "calib" / name, folder / "rest" / name)
    assert run("calibrate", "model.onnx", "--calib", "calib", "-o", "a.json")[0] == 0
    assert run("calibrate", "model.onnx", "--calib", "rest", "-o", "b.json")[0] == 0
    code, out, _ = run("merge", "b.json", "a.json", "-o", "all.json")
    assert code == 0
    assert "calibrated on 12 samples of 'calib + rest'" in out
    assert run("harden", "model.onnx", "--table", "all.json", "-o", "m.onnx")[0] == 0
    for name in ("10.png", "11.png"):
        shutil.move(folder / "rest" / name, folder / "calib" / name)
    assert run("harden", "model.onnx", "--calib", "calib", "--save-table", "one.json")[0] == 0
    merged, whole = (json.loads((folder / n).read_text()) for n in ("all.json", "one.json"))
    assert merged["sites"] == whole["sites"]
    assert merged["data"]["digest"] == whole["data"]["digest"]


def test_an_ensemble_needs_no_data(folder: Path, run: Run) -> None:
    code, out, err = run("harden", "model.onnx", "--ensemble", "flip * shift:1")
    assert (code, err) == (0, "")
    assert "model.onnx: layers stay as they are" in out
    assert "ensemble: mean of scores over 10 views (flip*shift:1), one run over all" in out
    assert "agreement with the original: not measured" in out
    assert files(folder) == {"model.onnx", "calib", "model.hardened.onnx"}


def test_an_ensemble_goes_around_a_hardened_model(folder: Path, run: Run) -> None:
    flags = ("--ensemble", "flip", "--ensemble-by", "branches", "--ensemble-mean", "logits")
    options = ("--calib", "calib", "--cr", "2^-7", *flags, "--format", "json")
    code, out, _ = run("harden", "model.onnx", *options)
    result = json.loads(out)
    assert code == 0
    assert result["variant"] == "forged"
    assert result["ensemble"] == {
        "views": "flip",
        "mean": "logits",
        "way": "branches",
        "input": "image",
        "layout": "NCHW",
        "scores": "scores",
        "at": "scores",
    }


def test_inspect_lists_every_layer_with_its_reason(folder: Path, run: Run) -> None:
    code, out, _ = run("inspect", "model.onnx")
    assert code == 0
    assert "leave: graph-input" in out
    assert "leave: head" in out
    layers = json.loads(run("inspect", "model.onnx", "--rule", "all", "--format", "json")[1])
    assert [row["selected"] for row in layers["layers"]] == [False, True, True]


def test_underscores_do_as_dashes(folder: Path, run: Run) -> None:
    options = ("--calib", "calib", "--batch_size", "5", "--dry_run", "--no_progress")
    assert run("harden", "model.onnx", *options)[0] == 0


def test_quiet_prints_nothing(folder: Path, run: Run) -> None:
    assert run("harden", "model.onnx", "--calib", "calib", "-q") == (0, "", "")


def test_doctor_is_content_here(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    assert "CPUExecutionProvider" in out
    assert "no problem found" in out


def test_doctor_explains_a_double_installation(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipcompile.doctor.version_of", lambda name: "1.31.1")
    code, out, _ = run("doctor")
    assert code == 3
    assert "onnxruntime and onnxruntime-gpu are both installed" in out


# Mistakes: arguments, exit code, what the message says

MISTAKES: list[tuple[str, int, str]] = [
    ("harden nosuch.onnx --calib calib", 2, "'nosuch.onnx' does not exist"),
    ("harden empty.onnx --calib calib", 2, "is empty"),
    ("harden cut.onnx --calib calib", 2, "was cut short"),
    ("harden calib --calib calib", 2, "is a folder"),
    ("harden model.onnx", 2, "give calibration data"),
    ("harden model.onnx --calib nosuch", 2, "no such file or folder"),
    ("harden model.onnx --calib void", 2, "holds no images"),
    ("harden model.onnx --calib broken", 2, "sample '05.png' cannot be decoded"),
    ("harden model.onnx --calib deep", 2, "I;16"),
    ("harden model.onnx --calib bad.npy", 2, "NaN or Inf"),
    ("harden model.onnx --calib shape.npy", 2, "[3, 8, 9]"),
    ("harden model.onnx --calib dtype.npy", 2, "int64"),
    ("harden model.onnx --calib names.npz", 2, "has no array for the inputs"),
    ("harden model.onnx --calib calib --cr 0", 2, "0 < c_r < 1"),
    ("harden model.onnx --calib calib --cr 2-7", 2, "some shells drop the ^"),
    ("harden model.onnx --calib calib --cr x", 2, "is no number"),
    ("harden model.onnx --calib calib --exclude zzz", 2, "matches none of 3"),
    ("harden model.onnx --calib calib --include [", 2, "not a regular expression"),
    ("harden model.onnx --calib calib --op-types Gemm", 2, "matches nothing"),
    ("harden model.onnx --calib calib --op-types Relu", 2, "is no linear layer"),
    ("harden model.onnx --calib calib --exclude c1", 2, "none of 3 linear layers"),
    ("harden model.onnx --calib calib --providers warp", 2, "provider 'warp' is unknown"),
    ("harden model.onnx --calib calib --providers qnn", 3, "is not active"),
    ("harden model.onnx --calib calib -o calib", 2, "is a folder"),
    ("harden model.onnx --calib calib -o model.onnx --force", 2, "is the input itself"),
    ("harden model.onnx --calib calib -o taken.onnx", 2, "pass --force"),
    ("harden model.onnx --calib calib -o no/where.onnx", 2, "does not exist"),
    ("harden model.onnx --calib calib -o x.onnx --save-table x.onnx", 2, "both be written"),
    ("harden model.onnx --calib good.npy -o good.npy --force", 2, "is the input itself"),
    ("harden model.onnx --calib calib --samples 0", 2, "give 1 to"),
    ("harden model.onnx --calib calib --batch-size -1", 2, "give 1 to"),
    ("harden model.onnx --calib calib --mean a", 2, "--mean 'a' is no number"),
    ("harden model.onnx --calib calib --std 0", 2, "std"),
    ("harden model.onnx --calib calib --input-size big", 2, "is no size"),
    ("harden model.onnx --calib calib --input-size 9", 2, "8"),
    ("harden model.onnx --calib calib --preprocess cut.onnx", 2, "JSON"),
    ("harden model.onnx --calib calib --form hard --a 2", 2, "has no parameter 'a'"),
    ("harden model.onnx --calib calib --form softer", 2, "'softer' is not one of"),
    ("harden model.onnx --calib calib --target tpu", 2, "'tpu' is not one of"),
    ("harden model.onnx --calib calib --zero-rate 0.5", 2, "--zero-rate needs zeroed columns"),
    ("harden model.onnx --calib calib --compact", 2, "--compact needs zeroed columns"),
    ("harden model.onnx --calib calib --variant weight --zero-rate 0", 2, "out of range"),
    ("harden model.onnx --calib calib --variant weight --zero-rate 1.5", 2, "out of range"),
    ("harden model.onnx --calib calib --variant weight --zero-rate nan", 2, "out of range"),
    ("harden model.onnx --calib calib --variant weight --form hard", 2, "it has no form"),
    ("harden model.onnx --calib calib --variant weight --a 4", 2, "it has no form"),
    ("harden model.onnx --calib calib --variant weight --target ort-cpu", 2, "has no target"),
    ("harden model.onnx --calib calib --variant weight --cr 2^-30", 2, "lower --zero-rate"),
    ("harden model.onnx --calib calib --cr-file nosuch.toml", 2, "cannot be read"),
    ("harden model.onnx --ensemble spin", 2, "has a part 'spin'"),
    ("harden model.onnx --ensemble flip+", 2, "has a part ''"),
    ("harden model.onnx --ensemble shift:0", 2, "whole pixels, 1 or more, got '0'"),
    ("harden model.onnx --ensemble shift:8", 2, "a shift by 8 does not fit images"),
    ("harden model.onnx --ensemble scale:1", 2, "from 0.25 to 4, and not 1"),
    ("harden model.onnx --ensemble scale:0.3", 2, "too few to fill the frame"),
    ("harden model.onnx --ensemble flip*shift:1*shift:2*shift:3", 2, "at most 64 are built"),
    ("harden model.onnx --ensemble flip --ensemble-by turns", 2, "'turns' is not one of"),
    ("harden model.onnx --ensemble flip --ensemble-mean mode", 2, "'mode' is not one of"),
    ("harden model.onnx --ensemble flip --image-input x", 2, "has no input 'x'"),
    ("harden model.onnx --ensemble flip --scores x", 2, "has no output 'x'"),
    ("harden model.onnx --ensemble flip --cr 2^-7", 2, "give calibration data"),
    ("harden model.onnx --ensemble flip --table cut.onnx", 2, "no table: leave --table out"),
    ("harden model.onnx --ensemble-mean logits", 2, "--ensemble-mean is about an ensemble"),
    ("harden model.onnx --ensemble-by batch", 2, "--ensemble-by is about an ensemble"),
    ("harden model.onnx --image-input image", 2, "--image-input is about an ensemble"),
    ("harden model.onnx --scores scores", 2, "--scores is about an ensemble"),
    ("harden model.onnx --variant none", 2, "variant none hardens nothing: add --ensemble"),
    ("harden model.onnx --variant none --cr 2^-7", 2, "add --ensemble"),
    ("harden model.onnx --ensemble flip --variant none --cr 2^-7", 2, "leave --cr out"),
    ("harden model.onnx --ensemble flip --variant none --form hard", 2, "it has no form"),
    ("harden vector.onnx --ensemble flip", 2, "has no image input"),
    ("harden fixed.onnx --ensemble flip --ensemble-by batch", 2, "batches of exactly 1"),
    ("harden twice.onnx --ensemble flip", 2, "has an ensemble already"),
    ("verify model.onnx model.onnx", 2, "hardened"),
    ("strip model.onnx", 2, "hardened"),
    ("harden model.onnx --table cut.onnx", 2, "is not JSON"),
    ("harden model.onnx --table nosuch.json", 2, "cannot be read"),
    ("merge model.onnx -o x.json", 2, "is not JSON"),
    ("merge -o x.json", 2, "Missing argument"),
    ("inspect nosuch.onnx", 2, "does not exist"),
    ("frobnicate", 2, "No such command"),
    ("harden --frobnicate", 2, "No such option"),
]


def add_for_ensembles(folder: Path) -> None:
    """A model without an image, one of a fixed batch, and one that has an ensemble."""
    model = onnx.load(folder / "model.onnx")
    vector = onnx.parser.parse_model(VECTOR)
    vector.graph.initializer.append(model.graph.initializer[2])
    onnx.save(vector, folder / "vector.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "fixed.onnx")
    source, output = folder / "model.onnx", folder / "twice.onnx"
    lipcompile.harden(source, ensemble="flip", output=output)


@pytest.fixture
def mistakes(folder: Path) -> Path:
    (folder / "empty.onnx").touch()
    (folder / "cut.onnx").write_bytes((folder / "model.onnx").read_bytes()[:500])
    (folder / "taken.onnx").write_bytes(b"old")
    add_for_ensembles(folder)
    (folder / "void").mkdir()
    shutil.copytree(folder / "calib", folder / "broken")
    half = (folder / "calib" / "05.png").read_bytes()[:60]
    (folder / "broken" / "05.png").write_bytes(half)
    (folder / "deep").mkdir()
    Image.fromarray(np.zeros((8, 8), "uint16")).save(folder / "deep" / "depth.png")
    good = np.zeros((2, 3, 8, 8), "float32")
    np.save(folder / "bad.npy", np.full_like(good, np.inf))
    np.save(folder / "good.npy", good)
    np.save(folder / "shape.npy", np.zeros((2, 3, 8, 9), "float32"))
    np.save(folder / "dtype.npy", good.astype("int64"))
    np.savez(folder / "names.npz", a=good, b=good)
    return folder


@pytest.mark.parametrize(("line", "code", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_message_and_nothing_is_lost(
    line: str, code: int, message: str, mistakes: Path, run: Run
) -> None:
    before = files(mistakes)
    got, out, err = run(*line.split())
    assert got == code, err
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("error:") + err.count("Error:") == 1
    assert files(mistakes) == before
    assert (mistakes / "taken.onnx").read_bytes() == b"old"


def test_a_bad_sample_can_be_left_out_and_is_counted(mistakes: Path, run: Run) -> None:
    options = ("--calib", "broken", "--on-bad-sample", "skip")
    code, out, _ = run("harden", "model.onnx", *options)
    assert code == 0
    assert "calibrated on 11 samples" in out
    assert "left out: 1 unreadable" in out


def test_cpu_fallback_must_be_allowed(folder: Path, run: Run) -> None:
    options = ("--calib", "calib", "--providers", "cuda", "--allow-cpu-fallback", "--dry-run")
    assert run("harden", "model.onnx", *options)[0] == 0


def test_a_defect_is_no_traceback(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("lipcompile.cli.inspect_command.inspect", planted)
    code, _, err = run("inspect", "model.onnx")
    assert code == 4
    assert "a defect of LipCompile (ZeroDivisionError: planted)" in err
    monkeypatch.setenv("LIPCOMPILE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("inspect", "model.onnx")


def test_every_error_has_an_exit_code_of_the_contract() -> None:
    def tree(kind: type[LipCompileError]) -> set[type[LipCompileError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    assert {kind.exit_code for kind in tree(LipCompileError)} == {1, 2, 3, 4, 130}


# Interruption, in processes of their own


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from lipcompile.cli.main import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def endless(folder: Path) -> Path:
    """Enough samples that the scan is still running when it is stopped."""
    np.save(folder / "many.npy", np.zeros((150_000, 3, 8, 8), "float32") + 0.5)
    return folder


def wait_until_it_reads(name: str, process: subprocess.Popen[str]) -> None:
    """Until the data is mapped into the process, and a moment more for the first batches."""
    for _ in range(600):
        if name in Path(f"/proc/{process.pid}/maps").read_text():
            break
        time.sleep(0.1)
    time.sleep(3)


def test_ctrl_c_ends_with_130_and_names_the_partial_table(endless: Path) -> None:
    process = start("calibrate", "model.onnx", "--calib", "many.npy", "--batch-size", "1")
    wait_until_it_reads("many.npy", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "model.table.partial.json" in err
    partial = json.loads((endless / "model.table.partial.json").read_text())
    assert partial["complete"] is False
    assert partial["data"]["samples"] > 0


@pytest.mark.parametrize("delay", [0.5, 2.0, 4.0])
def test_sigkill_leaves_no_litter(delay: float, endless: Path) -> None:
    before = files(endless)
    process = start("harden", "model.onnx", "--calib", "many.npy", "--batch-size", "1")
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=30)
    assert files(endless) == before


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -c 'from lipcompile.cli.main import main; main()'"
    line = f"{command} inspect model.onnx --format json; echo code $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({line}) | true"], capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("code 0")
