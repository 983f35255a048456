"""lipcompile calibrate --count-cr: counts in tables, from the command line to the merge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 6] x) => (float[N, 4] y)
{
    a = MatMul (x, w0)
    r = Relu (a)
    b = MatMul (r, w1)
    t = Tanh (b)
    y = MatMul (t, w2)
}
"""
Run = Callable[..., tuple[int, str, str]]
MODEL = ("model.onnx", "--rule", "all", "--calib")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`model.onnx`, twelve samples in `data.npy`, and their halves in `left` and `right`."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (6, 8), "w1": (8, 5), "w2": (5, 4)}.items():
        weight = rng.normal(size=shape).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "model.onnx")
    data = rng.normal(size=(12, 6)).astype("float32")
    for name, part in {"data": data, "left": data[:7], "right": data[7:]}.items():
        np.save(tmp_path / f"{name}.npy", part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_counts_are_taken_in_one_command(folder: Path, run: Run) -> None:
    code, out, err = run(
        "calibrate", *MODEL, "data.npy", "--count-cr", "2^-4, 1/8", "-o", "t.json"
    )
    assert (code, err) == (0, "")
    assert "calibrated on 12 samples of 'data.npy' (npy)" in out
    assert "suppressed elements counted for c_r = 2^-4, 2^-3" in out
    table = json.loads((folder / "t.json").read_text())
    absmax = {row["tensor"]: row["absmax"] for row in table["sites"]}
    assert [(row["tensor"], row["axis"], row["c"]) for row in table["counts"]] == [
        (tensor, -1, absmax[tensor] * c_r) for tensor in ("r", "t") for c_r in (1 / 16, 1 / 8)
    ]
    assert {row["seen"] for row in table["counts"]} == {12}
    assert [len(row["suppressed"]) for row in table["counts"]] == [8, 8, 5, 5]
    assert sum(map(sum, (row["suppressed"] for row in table["counts"]))) > 0
    options = ("--count_cr", "2^-4,2^-3", "--format", "json", "-o", "u.json")
    shown = json.loads(run("calibrate", *MODEL, "data.npy", *options)[1])
    assert shown == table


def test_counts_of_shards_merge_to_those_of_the_whole(folder: Path, run: Run) -> None:
    for part in ("left", "right"):
        assert run("calibrate", *MODEL, f"{part}.npy", "-o", f"{part}.json")[0] == 0
    assert run("merge", "left.json", "right.json", "-o", "maxima.json")[0] == 0
    count = ("--table", "maxima.json", "--count-cr", "2^-3")
    for part in ("left", "right"):
        done = run("calibrate", *MODEL, f"{part}.npy", *count, "-o", f"{part}.counts.json")
        assert done[0] == 0, done
    code, out, _ = run("merge", "right.counts.json", "left.counts.json", "-o", "merged.json")
    assert code == 0
    assert "suppressed elements counted for c_r = 2^-3" in out
    assert run("calibrate", *MODEL, "data.npy", "--count-cr", "2^-3", "-o", "one.json")[0] == 0
    merged, whole = (json.loads((folder / f"{n}.json").read_text()) for n in ("merged", "one"))
    for key in ("sites", "counts"):
        assert merged[key] == whole[key]
    assert merged["data"]["digest"] == whole["data"]["digest"]


def test_shards_that_were_counted_on_their_own_do_not_merge(folder: Path, run: Run) -> None:
    for part in ("left", "right"):
        options = ("--count-cr", "2^-3", "-o", f"{part}.json")
        assert run("calibrate", *MODEL, f"{part}.npy", *options)[0] == 0
    code, _, err = run("merge", "left.json", "right.json", "-o", "merged.json")
    assert code == 2
    assert "lipcompile calibrate --table MERGED --count-cr" in err


MISTAKES = [
    ("--count-cr 2-7", "some shells drop the ^"),
    ("--count-cr 2^-7,", "c_r = '' is no number"),
    ("--count-cr 2", "0 < c_r < 1"),
    ("--table t.json", "nothing is left to do: add --count-cr"),
    ("--table nosuch.json --count-cr 2^-7", "'nosuch.json' cannot be read"),
    ("--table t.json --count-cr 2^-7 --force -o t.json", "is the input itself"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_message(options: str, message: str, folder: Path, run: Run) -> None:
    assert run("calibrate", *MODEL, "data.npy", "-o", "t.json")[0] == 0
    before = (folder / "t.json").read_bytes()
    code, out, err = run("calibrate", *MODEL, "data.npy", *options.split())
    assert (code, out) == (2, "")
    assert message in err
    assert (folder / "t.json").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {
        *("model.onnx", "data.npy", "left.npy", "right.npy", "t.json")
    }
