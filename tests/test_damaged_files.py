"""Damaged files end in one message, never in a defect: seeded mutations of real ones."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lipcompile.cli import main
from lipcompile.demo import MODEL
from lipcompile.linear_layers import find_constants, find_linear_layers

ROUNDS = 150
EDGE = 4000  # bytes at either end, where the structure of the file lies


def mutated(source: bytes, rng: random.Random, edge: int = EDGE) -> bytes:
    """Changes, removes, inserts or copies a few bytes."""
    data = bytearray(source)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        place = rng.choice([rng.randrange(edge), len(data) - 1 - rng.randrange(edge)])
        kind = rng.randrange(4)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 40)]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 10))
        else:
            other = rng.randrange(len(data))
            data[place : place + 20] = data[other : other + 20]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_or_refused(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, source = random.Random(seed), MODEL.read_bytes()
    codes = set()
    for _ in range(ROUNDS):
        (tmp_path / "m.onnx").write_bytes(mutated(source, rng))
        code = main.run(["inspect", str(tmp_path / "m.onnx"), "--rule", "all"])
        err = capsys.readouterr().err
        assert "a defect of LipCompile" not in err
        assert (code == 0) == (err == "")
        codes.add(code)
    assert codes == {0, 2}, "the mutations are too weak, or too strong, to tell anything"


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_mutated_arrays_are_read_or_refused(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, path = random.Random(0), tmp_path / f"data{suffix}"
    images = np.random.default_rng(0).uniform(size=(2, 1, 28, 28)).astype("float32")
    np.save(path, images) if suffix == ".npy" else np.savez(path, image=images)
    source = path.read_bytes()
    codes = set()
    for _ in range(60):
        path.write_bytes(mutated(source, rng, edge=200))
        code = main.run(["harden", str(MODEL), "--calib", str(path), "--dry-run", "-q"])
        err = capsys.readouterr().err
        assert "a defect of LipCompile" not in err
        codes.add(code)
    assert 2 in codes


def test_an_attribute_of_another_type_is_as_good_as_missing() -> None:
    model = onnx.load(MODEL)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.type = onnx.AttributeProto.STRING
                attribute.s = b"one"
    graph = ir.from_proto(model)
    layers, _ = find_linear_layers(graph, find_constants(graph.graph))
    channels = {layer.channels for layer in layers if layer.node.op_type == "Conv"}
    assert channels == {1, 24, 48, 96}
