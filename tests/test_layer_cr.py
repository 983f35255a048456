"""c_r per layer: patterns, files of them, and what a model that uses them says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import lipcompile
from lipcompile import Selector, model_io
from lipcompile.cli import main
from lipcompile.errors import OptionError, SelectionError
from lipcompile.layer_cr import LayerCr, read_cr_file
from lipcompile.sites import Selection, find_sites

GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N, 4] x) => (float[N, 4] y) {
    [stem] a = MatMul (x, w)
    r = Relu (a)
    [block1_fc1] b = MatMul (r, w)
    [block1_fc2] c = MatMul (r, w)
    d = Add (b, c)
    s = Tanh (d)
    [block2_fc1] e = MatMul (s, w)
    [head] y = MatMul (e, w)
}
"""
EVERYTHING = Selector("all")


def net() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def selection(rule: str = "all") -> Selection:
    return find_sites(model_io.load(net()).graph_ir, Selector(rule))


def write(folder: Path, text: str, name: str = "cr.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# Patterns


def test_layers_without_a_pattern_have_the_default() -> None:
    assigned = LayerCr(0.1, {"fc1$": 0.2, "^head": 0.3}).assign(selection())
    assert assigned == {"block1_fc1": 0.2, "block1_fc2": 0.1, "block2_fc1": 0.2, "head": 0.3}


def test_no_pattern_at_all() -> None:
    assert set(LayerCr(0.1).assign(selection()).values()) == {0.1}


def test_bad_regular_expression() -> None:
    with pytest.raises(OptionError, match=r"c_r pattern 'fc\(' is not a regular expression"):
        LayerCr(0.1, {"fc(": 0.2})


def test_two_patterns_on_one_layer() -> None:
    ratios = LayerCr(0.1, {"block1": 0.2, "fc2": 0.3})
    with pytest.raises(
        OptionError, match="'block1_fc2' has c_r set twice, by the patterns 'block1' and 'fc2'"
    ):
        ratios.assign(selection())


def test_unmatched_pattern_names_the_nearest_layers() -> None:
    message = "c_r pattern 'block3_fc1' matches none of 4 selected layers: .*'block2_fc1'"
    with pytest.raises(SelectionError, match=message):
        LayerCr(0.1, {"block3_fc1": 0.2}).assign(selection())


def test_pattern_of_a_layer_that_is_left_alone_says_why() -> None:
    message = r"'head' matches 'head', which is left alone \(head: gives the model's output\)"
    with pytest.raises(SelectionError, match=message):
        LayerCr(0.1, {"head": 0.2}).assign(selection("auto"))


# Files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cr.toml", '"layer4" = "2^-8"\n"fc[12]" = 0.25  # both\nhead = "1/128"\n'),
        ("cr.json", '{"layer4": "2^-8", "fc[12]": 0.25, "head": "1/128"}'),
        ("no_ending", '"layer4" = "2^-8"\n"fc[12]" = 0.25\nhead = "1/128"\n'),
    ],
)
def test_file_holds_numbers_and_texts(name: str, text: str, tmp_path: Path) -> None:
    found = read_cr_file(write(tmp_path, text, name))
    assert found == {"layer4": 2**-8, "fc[12]": 0.25, "head": 1 / 128}


