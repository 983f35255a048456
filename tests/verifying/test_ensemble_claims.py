"""What a file says of its ensemble is made anew and compared, whatever it says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from lipcompile import model_io
from lipcompile.cli import main
from lipcompile.errors import ModelError
from tests.ensembles.models import Network
from tests.ensembles.test_composition import wrap, write
from tests.verifying.test_verify import (
    READERS,
    REBUILT,
    TENSORS,
    UNTOUCHED,
    evidence,
    failed,
    set_prop,
)
from tests.verifying.wrapped import ENSEMBLE, OURS, check, made

WRONG = {REBUILT, ENSEMBLE}  # a legal ensemble, and another one
NONE = {REBUILT, ENSEMBLE, UNTOUCHED}  # none that could be taken off
ways = pytest.mark.parametrize("way", ["batch", "branches"])


def record(model: onnx.ModelProto) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(model_io.load(model).metadata[OURS])
    return found


def drop_props(model: onnx.ModelProto, dropped: Callable[[str], bool]) -> None:
    kept = [prop for prop in model.metadata_props if not dropped(prop.key)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


@pytest.mark.parametrize("variant", ["none", "hard"])
@pytest.mark.parametrize(
    ("change", "caught"),
    [
        ({"views": "flip+shift:2"}, WRONG),
        ({"views": "flip"}, WRONG),
        ({"views": "shift:1+flip"}, WRONG),
        ({"views": "flop"}, NONE),
        ({"views": 7}, NONE),
        ({"way": None}, NONE),
        ({"way": "both"}, NONE),
        ({"at": "z"}, NONE),
        ({"at": "nobody"}, NONE),
        ({"at": ["y"]}, NONE),
        ({"mean": "logits"}, WRONG),
        ({"mean": "probabilities"}, WRONG),
        ({"mean": "median"}, NONE),
        ({"input": "z"}, NONE),
        ({"layout": "NHWC"}, WRONG),
        ({"scores": "z"}, NONE),
        ({"more": 1}, {REBUILT}),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
@ways
def test_every_field_is_made_anew(
    way: str, change: dict[str, Any], caught: set[str], variant: str
) -> None:
    original, model = made(variant, way)
    set_prop(model, OURS, json.dumps(record(model) | change))
    result = check(original, model)
    assert failed(result) == caught, str(result)


@ways
def test_the_other_way_is_no_way(way: str) -> None:
    original, model = made("none", way)
    other = "branches" if way == "batch" else "batch"
    set_prop(model, OURS, json.dumps(record(model) | {"way": other}))
    assert failed(check(original, model)) == NONE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not JSON", "is damaged (Expecting value"),
        ("[1]", "is damaged (not an object)"),
        ("7", "is damaged (not an object)"),
        ("null", "is damaged (not an object)"),
        ("", "is damaged "),
        ("{}", "does not fit its own provenance (KeyError: 'input')"),
        ("[" * 100_000, "is damaged "),
    ],
    ids=range(7),
)
@ways
def test_words_that_are_no_record(way: str, text: str, said: str) -> None:
    original, model = made("hard", way)
    set_prop(model, OURS, text)
    result = check(original, model)
    assert failed(result) >= NONE, str(result)
    assert said in evidence(result, ENSEMBLE)
    assert result.verdict == "the file is NOT what its provenance says"


def test_the_same_in_other_words() -> None:
    original, model = made("none", "batch")
    set_prop(model, OURS, json.dumps(record(model), indent=1))
    assert failed(check(original, model)) == {REBUILT}


@ways
def test_a_record_without_an_ensemble(way: str) -> None:
    """The ensemble was taken off, and what is said of it was kept."""
    original, model = made("none", way)
    plain = copy.deepcopy(original)
    plain.metadata_props.extend(model.metadata_props)
    result = check(original, plain)
    assert failed(result) == {REBUILT, ENSEMBLE}
    assert "cannot be taken off" in evidence(result, ENSEMBLE)


@ways
def test_an_ensemble_without_a_record(way: str) -> None:
    original, model = made("smooth", way)
    drop_props(model, lambda key: key == OURS)
    result = check(original, model)
    assert failed(result) == {REBUILT, UNTOUCHED}
    assert ENSEMBLE not in {check.name for check in result.checks}
    drop_props(model, lambda key: key.startswith("lipcompile."))
    with pytest.raises(ModelError, match="is not hardened"):
        check(original, model)


def test_a_record_around_a_forged_model() -> None:
    """Its forged tensors are gone as well."""
    original, model = made("hard", "batch")
    plain = copy.deepcopy(original)
    plain.metadata_props.extend(model.metadata_props)
    assert failed(check(original, plain)) == {REBUILT, ENSEMBLE, READERS, TENSORS}


def test_two_records() -> None:
    original, model = made("none", "batch")
    model.metadata_props.add(key=OURS, value=json.dumps(record(model)))
    result = check(original, model)
    assert failed(result) == {REBUILT}
    assert "metadata 'lipcompile.ensemble' stands there 2 times" in evidence(result, REBUILT)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(Network().proto(), tmp_path)
    wrapped = wrap(path, "batch", "wrapped.onnx")
    arguments = ["verify", str(path), str(wrapped), "--pairs", "0", "--samples", "4"]
    assert main.run(arguments) == 0
    assert "mean of scores over 6 views (flip+shift:1)" in capsys.readouterr().out
    model = onnx.load(wrapped)
    set_prop(model, OURS, "nonsense")
    onnx.save(model, wrapped)
    assert main.run(arguments) == 1
    assert "the file is NOT what its provenance says" in capsys.readouterr().out
