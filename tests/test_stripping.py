"""The original comes back: byte for byte where nothing else was edited."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import Selector, model_io
from lipcompile.cli import main
from lipcompile.errors import CheckFailed, ModelError, OutputError
from tests.hardened import GRAPHS, Graph, harden, write

FORMS = ["smooth", "hard", "soft"]
TARGETS = ["portable", "ort-cpu", "ort-cuda", "tensorrt"]


# What comes back


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_the_bytes_come_back(graph: Graph, form: str, tmp_path: Path) -> None:
    path = write(graph, tmp_path)
    hardened = harden(path, form).output
    assert hardened is not None and hardened.read_bytes() != path.read_bytes()
    result = lipcompile.strip(hardened)
    assert result.output == tmp_path / "model.stripped.onnx"
    assert result.output.read_bytes() == path.read_bytes()
    assert (result.identical, result.differences) == (True, ())
    assert "byte-identical to the model that was hardened (sha256 " in str(result)
    assert not result.sampled and "by samples" not in str(result)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_come_back_from_every_target(form: str, target: str, tmp_path: Path) -> None:
    path = write(GRAPHS["pooled"], tmp_path)
    hardened = harden(path, form, target=target).output
    assert lipcompile.strip(hardened).output.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
def test_two_runs_are_undone(first: str, second: str, tmp_path: Path) -> None:
    graph = "a = Gemm(x, W, B) h = Relu(a) b = MatMul(h, W) c = MatMul(h, V) d = Add(b, c) "
    path = write(Graph(graph + "e = Relu(d) y = MatMul(e, W)"), tmp_path)
    once = harden(path, first, selector=Selector("all", include=("^b$",))).output
    twice = harden(once, second, force=True, output=tmp_path / "twice.onnx").output
    result = lipcompile.strip(twice)
    assert sorted(result.layers) == ["b", "c", "y"]
    assert result.output.read_bytes() == path.read_bytes()


def test_layers_with_a_threshold_of_their_own(tmp_path: Path) -> None:
    path = write(GRAPHS["two readers"], tmp_path)
    hardened = harden(path, "smooth", cr_by_layer={"^b$": 0.2}).output
    assert lipcompile.strip(hardened).output.read_bytes() == path.read_bytes()


def test_external_data_gets_other_names_and_nothing_else_differs(
    external_cnn: Callable[..., Path], tmp_path: Path
) -> None:
    path = external_cnn(tmp_path / "a")
    hardened = harden(path, "soft").output
    result = lipcompile.strip(hardened)
    assert result.identical is False
    assert result.differences == ("external data lies in files of other names",)
    assert "its bytes differ: external data" in str(result)
    assert "large external tensors were compared by samples" in str(result)
    assert result.to_json()["sampled"] is True
    before, after = model_io.load(path), model_io.load(result.output)
    assert before.digest == after.digest == result.source
    assert onnx.load(path) == onnx.load(result.output)  # with the numbers read in


def test_an_external_bias_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(GRAPHS["bias"].proto(), path, **options)
    result = lipcompile.strip(harden(path, "soft").output)
    assert result.output is not None and onnx.load(path) == onnx.load(result.output)


def test_a_bias_that_is_left_out_by_an_empty_name_comes_back(tmp_path: Path) -> None:
    proto = GRAPHS["no bias"].proto()
    proto.graph.node[0].input.append("")
    assert lipcompile.strip(harden(write(proto, tmp_path), "soft").output).identical


def test_inlined_functions_stay_inlined(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,4] x, float[4,4] w) => (float[N,4] y) { h = local.fc(x, w) y = local.fc(h, w) }
    <domain: "local", opset_import: ["" : 17]>
    fc (x, w) => (r) { a = MatMul(x, w) r = Relu(a) }
    """
    proto = onnx.parser.parse_model(text)
    del proto.graph.input[1]
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    proto.graph.initializer.append(weight)
    path = write(proto, tmp_path)
    result = lipcompile.strip(harden(path, "hard").output)
    assert result.identical is False
    assert "local functions were inlined" in result.differences[0]
    assert model_io.load(path).digest == model_io.load(result.output).digest


def test_another_serialisation_is_told(tmp_path: Path) -> None:
    path = write(GRAPHS["relu"], tmp_path)
    content = onnx.ModelProto(producer_version="2").SerializeToString()
    path.write_bytes(path.read_bytes() + content)  # a field behind the graph: legal, unusual
    result = lipcompile.strip(harden(path, "hard").output)
    assert result.identical is False
    assert "serialised in another way" in result.differences[0]