BAD = {
    "a pattern twice": ("cr.toml", "fc = 0.1\nfc = 0.2", "is not TOML .*each pattern once"),
    "a pattern twice in JSON": ("cr.json", '{"a": 0.1, "a": 0.2}', "is not JSON .*twice"),
    "no TOML": ("cr.toml", "fc 0.1", "is not TOML"),
    "no JSON": ("cr.json", "{fc: 0.1}", "is not JSON"),
    "JSON in a TOML file": ("cr.toml", '{"fc": 0.1}', "is not TOML"),
    "deep nesting": ("cr.json", "[" * 100_000, "is not JSON"),
    "a list": ("cr.json", "[0.1]", "sets no c_r"),
    "nothing": ("cr.toml", "", "sets no c_r"),
    "an empty object": ("cr.json", "{}", "sets no c_r"),
    "a table": ("cr.toml", "[fc]\nc_r = 0.1", "'fc' is set to {'c_r': 0.1}, and a c_r is"),
    "a name with dots that is not quoted": ("cr.toml", "a.b = 0.1", "'a' is set to {'b'"),
    "a truth": ("cr.toml", "fc = true", "'fc' is set to True, and a c_r is"),
    "a null": ("cr.json", '{"fc": null}', "'fc' is set to None"),
    "out of range": ("cr.toml", "fc = 1.5", "'fc': c_r = 1.5 is out of range"),
    "zero": ("cr.toml", "fc = 0", "'fc': c_r = 0 is out of range"),
    "not a number": ("cr.json", '{"fc": NaN}', "'fc': c_r = nan is out of range"),
    "infinity": ("cr.json", '{"fc": 1e999}', "'fc': c_r = inf is out of range"),
    "beyond a float": ("cr.json", '{"fc": 1' + "0" * 400 + "}", "'fc': c_r = 10"),
    "no number": ("cr.toml", 'fc = "2-7"', "some shells drop the \\^"),
}


