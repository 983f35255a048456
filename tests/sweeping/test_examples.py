"""The data of a sweep: two parts, labels or none, and models that cannot be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.calibration.options import ScanOptions
from lipcompile.errors import DataError, ModelError, NonFiniteError, OptionError
from lipcompile.runtime import RuntimeOptions
from lipcompile.sweeping import opening
from lipcompile.sweeping.examples import Examples, Labelled, Parts, Unlabelled
from lipcompile.sweeping.opening import DataOptions, open_examples
from lipcompile.sweeping.trial import Answers
from tests.labelled.samples import put
from tests.sweeping.benches import bench, classifier, labelled, pixels

WITHOUT = DataOptions(labelled=False)


def opened(
    proto: onnx.ModelProto, data: object, how: DataOptions, **scan: object
) -> tuple[Examples, model_io.LoadedModel]:
    model = model_io.load(proto)
    options = ScanOptions(**scan), RuntimeOptions(threads=1)  # type: ignore[arg-type]
    return open_examples(model, data, how, *options, None), model


# Parts


@pytest.mark.parametrize("count", [2, 3, 10, 101])
@pytest.mark.parametrize("seed", [0, 7])
def test_parts_cover_all_and_share_nothing(count: int, seed: int) -> None:
    parts = Parts.of(count, seed)
    both = [*parts.choosing.tolist(), *parts.reporting.tolist()]
    assert sorted(both) == list(range(count))
    assert len(parts.choosing) == count // 2
    for part in (parts.choosing, parts.reporting):
        assert part.tolist() == sorted(part.tolist())
    again = Parts.of(count, seed)
    assert again.choosing.tolist() == parts.choosing.tolist()


def test_the_seed_decides() -> None:
    assert Parts.of(100, 0).choosing.tolist() != Parts.of(100, 1).choosing.tolist()
    with pytest.raises(OptionError, match="seed = -1 is negative"):
        Parts.of(10, -1)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_divide(count: int) -> None:
    with pytest.raises(DataError, match=f"the data has {count} usable sample, and settings"):
        Parts.of(count, 0)


def test_some_of_the_choosing_part_are_spread_over_it() -> None:
    """Data in folders comes sorted by class: the first ones would be of one class."""
    parts = Parts.of(1000, 0)
    labels = np.repeat(np.arange(10), 100)
    some = parts.some(50)
    assert len(some) == 50 and set(some) <= set(parts.choosing)
    assert len(set(labels[some])) == 10
    assert len(set(labels[parts.choosing[:50]])) == 1  # planted: the first ones
    assert parts.some(50).tolist() == some.tolist() == sorted(some.tolist())
    assert parts.some(10**6).tolist() == parts.choosing.tolist()


# With labels


def test_labelled_images_give_the_classes_of_the_model() -> None:
    proto = classifier()
    images, labels = labelled(proto, 30, wrong=0.0)
    examples, model = opened(proto, (images, labels), DataOptions())
    assert isinstance(examples, Labelled)
    run = examples.run(model)
    assert run.classes.tolist() == labels.tolist() == examples.labels.tolist()
    assert (run.count, examples.count) == (4, 30)
    assert [x.shape for x in run.feeds.values()] == [(1, 1, 5, 5)]
    assert examples.to_json()["labelled"] is True


def test_a_fixed_batch_is_filled() -> None:
    proto = classifier()
    images, labels = labelled(proto, 7, wrong=0.0)
    fixed = classifier()
    for value in (fixed.graph.input[0], fixed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    examples, model = opened(fixed, (images, labels), DataOptions())
    run = examples.run(model)
    assert run.classes.tolist() == labels.tolist()
    assert [x.shape for x in run.feeds.values()] == [(3, 1, 5, 5)]
    other, model = opened(fixed, images, WITHOUT)
    run = other.run(model)
    assert run.classes.tolist() == labels.tolist() and other.count == 7
    assert [x.shape for x in run.feeds.values()] == [(3, 1, 5, 5)]


def test_a_label_without_a_score_is_refused_where_the_shape_does_not_tell() -> None:
    proto = classifier()
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "k"
    images, labels = labelled(proto, 8)
    examples, model = opened(proto, (images, np.where(labels == 0, 9, labels)), DataOptions())
    with pytest.raises(DataError, match="label 9 of .* has no score"):
        examples.run(model)


def test_a_folder_without_labels_is_told_of_unlabelled(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", size=(5, 5))
    with pytest.raises(DataError, match="or pass --unlabelled to compare with"):
        opened(classifier(), tmp_path, DataOptions())
    examples, _ = opened(classifier(), tmp_path, WITHOUT)
    assert examples.count == 2


@pytest.mark.parametrize("how", [DataOptions(), WITHOUT], ids=["labelled", "unlabelled"])
def test_an_empty_folder_is_refused(how: DataOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        opened(classifier(), tmp_path, how)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "data samples = 0: give 1 or more, or all"),
        ({"samples": 0, "labelled": False}, "data samples = 0: give 1 or more, or all"),
        ({"seed": -1}, "data seed = -1 is negative"),
        ({"labelled": False, "labels": "x.csv"}, "labels or class names were given, and the"),
        ({"labelled": False, "classes": ["a"]}, "labels or class names were given, and the"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DataOptions(**options)  # type: ignore[arg-type]


# Without labels


def test_unlabelled_samples_give_the_same_classes() -> None:
    proto = classifier()
    images, labels = labelled(proto, 30, wrong=0.0)
    examples, model = opened(proto, images, WITHOUT, batch_size=8)
    assert isinstance(examples, Unlabelled) and examples.labels is None
    run = examples.run(model)
    assert run.classes.tolist() == labels.tolist()
    assert [x.shape for x in run.feeds.values()] == [(1, 1, 5, 5)]  # timed on one sample
    assert examples.to_json() == examples.record | {"normalisation": None, "labelled": False}


def test_what_is_kept_is_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large samples fewer are kept than were read."""
    monkeypatch.setattr("lipcompile.calibration.scan._PROBE_BYTES", 3000)
    monkeypatch.setattr(opening, "_BYTES", 1700)
    proto, images = classifier(), pixels(64)
    examples, model = opened(proto, images, WITHOUT, batch_size=8)
    assert examples.count == examples.to_json()["images"] == 16
    alone, _ = opened(proto, images[:16], WITHOUT, batch_size=8)
    assert examples.to_json()["digest"] == alone.to_json()["digest"]
    assert len(examples.run(model).classes) == 16


