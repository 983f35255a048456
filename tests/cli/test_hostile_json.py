"""JSON that no tool writes: nesting, numbers of thousands of digits, NaN, a key twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.table import CalibrationTable
from lipcompile.cli import main
from lipcompile.errors import InputError
from lipcompile.signature import TensorSpec
from tests.fuzzing.subjects import Subjects, subjects

DEEP = 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    return subjects(tmp_path_factory.mktemp("subjects"))


def readers(folder: Path, file: Path, made: Subjects) -> dict[str, list[str]]:
    """Commands that read a JSON file which the user names."""
    model = folder / "m.onnx"
    model.write_bytes(made.model)
    (folder / "image.png").write_bytes(made.image)
    (folder / "sound.json").write_bytes(made.table)
    dry = ["harden", str(model), "--rule", "all", "--dry-run", "--no-progress"]
    return {
        "table": [*dry, "--table", str(file)],
        "cr": [*dry, "--table", str(folder / "sound.json"), "--cr-file", str(file)],
        "preprocess": [*dry, "--calib", str(folder), "--preprocess", str(file)],
        "report": ["report", str(file)],
        "merge": [
            "merge",
            str(file),
            str(folder / "sound.json"),
            "-o",
            str(folder / "o.json"),
        ],
    }


HOSTILE = {
    "deep arrays": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "900 deep": "[" * 900 + "]" * 900,
    "many digits": '{"format": ' + "9" * 5000 + "}",
    "a huge float": '{"format": 1e999999, "size": 1e999999}',
    "NaN": '{"format": NaN, "schema": NaN, "image_mean": [NaN, Infinity, -Infinity]}',
    "a key twice": '{"format": 1, "format": 2, "schema": 1, "schema": "lipcompile.audit/1"}',
    "a lone surrogate": '{"format": "\\ud800", "schema": "\\udfff", "image_mean": "\\ud800"}',
    "control characters": '{"format": "\\u001b[2J", "schema": "lipcompile.\\u001b[2J"}',
    "cut": '{"format": "lipcompile.cali',
    "text behind it": "{} {}",
    "UTF-16": '{"format": 1}'.encode("utf-16").decode("latin-1"),
    "nothing": "",
}


@pytest.mark.parametrize("reader", ["table", "cr", "preprocess", "report", "merge"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_it_is_one_message(
    text: str, reader: str, made: Subjects, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "given.json"
    file.write_bytes(text.encode("latin-1"))
    code = main.run(readers(tmp_path, file, made)[reader])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1 and "\x1b" not in err
    assert len(err) < 2000
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("levels", [70, 300, 500, 850])
@pytest.mark.parametrize("key", ["extra", "layers", "version", "title"])
def test_a_result_that_is_nested_as_json_still_reads(
    key: str, levels: int, made: Subjects, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(made.result) | {key: "HERE"}
    text = json.dumps(content).replace('"HERE"', "[" * levels + "]" * levels)
    (tmp_path / "r.json").write_text(text)
    assert main.run(["report", str(tmp_path / "r.json")]) == 2
    assert "nested in more than 64 levels" in capfd.readouterr().err


@pytest.mark.parametrize("levels", [70, 300, 500, 850])
@pytest.mark.parametrize("place", ["preprocess", "input_range", "sites", "counts"])
def test_a_table_that_is_nested_as_json_still_reads(
    place: str, levels: int, made: Subjects, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(made.table) | {place: "HERE"}
    text = json.dumps(content).replace('"HERE"', "[" * levels + "]" * levels)
    (tmp_path / "t.json").write_text(text)
    assert main.run(readers(tmp_path, tmp_path / "t.json", made)["table"]) == 2
    assert "table is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["sites", "c_r_by_layer", "inlined", "ensemble", "columns"])
@pytest.mark.parametrize("value", [v for k, v in HOSTILE.items() if k != "UTF-16"])
def test_provenance_that_no_tool_writes(
    value: str, key: str, made: Subjects, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.ModelProto.FromString(made.hardened)
    kept = [prop for prop in model.metadata_props if prop.key != f"lipcompile.{key}"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=f"lipcompile.{key}", value=value)
    path, original = tmp_path / "h.onnx", tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    original.write_bytes(made.model)
    for arguments in (
        ["inspect", str(path)],
        ["strip", str(path), "-o", str(tmp_path / "s.onnx")],
        ["verify", str(original), str(path), "--pairs", "0", "--samples", "1"],
    ):
        code = main.run(arguments)
        err = capfd.readouterr().err
        assert "a defect of LipCompile" not in err and "Traceback" not in err
        assert code in (0, 1, 2, 4), arguments
        assert "\x1b" not in err
        if arguments[0] == "strip":
            assert (tmp_path / "s.onnx").exists() == (code == 0)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
@pytest.mark.parametrize("reader", ["table", "cr", "preprocess", "report", "merge"])
def test_a_device_without_end_ends(
    reader: str,
    made: Subjects,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("documents", "calibration.table"):
        monkeypatch.setattr(f"lipcompile.{module}._MAX_BYTES", 1 << 20)
    assert main.run(readers(tmp_path, Path("/dev/zero"), made)[reader]) == 2
    err = capfd.readouterr().err
    assert "has more than 1,048,576 bytes" in err or "above 1 MB" in err


# Any JSON at all

numbers = st.integers() | st.floats() | st.sampled_from([2**63, 10**400, -1, 0])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_KEYS = (
    *(
        "do_resize",
        "size",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "resample",
        "do_rescale",
    ),
    *("rescale_factor", "do_normalize", "image_mean", "image_std", "image_processor_type"),
    *("input_size", "mean", "std", "interpolation", "crop_mode", "pretrained_cfg"),
)
likely = (
    st.integers(-1, 10**10)
    | st.floats(0, 2)
    | st.booleans()
    | st.lists(st.floats(0, 1e39), min_size=1, max_size=3)
    | st.sampled_from(["bicubic", "squash", "ConvNextImageProcessor", "LevitImageProcessor"])
    | st.dictionaries(st.sampled_from(["shortest_edge", "height", "width"]), st.integers(1, 9))
)


@settings(max_examples=300, deadline=None)
@given(config=st.dictionaries(st.sampled_from(_KEYS), likely | anything))
def test_any_preprocessing_is_resolved_or_refused(config: dict[str, object]) -> None:
    for shape in (("n", 3, 8, 8), ("n", 3, "h", "w")):
        try:
            found = resolve(TensorSpec("x", "float32", shape), config)
        except InputError as error:
            assert len(str(error)) < 1500
        else:
            assert found.from_json(json.loads(json.dumps(found.to_json()))) == found


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_table_with_anything_at_any_place_is_read_or_refused(
    data: st.DataObject, made: Subjects
) -> None:
    content = json.loads(made.table)
    holder, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(holder[key], (dict, list)) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        keys = sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
    holder[key] = data.draw(anything)
    try:
        table = CalibrationTable.from_json(content)
    except InputError:
        return
    assert CalibrationTable.from_json(table.to_json()) == table
    str(table)