@pytest.mark.parametrize(("name", "text", "message"), BAD.values(), ids=BAD)
def test_bad_file(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, name)
    with pytest.raises(OptionError, match=message) as caught:
        read_cr_file(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700 + len(str(path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read .No such file.*: check the path"):
        read_cr_file(tmp_path / "none.toml")
    with pytest.raises(OptionError, match="cannot be read .*directory"):
        read_cr_file(tmp_path)


def test_file_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "cr.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="is not TOML"):
        read_cr_file(tmp_path / "cr.toml")


def test_huge_file_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, "#" * ((1 << 20) + 1))
    with pytest.raises(OptionError, match="is too large for a file of c_r: check the path"):
        read_cr_file(path)


# Hardening


def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)


def records(model: onnx.ModelProto) -> list[dict[str, Any]]:
    (text,) = [p.value for p in model.metadata_props if p.key == "lipcompile.sites"]
    return json.loads(text)


@pytest.mark.parametrize("form", ["smooth", "hard", "soft"])
def test_site_whose_layers_differ_is_forged_twice(form: str) -> None:
    result = lipcompile.harden(
        net(), rows(), cr=0.125, cr_by_layer={"fc2": "2^-2"}, form=form, selector=EVERYTHING
    )
    found = {tuple(r["layers"]): r for r in records(result.model)}
    first, second = found[("block1_fc1",)], found[("block1_fc2",)]
    assert first["tensor"] == second["tensor"] == "r"
    assert first["absmax"] == second["absmax"]
    assert (first["c_r"], second["c_r"]) == (0.125, 0.25)
    assert (first["c"], second["c"]) == pytest.approx(
        (0.125 * first["absmax"], 0.25 * first["absmax"])
    )
    assert first["forged"] != second["forged"]
    assert first["way"] == second["way"] == "insert"  # the other one reads the Relu as well
    read = {n.name: n.input[0] for n in result.model.graph.node if n.op_type == "MatMul"}
    assert read["block1_fc1"] == first["forged"]
    assert read["block1_fc2"] == second["forged"]


def test_provenance_and_rows_hold_every_c_r() -> None:
    result = lipcompile.harden(
        net(), rows(), cr=0.125, cr_by_layer={"head": "2^-4", "fc2": 0.25}, selector=EVERYTHING
    )
    metadata = {p.key: p.value for p in result.model.metadata_props}
    assert float(metadata["lipcompile.c_r"]) == 0.125
    assert json.loads(metadata["lipcompile.c_r_by_layer"]) == {"head": 2**-4, "fc2": 0.25}
    by_layer = {row.layer: row.c_r for row in result.rows if row.selected}
    expected = {"block1_fc1": 0.125, "block1_fc2": 0.25, "block2_fc1": 0.125, "head": 0.0625}
    assert by_layer == expected
    said = {layer: r["c_r"] for r in records(result.model) for layer in r["layers"]}
    assert said == expected
    assert "(2 patterns with one of their own)" in str(result)


def test_without_patterns_provenance_has_no_such_key() -> None:
    model = lipcompile.harden(net(), rows(), selector=EVERYTHING).model
    assert "lipcompile.c_r_by_layer" not in {p.key for p in model.metadata_props}


def test_file_and_mapping_give_the_same_model(tmp_path: Path) -> None:
    path = write(tmp_path, '"fc2" = "2^-2"')
    options: dict[str, Any] = {"cr": 0.125, "selector": EVERYTHING}
    models = [
        lipcompile.harden(net(), rows(), cr_by_layer=given, **options).model
        for given in (path, str(path), {"fc2": 0.25}, {"fc2": "1/4"})
    ]
    assert len({m.SerializeToString(deterministic=True) for m in models}) == 1


def test_mistake_is_told_before_the_data_is_read() -> None:
    def never() -> Any:
        raise AssertionError("the data was read")
        yield

    with pytest.raises(SelectionError, match="matches none of"):
        lipcompile.harden(net(), never(), cr_by_layer={"layer4": 0.25})


# The command line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(net(), tmp_path / "model.onnx")
    np.save(tmp_path / "calib.npy", rows())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def harden(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.run(
            ["harden", "model.onnx", "--calib", "calib.npy", "--rule", "all", *arguments]
        )
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_cr_file_on_the_command_line(folder: Path, harden: Run) -> None:
    write(folder, '"fc2" = "2^-2"')
    code, out, _ = harden("--cr", "1/8", "--cr-file", "cr.toml", "--format", "json")
    assert code == 0
    said = json.loads(out)
    assert said["c_r"] == 0.125
    assert said["c_r_by_layer"] == {"fc2": 0.25}
    assert {r["layer"]: r["c_r"] for r in said["layers"] if r["selected"]}[
        "block1_fc2"
    ] == 0.25


@pytest.mark.parametrize("target", ["portable", "ort-cpu", "ort-cuda", "tensorrt"])
def test_target_on_the_command_line(folder: Path, harden: Run, target: str) -> None:
    code, out, _ = harden("--target", target, "--form", "hard", "--format", "json")
    assert code == 0
    assert json.loads(out)["target"] == target
    hardened = onnx.load(folder / "model.hardened.onnx")
    assert {r["target"] for r in records(hardened)} == {target}
    expected = {"ort-cpu": "HardSigmoid", "ort-cuda": "Shrink"}.get(target, "Where")
    assert expected in {node.op_type for node in hardened.graph.node}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cr-file", "none.toml"), "cannot be read"),
        (("--cr-file", "bad.toml"), "'fc1': c_r = 7 is out of range"),
        (("--cr-file", "unmatched.toml"), "matches none of 4 selected layers"),
        (("--cr-file", "twice.toml"), "has c_r set twice"),
        (("--cr-file", "calib.npy"), "is not TOML"),
        (("--target", "tpu"), "'tpu' is not one of 'portable', 'ort-cpu'"),
    ],
    ids=" ".join,
)
def test_mistakes_are_exit_2_with_one_message_and_nothing_written(
    folder: Path, harden: Run, arguments: tuple[str, ...], message: str
) -> None:
    write(folder, "fc1 = 7", "bad.toml")
    write(folder, "layer4 = 0.1", "unmatched.toml")
    write(folder, "block1 = 0.1\nfc1 = 0.1", "twice.toml")
    before = set(folder.iterdir())
    code, out, err = harden(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert len([line for line in err.splitlines() if "rror:" in line]) == 1
    assert set(folder.iterdir()) == before