def test_at_most_so_many_are_drawn_by_the_seed() -> None:
    proto, images = classifier(), pixels(40)
    few = DataOptions(labelled=False, samples=10, seed=3)
    first, _ = opened(proto, images, few)
    again, _ = opened(proto, images, few)
    other, _ = opened(proto, images, DataOptions(labelled=False, samples=10, seed=4))
    assert first.count == 10
    assert first.to_json()["digest"] == again.to_json()["digest"]
    assert first.to_json()["digest"] != other.to_json()["digest"]


def boxes(columns: str) -> onnx.ModelProto:
    """A detector: boxes [n, 5, 6] behind a Gemm."""
    proto = classifier(classes=30)
    proto.graph.node[-1].output[0] = "flat"
    proto.graph.node.append(onnx.helper.make_node("Reshape", ["flat", "shape"], ["y"]))
    shape = onnx.numpy_helper.from_array(np.array([-1, 5, 6]), "shape")
    proto.graph.initializer.append(shape)
    dims = proto.graph.output[0].type.tensor_type.shape
    del dims.dim[:]
    for name in columns.split(","):
        dims.dim.add(dim_param=name)
    return proto


@pytest.mark.parametrize("columns", ["n,a,b", "n,a"])
def test_a_detector_is_no_classifier(columns: str) -> None:
    proto = boxes(columns)
    for data, how in (((pixels(6), np.zeros(6, int)), DataOptions()), (pixels(6), WITHOUT)):
        examples, model = opened(proto, data, how)
        with pytest.raises(ModelError, match="which is not one row of class scores per"):
            examples.run(model)


def test_one_value_per_sample_is_no_classifier() -> None:
    """Its class would be 0 always, and every setting would agree."""
    examples, model = opened(classifier(classes=1), pixels(6), WITHOUT)
    with pytest.raises(ModelError, match="has one value per sample"):
        examples.run(model)


# Scores that are NaN


def nan_for_bright(threshold: float) -> onnx.ModelProto:
    """Scores are NaN where the first pixel is above a threshold."""
    proto = classifier()
    proto.graph.node[-1].output[0] = "scores"
    nodes = [
        onnx.helper.make_node("Sub", ["limit", "x"], ["left"]),
        onnx.helper.make_node("Sqrt", ["left"], ["root"]),
        onnx.helper.make_node("Flatten", ["root"], ["flat"]),
        onnx.helper.make_node("Slice", ["flat", "start", "stop", "axis"], ["first"]),
        onnx.helper.make_node("Mul", ["first", "none"], ["zero"]),
        onnx.helper.make_node("Add", ["scores", "zero"], ["y"]),
    ]
    proto.graph.node.extend(nodes)
    arrays = {
        "limit": np.array(threshold, np.float32),
        "none": np.array(0, np.float32),
        "start": np.array([0]),
        "stop": np.array([1]),
        "axis": np.array([1]),
    }
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def test_nan_is_no_class_and_agrees_with_nothing() -> None:
    images = pixels(30)
    examples, model = opened(nan_for_bright(0.5), images, WITHOUT)
    classes = examples.run(model).classes
    bright = images[:, 0, 0, 0] > 0.5
    assert 0 < bright.sum() < 30
    assert ((classes == -1) == bright).all()
    answers = Answers.of(classes, classes, None, np.arange(30))
    assert answers.agreement.value == 1 - bright.mean()
    assert (answers.accuracy, answers.clean) == (None, None)


def test_a_model_that_gives_nan_alone_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="gives NaN as class scores for all 20 samples"):
        bench(nan_for_bright(-1.0), pixels(20), pixels(20), reading=WITHOUT)


def test_answers_are_paired() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    original = np.array([0, 0, 1, 1, 0, 0])
    hardened = np.array([0, 1, 1, 1, 2, -1])
    answers = Answers.of(original, hardened, labels, np.arange(6))
    assert answers.clean is not None and answers.accuracy is not None
    assert (answers.clean.gained, answers.clean.lost, answers.drop) == (1, 1, 0)
    assert (answers.accuracy.value, answers.agreement.value) == (4 / 6, 0.5)
    assert answers.accuracy.low < 4 / 6 < answers.accuracy.high
    part = Answers.of(original, hardened, labels, np.array([0, 1]))
    assert (part.drop, part.agreement.n) == (0.5, 2)