def test_models_in_memory(tmp_path: Path) -> None:
    proto = GRAPHS["bias"].proto()
    hardened = lipcompile.harden(proto, "random:2", form="soft", selector=Selector("all"))
    result = lipcompile.strip(hardened.model)
    assert result.identical is None
    assert "whether the bytes are the same is unknown" in str(result)
    assert result.model == proto
    assert (result.output, result.files) == (None, ())
    written = lipcompile.strip(hardened.model, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto
    assert written.output == tmp_path / "out.onnx"
    assert json.loads(json.dumps(written.to_json()))["identical"] is None


def test_the_graphs_hold_every_way(tmp_path: Path) -> None:
    """Else what comes back says nothing."""
    ways: dict[str, set[str]] = {}
    changes: set[str] = set()
    for name, graph in GRAPHS.items():
        for form in FORMS:
            output = harden(write(graph, tmp_path), form, force=True).output
            for record in json.loads(model_io.load(output).metadata["lipcompile.sites"]):
                ways.setdefault(record["way"], set()).add(name)
                changes |= {key for c in record.get("changes", []) for key in c}
    assert len(ways["insert"]) == len(GRAPHS)
    assert {"hoisted", "pooled", "float16"} <= ways["relu"]
    assert {name for name in GRAPHS if "bias" in name} <= ways["bias"]
    assert {"clip", "clip of opset 10", "ir version 3", "float_data"} <= ways["bias"]
    assert {"stored", "was", "input", "max"} <= changes


# What is refused


@pytest.fixture
def hardened(tmp_path: Path) -> Path:
    return harden(write(GRAPHS["residual"], tmp_path), "smooth").output  # type: ignore[return-value]


def edited(path: Path, edit: Callable[[onnx.ModelProto], Any]) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    return path


def test_an_original_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'model.onnx' is not hardened .*nothing to strip"):
        lipcompile.strip(write(GRAPHS["chain"], tmp_path))


def test_edited_weights_cannot_be_given_back(tmp_path: Path) -> None:
    def say_so(model: onnx.ModelProto) -> None:
        columns = [{"layer": "a", "columns": [1]}, {"layer": "b", "columns": []}]
        props = {"lipcompile.columns": json.dumps(columns), "lipcompile.source": "sha256:12"}
        onnx.helper.set_model_props(model, props)

    path = edited(write(GRAPHS["chain"], tmp_path), say_so)
    message = (
        r"editing the weights of 1 layer \(variant weight\).* take the original, sha256:12"
    )
    with pytest.raises(ModelError, match=message):
        lipcompile.strip(path)


def rename_forged(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("lipcompile/", "other/") for name in names]


def drop_site(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = ["h" if "forged" in name else name for name in node.input]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [(rename_forged, "there is no tensor 'lipcompile/"), (drop_site, "nothing reads 'lipc")],
)
def test_a_file_that_another_tool_changed_is_refused_in_words(
    edit: Callable[[onnx.ModelProto], None], reason: str, hardened: Path
) -> None:
    with pytest.raises(ModelError, match=f"{reason}.*another tool changed it"):
        lipcompile.strip(edited(hardened, edit))
    assert not hardened.with_name("model.stripped.onnx").exists()


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_damaged_records_never_give_another_model(form: str, tmp_path: Path) -> None:
    path = harden(write(GRAPHS["bias"], tmp_path), form).output
    assert path is not None
    whole = path.read_bytes()
    records = json.loads(model_io.load(path).metadata["lipcompile.sites"])
    changed = [{**record, key: "?"} for record in records for key in ("at", "forged")]
    changed += [{k: v for k, v in r.items() if k != "way"} for r in records]
    for change in [c for record in records for c in record.get("changes", [])]:
        changed += [{**records[0], "changes": [{**change, k: "?"}]} for k in change]
        changed.append({**records[0], "changes": "?"})
    for record in changed:
        path.write_bytes(whole)
        path.with_name("model.stripped.onnx").unlink(missing_ok=True)
        props = {"lipcompile.sites": json.dumps([record])}
        edited(path, lambda m, props=props: set_props(m, props))
        with contextlib.suppress(ModelError, CheckFailed):
            assert lipcompile.strip(path, force=True).identical  # what was not needed
            continue
        assert not path.with_name("model.stripped.onnx").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"changes": [{"node": "a", "input": 99, "was": "B"}]}, "does not fit its own"),
        ({"changes": [{"node": "a", "input": 2, "was": ["B"]}]}, "does not fit its own"),
        ({"changes": [{"node": "a", "max": "B"}]}, "does not fit its own"),
        ({"changes": 7}, "does not fit its own"),
        ({"at": None}, "does not fit its own"),
        ({"layers": None}, "says layers = None, and not their names"),
        ({"layers": [7]}, "says layers = \\[7\\], and not their names"),
    ],
    ids=str,
)
def test_damaged_records_are_told_before_anything_is_written(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = harden(write(GRAPHS["bias"], tmp_path), "soft").output
    assert path is not None
    (record, *_) = json.loads(model_io.load(path).metadata["lipcompile.sites"])
    props = {"lipcompile.sites": json.dumps([{**record, **change}])}
    edited(path, lambda model: set_props(model, props))
    with pytest.raises(ModelError, match=reason):
        lipcompile.strip(path)
    assert main.run(["strip", str(path)]) == 2
    assert not path.with_name("model.stripped.onnx").exists()


def set_props(model: onnx.ModelProto, props: dict[str, str]) -> None:
    kept = {p.key: p.value for p in model.metadata_props} | props
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)


def test_a_changed_weight_fails_the_check(hardened: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        array = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        array.flat[0] += 1
        model.graph.initializer[0].raw_data = array.tobytes()

    with pytest.raises(CheckFailed, match="another tool changed the file after hardening"):
        lipcompile.strip(edited(hardened, change))
    assert not hardened.with_name("model.stripped.onnx").exists()


def test_output_is_never_written_over(hardened: Path) -> None:
    lipcompile.strip(hardened)
    with pytest.raises(OutputError, match="pass --force"):
        lipcompile.strip(hardened)
    with pytest.raises(OutputError, match="is the input itself"):
        lipcompile.strip(hardened, hardened, force=True)
    assert lipcompile.strip(hardened, force=True).identical


def test_command(hardened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(hardened.with_name("back.onnx"))
    assert main.run(["strip", str(hardened), "-o", out]) == 0
    printed = capsys.readouterr().out
    assert "model.hardened.onnx: forged functions of 2 layers taken out" in printed
    assert f"wrote '{out}'" in printed
    assert main.run(["strip", str(hardened), "-o", out, "--force", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True
    assert main.run(["strip", str(hardened), "-o", out, "--force", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main.run(["strip", out, "-o", str(hardened)]) == 2
    assert "error: output" in capsys.readouterr().err
