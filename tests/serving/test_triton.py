"""export_triton: a repository that Triton's own schema reads, and the bytes of the model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import lipcompile
from lipcompile import atomic, demo
from lipcompile.cli import main
from lipcompile.errors import DataError, ModelError, OptionError, OutputError, SaveError
from lipcompile.serving.config import quoted
from lipcompile.serving.triton import export_triton
from tests.serving.model_config import complaints, parse

HEAD = '<ir_version: 8, opset_import: ["" : 17]> net '


def save(path: Path, text: str, **weights: tuple[int, ...]) -> Path:
    model = parser.parse_model(HEAD + text)
    for name, shape in weights.items():
        array = np.ones(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    text = "(float[N, 8] x) => (float[N, 4] y) { y = MatMul (x, w) }"
    return save(tmp_path / "dense.onnx", text, w=(8, 4))


def reported(path: Path) -> dict[str, list[int]]:
    """Shapes as the backend gets them from its session."""
    session = onnxruntime.InferenceSession(path)
    return {
        item.name: [axis if isinstance(axis, int) else -1 for axis in item.shape]
        for item in (*session.get_inputs(), *session.get_outputs())
    }


def export(model: Path, repository: Path, **options: Any) -> Any:
    """Exports, and gives the configuration as Triton reads it, with nothing to complain of."""
    result = export_triton(model, repository, **options)
    config = parse((repository / result.name / "config.pbtxt").read_text())
    assert complaints(config, reported(model)) == []
    return config


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# What is written


def test_the_demo_model_is_served_as_it_is(tmp_path: Path) -> None:
    hardened = tmp_path / "h.onnx"
    lipcompile.harden(demo.MODEL, str(demo.CALIBRATION), output=hardened)
    labels = demo.ASSETS / "classes.json"
    config = export(hardened, tmp_path / "models", name="clothes", labels=labels)
    folder = tmp_path / "models" / "clothes"
    assert files(tmp_path / "models") == {
        "clothes/config.pbtxt",
        "clothes/labels.txt",
        "clothes/1/model.onnx",
    }
    assert (folder / "1" / "model.onnx").read_bytes() == hardened.read_bytes()
    assert not os.path.samefile(folder / "1" / "model.onnx", hardened)
    assert (config.name, config.backend, config.max_batch_size) == (
        *("clothes", "onnxruntime", 8),
    )
    assert [(i.name, list(i.dims)) for i in config.input] == [("image", [1, 28, 28])]
    assert [(o.name, list(o.dims)) for o in config.output] == [("logits", [10])]
    assert config.output[0].label_filename == "labels.txt"
    names = (folder / "labels.txt").read_text().splitlines()
    assert (len(names), names[0], names[-1]) == (10, "T-shirt/top", "Ankle boot")
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told["lipcompile.1.form"] == "smooth"
    assert told["lipcompile.1.c_r"] == "0.0078125"
    metadata = {p.key: p.value for p in onnx.load(hardened).metadata_props}
    assert told["lipcompile.1.source"] == metadata["lipcompile.source"]
    assert "lipcompile.1.sites" not in told


def test_external_data_keeps_the_name_that_the_model_has_for_it(
    tmp_path: Path, external_cnn: Callable[..., Path]
) -> None:
    model = external_cnn(tmp_path / "source")
    export(model, tmp_path / "models")
    folder = tmp_path / "models" / "net" / "1"
    assert (folder / "model.onnx").read_bytes() == model.read_bytes()
    assert (folder / "net.bin").read_bytes() == model.with_name("net.bin").read_bytes()
    feeds = {"x": np.ones((2, 3, 8, 8), np.float32)}
    before, after = (
        onnxruntime.InferenceSession(path).run(None, feeds)[0]
        for path in (model, folder / "model.onnx")
    )
    assert (before == after).all()


@pytest.mark.parametrize(
    ("text", "batch", "shapes"),
    [
        ("(float[N, 8] x) => (float[N, 4] y) { y = MatMul (x, w) }", 8, [[8], [4]]),
        ("(float[2, 8] x) => (float[2, 4] y) { y = MatMul (x, w) }", 0, [[2, 8], [2, 4]]),
        # Two lengths, of which neither need be the batch.
        (
            "(float[N, 8] x, float[M, 8] z) => (float[N, 4] y) "
            "{ q = MatMul (z, w) m = ReduceMean <axes = [0], keepdims = 1> (q) "
            "p = MatMul (x, w) y = Add (p, m) }",
            0,
            [[-1, 8], [-1, 8], [-1, 4]],
        ),
        # What the file leaves open, ONNX Runtime infers, and the backend asks for just that.
        ("(float[N, 8] x) => (float[N, K] y) { y = MatMul (x, w) }", 8, [[8], [4]]),
        ("(float[N, T, 8] x) => (float[N, T, 4] y) { y = MatMul (x, w) }", 8, None),
        # A scalar: dims [ 1 ], and no reshape, which the server refuses without a batch.
        (
            "(float[N, 8] x) => (float y) { p = MatMul (x, w) "
            "y = ReduceMean <keepdims = 0> (p) }",
            0,
            [[-1, 8], [1]],
        ),
        # One number per row: dims may not be empty, so they are [ 1 ] and reshaped to nothing.
        (
            "(float[N, 8] x) => (float[N] y) { p = MatMul (x, w) "
            "y = ReduceMean <axes = [1], keepdims = 0> (p) }",
            8,
            [[8], [1]],
        ),
    ],
    ids=["batch", "fixed", "two-lengths", "inferred", "sequence", "scalar", "per-row"],
)
def test_axes_become_batch_and_dims(
    tmp_path: Path, text: str, batch: int, shapes: list[list[int]] | None
) -> None:
    config = export(save(tmp_path / "net.onnx", text, w=(8, 4)), tmp_path / "models")
    assert config.max_batch_size == batch
    shapes = shapes or [[-1, 8], [-1, 4]]
    assert [list(t.dims) for t in (*config.input, *config.output)] == shapes


def test_planted_wrong_dims_are_complained_of(dense: Path, tmp_path: Path) -> None:
    config = export(dense, tmp_path / "models")
    config.output[0].dims[0] = -1
    assert complaints(config, reported(dense)) == ["y: [-1, -1] is not [-1, 4]"]
    config.max_batch_size = 0
    config.output[0].reshape.SetInParent()
    assert "y: empty reshape without a batch" in complaints(config, reported(dense))


TYPES = {
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.UINT16: "TYPE_UINT16",
    TensorProto.UINT32: "TYPE_UINT32",
    TensorProto.UINT64: "TYPE_UINT64",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT16: "TYPE_INT16",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.STRING: "TYPE_STRING",
}


def passing(path: Path, element: int, **shape: Any) -> Path:
    """A model that gives what it gets."""
    ends = [helper.make_tensor_value_info(n, element, shape.get(n, ["N", 2])) for n in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.mark.parametrize(("element", "expected"), TYPES.items(), ids=TYPES.values())
def test_every_type_of_the_backend_has_its_name(
    tmp_path: Path, element: int, expected: str
) -> None:
    config = export(passing(tmp_path / "net.onnx", element), tmp_path / "models")
    data_type = config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type
    assert data_type.values_by_number[config.input[0].data_type].name == expected


@pytest.mark.parametrize("platform", ["any", "cpu", "gpu", "tensorrt"])
def test_platforms_are_instance_groups(dense: Path, tmp_path: Path, platform: Any) -> None:
    config = export(dense, tmp_path / "models", platform=platform)
    kinds = [group.Kind.Name(group.kind) for group in config.instance_group]
    assert kinds == {"any": [], "cpu": ["KIND_CPU"]}.get(platform, ["KIND_GPU"])
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [a.name for a in accelerators] == (["tensorrt"] if platform == "tensorrt" else [])


def test_names_are_escaped(tmp_path: Path) -> None:
    text = "(float[N, 8] x) => (float[N, 4] y) { y = MatMul (x, w) }"
    model = onnx.load(save(tmp_path / "net.onnx", text, w=(8, 4)))
    hostile = 'in "a" \\ \n} # é'
    model.graph.input[0].name = model.graph.node[0].input[0] = hostile
    onnx.save(model, tmp_path / "net.onnx")
    config = export(tmp_path / "net.onnx", tmp_path / "models")
    assert config.input[0].name == hostile
    assert quoted('"\\\n') == '"\\042\\134\\012"'


# Options


def test_the_batch_can_be_chosen(dense: Path, tmp_path: Path) -> None:
    assert export(dense, tmp_path / "a", max_batch_size=32).max_batch_size == 32
    config = export(dense, tmp_path / "b", max_batch_size=0)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 8])
    fixed = save(
        tmp_path / "fixed.onnx",
        "(float[1, 8] x) => (float[1, 4] y) { y = MatMul (x, w) }",
        w=(8, 4),
    )
    with pytest.raises(OptionError, match="needs a dynamic axis 0 .* axis 0 of 'x' is fixed"):
        export_triton(fixed, tmp_path / "c", max_batch_size=4)
    with pytest.raises(OptionError, match=r"--max-batch-size -1 is not legal"):
        export_triton(dense, tmp_path / "c", max_batch_size=-1)
    assert not (tmp_path / "c").exists()


def test_no_batch_says_why(tmp_path: Path) -> None:
    fixed = save(
        tmp_path / "fixed.onnx",
        "(float[1, 8] x) => (float[1, 4] y) { y = MatMul (x, w) }",
        w=(8, 4),
    )
    result = export_triton(fixed, tmp_path / "models")
    assert "no batching (axis 0 of 'x' is fixed to 1)" in str(result)
    assert "not made by LipCompile" in str(result)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"name": "../up"}, OptionError, "model name '../up' is not plain"),
        ({"name": ".hidden"}, OptionError, "is not plain"),
        ({"model_version": 0}, OptionError, "model version 0 is not legal"),
        ({"platform": "tpu"}, OptionError, "platform 'tpu' is unknown"),
        ({"labels": ["a", "b"]}, OptionError, "has 2 names, and output 'y' has 4 classes"),
        ({"labels": ["a", "b\nc", "d", "e"]}, OptionError, "holds a line break"),
        ({"labels": "no.txt"}, DataError, "class names 'no.txt' cannot be read"),
        ({"labels": ["a"] * 4, "scores": "z"}, ModelError, "has no output 'z'"),
    ],
)
def test_bad_arguments_are_refused(
    dense: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        export_triton(dense, tmp_path / "models", **options)
    assert not (tmp_path / "models").exists()


# Models that Triton could not serve


@pytest.mark.parametrize(
    ("element", "name"),
    [(TensorProto.BFLOAT16, "bfloat16"), (TensorProto.FLOAT8E4M3FN, "float8e4m3fn")],
)
def test_types_that_the_backend_lacks_are_refused(
    tmp_path: Path, element: int, name: str
) -> None:
    opset = 19 if name.startswith("float8") else 17
    path = passing(tmp_path / "net.onnx", element)
    model = onnx.load(path)
    model.opset_import[0].version = opset
    model.ir_version = 9
    onnx.save(model, path)
    with pytest.raises(ModelError, match=rf"input 'x' is tensor\({name}\), which Triton"):
        export_triton(path, tmp_path / "models")


def test_sequences_and_unknown_ranks_are_refused(tmp_path: Path) -> None:
    text = "(float[N, 8] x) => (seq(float[N, 8]) y) { y = SequenceConstruct (x) }"
    with pytest.raises(ModelError, match=r"output 'y' is seq\(tensor\(float\)\), which"):
        export_triton(save(tmp_path / "net.onnx", text), tmp_path / "models")
    path = passing(tmp_path / "net.onnx", TensorProto.FLOAT)
    model = onnx.load(path)
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(ModelError, match="input 'x' has no shape, not even a number of axes"):
        export_triton(path, tmp_path / "models")


def test_models_that_onnx_runtime_refuses_are_refused(tmp_path: Path) -> None:
    model = onnx.load(passing(tmp_path / "net.onnx", TensorProto.FLOAT))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"does not load 'net.onnx', so that Triton"):
        export_triton(tmp_path / "net.onnx", tmp_path / "models")


def test_external_data_named_like_the_model_is_refused(
    tmp_path: Path, external_cnn: Callable[..., Path]
) -> None:
    path = external_cnn(tmp_path / "source")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("net.bin", "model.onnx")
    onnx.save(model, path)
    path.with_name("net.bin").rename(path.with_name("model.onnx"))
    with pytest.raises(ModelError, match="keeps its weights in a file named 'model.onnx'"):
        export_triton(path, tmp_path / "models")


# A place that is taken


def test_versions_live_side_by_side(dense: Path, tmp_path: Path) -> None:
    hardened = tmp_path / "hard.onnx"
    lipcompile.harden(demo.MODEL, str(demo.CALIBRATION), output=hardened, form="hard")
    repository = tmp_path / "models"
    export(demo.MODEL, repository, name="clothes")
    config = export(hardened, repository, name="clothes", model_version=2)
    assert files(repository) == {
        *("clothes/config.pbtxt", "clothes/1/model.onnx", "clothes/2/model.onnx"),
    }
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told["lipcompile.2.form"] == "hard"
    assert told["lipcompile.2.source"] == told["lipcompile.1.digest"]
    with pytest.raises(OutputError, match=r"clothes/2' exists: pass --model-version 3 to add"):
        export_triton(hardened, repository, name="clothes", model_version=2)
    with pytest.raises(OutputError, match=r"line 4: 'max_batch_size: 8', and here 'max_batch"):
        export_triton(dense, repository, name="clothes", model_version=3, max_batch_size=2)
    assert not (repository / "clothes" / "3").exists()


def test_other_labels_are_refused(dense: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    export_triton(dense, repository, labels=["a", "b", "c", "d"])
    with pytest.raises(OutputError, match=r"labels.txt' holds other labels"):
        export_triton(dense, repository, labels=["a", "b", "c", "e"], model_version=2)
    with pytest.raises(OutputError, match="says otherwise than this export would .*label"):
        export_triton(dense, repository, model_version=2)
    export_triton(dense, repository, labels=["a", "b", "c", "d"], model_version=2)


def test_force_replaces_a_version_and_keeps_others(dense: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for version in (1, 2):
        export_triton(dense, repository, model_version=version)
    (repository / "dense" / "1" / "left.bin").write_bytes(b"of an older export")
    config = export(dense, repository, max_batch_size=2, force=True)
    assert config.max_batch_size == 2
    assert {key.split(".")[1] for key in config.parameters} == {"1", "2"}
    assert files(repository) == {
        *("dense/config.pbtxt", "dense/1/model.onnx", "dense/2/model.onnx"),
    }
    assert {p.name for p in tmp_path.iterdir()} == {"dense.onnx", "models"}


def test_the_source_is_never_replaced(dense: Path, tmp_path: Path) -> None:
    export_triton(dense, tmp_path / "models")
    inside = tmp_path / "models" / "dense" / "1" / "model.onnx"
    with pytest.raises(OutputError, match="lies in the version .* that would be replaced"):
        export_triton(inside, tmp_path / "models", name="dense", force=True)


def test_files_in_the_way_are_refused(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(OutputError, match="is a file, and has to be a folder"):
        export_triton(dense, tmp_path / "models")
    with pytest.raises(OutputError, match="folder .*no' does not exist: create it"):
        export_triton(dense, tmp_path / "no" / "models")


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_failure_leaves_what_was_there(
    dense: Path, tmp_path: Path, existing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    if existing:
        export_triton(dense, repository)
    before = {name: (repository / name).read_bytes() for name in files(repository)}
    real, dense_text = Path.rename, "dense" if not existing else "1"

    def broken(self: Path, target: Path) -> Path:
        if self.name == dense_text and ".lipcompile-" in self.as_posix():
            raise OSError(5, "planted")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(SaveError, match=r"was not written \(.*planted"):
        export_triton(dense, repository, force=True)
    monkeypatch.undo()
    assert {name: (repository / name).read_bytes() for name in files(repository)} == before
    assert repository.exists() == existing
    assert not list(tmp_path.glob(".lipcompile-*"))


@pytest.mark.parametrize("failing", ["labels.txt", "config.pbtxt"])
@pytest.mark.parametrize("version", [1, 2], ids=["replaced", "added"])
@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_a_text_that_cannot_be_written_undoes_the_version(
    dense: Path,
    tmp_path: Path,
    failing: str,
    version: int,
    labelled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = tmp_path / "models"
    export_triton(dense, repository, labels=["a", "b", "c", "d"] if labelled else None)
    before = {name: (repository / name).read_bytes() for name in files(repository)}
    folders = sorted(path.name for path in (repository / "dense").iterdir())
    other = save(
        tmp_path / "other.onnx",
        "(float[N, 8] x) => (float[N, 4] y) { z = MatMul (x, w) y = Relu (z) }",
        w=(8, 4),
    )
    new = {"name": "dense", "labels": ["e", "f", "g", "h"], "model_version": version}
    real = atomic.write_bytes

    def broken(path: Path, *chunks: bytes) -> None:
        if path.name == failing:
            raise SaveError("planted")
        real(path, *chunks)

    monkeypatch.setattr(atomic, "write_bytes", broken)
    with pytest.raises(SaveError, match="planted"):
        export_triton(other, repository, force=True, **new)
    monkeypatch.undo()
    assert {name: (repository / name).read_bytes() for name in files(repository)} == before
    assert sorted(path.name for path in (repository / "dense").iterdir()) == folders
    assert not list(tmp_path.glob(".lipcompile-*"))
    export_triton(other, repository, force=True, **new)


def test_a_model_may_be_called_old(dense: Path, tmp_path: Path) -> None:
    for force in (False, True):
        export_triton(dense, tmp_path / "models", name="old", force=force)
    assert files(tmp_path / "models") == {"old/config.pbtxt", "old/1/model.onnx"}


def test_a_model_that_changes_meanwhile_is_not_exported(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atomic.copy_file

    def touched(source: Path, target: Path) -> None:
        real(source, target)
        target.write_bytes(target.read_bytes() + b"\0")

    monkeypatch.setattr(atomic, "copy_file", touched)
    with pytest.raises(SaveError, match=r"dense.onnx' changed while it was exported"):
        export_triton(dense, tmp_path / "models")
    assert not (tmp_path / "models").exists()


# The command


def test_the_command_prints_what_it_wrote(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["export-triton", str(dense), "-o", str(tmp_path / "models")])
    out = capsys.readouterr().out
    assert code == 0
    assert "dense.onnx: model 'dense', version 1, batches of up to 8" in out
    assert re.search(r"input\s+x\s+TYPE_FP32\s+\[8\]", out)
    assert main.run(["export-triton", str(dense), "-o", str(tmp_path / "models")]) == 2
    assert capsys.readouterr().err.startswith("error: version ")
