"""Image files: class folders, tables of labels, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.errors import DataError
from lipcompile.labelled import image_pixels
from lipcompile.signature import TensorSpec
from tests.labelled.samples import (
    DYNAMIC,
    FLAT,
    GREY,
    KERAS,
    LAST,
    RGB,
    by_name,
    opened,
    put,
)

ABC = ("ant/x.png", "bee/sub/y.png", "cow/z.png")
Setup = Callable[[Path], dict[str, object]]


def tree(*files: str, texts: dict[str, str] | None = None, **options: object) -> Setup:
    """Images and texts below a folder; options "data" and "labels" are relative to it."""

    def setup(root: Path) -> dict[str, object]:
        root.mkdir()
        put(root, *files)
        for name, text in (texts or {}).items():
            (root / name).write_text(text, encoding="utf-8")
        paths = {
            k: root / v
            for k, v in options.items()
            if k in ("data", "labels") and isinstance(v, str)
        }
        return {"data": root, "num_classes": 3, **options, **paths}

    return setup


def folders(*names: str, **options: object) -> Setup:
    return tree(*(f"{name}/x.png" for name in names), **options)  # type: ignore[arg-type]


def table(text: str, *files: str, name: str = "labels.csv", **options: object) -> Setup:
    return tree(*files, texts={name: text}, labels=name, **options)


# What is accepted, and the labels that it gives


ACCEPTED: dict[str, tuple[Setup, list[int]]] = {
    "sorted names": (folders("cow", "ant", "bee"), [0, 1, 2]),
    "integers": (folders("0", "2"), [0, 2]),
    "leading integers": (
        folders("2_cow", "0_ant", "10 extra", num_classes=11),
        [0, 10, 2],
    ),
    "integers in classes": (folders("1", "2", classes=["2", "1", "0"]), [1, 0]),
    "integers beside classes": (
        folders("0", "2_cow", classes=["ant", "bee", "cow"]),
        [0, 2],
    ),
    "classes": (folders("cow", "ant", classes=["cow", "bee", "ant"]), [2, 0]),
    "classes by wnid": (
        folders(
            "n02", "n00", classes={"0": ["n00", "a"], "1": ["n01", "b"], "2": ["n02", "b"]}
        ),
        [0, 2],
    ),
    "unknown outputs": (folders("ant", "bee", num_classes=None), [0, 1]),
    "csv": (table("a.png,2\nb/c.png,0\n", "a.png", "b/c.png"), [2, 0]),
    "csv with header": (table("file,label\n./a.png, 1 \n\n", "a.png"), [1]),
    "csv with names": (
        table("a.png,bee\nb.png,1\n", "a.png", "b.png", classes=("ant", "bee", "cow")),
        [1, 1],
    ),
    "csv with a quoted comma": (table('"a,b.png",1\n', "a,b.png"), [1]),
    "json": (table('{"a.png": 2, "b.png": "1"}', "a.png", "b.png", name="l.json"), [2, 1]),
    "json below labels": (table('{"labels": {"a.png": 2}}', "a.png", name="l.json"), [2]),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_labels_of_files(tmp_path: Path, case: str) -> None:
    setup, labels = ACCEPTED[case]
    root = tmp_path / "data"
    images = opened(**setup(root))  # type: ignore[arg-type]
    assert images.labels.tolist() == labels
    assert list(images.names) == sorted(images.names)
    assert images.label == "data"


def test_class_names_are_kept_where_they_are_known(tmp_path: Path) -> None:
    put(tmp_path / "named", *ABC)
    assert opened(tmp_path / "named").classes == ("ant", "bee", "cow")
    classes = ["a", "b", "c"]
    put(tmp_path / "gaps", "0/x.png", "2/x.png")
    assert opened(tmp_path / "gaps").classes is None
    assert opened(tmp_path / "gaps", classes=classes).classes == ("a", "b", "c")


@pytest.mark.parametrize("name", ["c.json", "c.txt", "index.json"])
def test_classes_from_files(tmp_path: Path, name: str) -> None:
    put(tmp_path / "data", "cow/x.png", "ant/x.png")
    text = {
        "c.json": '["cow", "bee", "ant"]',
        "c.txt": "cow\nbee \nant\n\n",
        "index.json": '{"0": "cow", "2": ["n2", "ant"], "1": "bee"}',
    }[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    images = opened(tmp_path / "data", classes=tmp_path / name)
    assert by_name(images) == {"ant/x.png": 2, "cow/x.png": 0}
    assert images.classes == ("cow", "bee", "ant")


def test_empty_class_folders_count_and_linked_and_hidden_ones_are_told_apart(
    tmp_path: Path,
) -> None:
    root = put(
        tmp_path / "data", "cow/x.png", "ant/.hidden.png", ".cache/x.png", "ant/note.txt"
    )
    put(tmp_path / "elsewhere", "y.png")
    (root / "bee").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert by_name(opened(root)) == {"bee/y.png": 1, "cow/x.png": 2}


def test_table_as_data_and_tables_elsewhere(tmp_path: Path) -> None:
    root = put(tmp_path / "data", "a.png", "b.png")
    (root / "labels.csv").write_text("a.png,2\n", encoding="utf-8")
    assert by_name(opened(root / "labels.csv")) == {"a.png": 2}
    labels = tmp_path / "labels.csv"
    labels.write_text("data/a.png,2\ndata/b.png,0\n", encoding="utf-8")
    assert by_name(opened(root, labels=labels)) == {"a.png": 2, "b.png": 0}
    (root / "some.txt").write_text("b.png\n", encoding="utf-8")
    listed = opened(root / "some.txt", labels=labels)
    assert by_name(listed) == {"b.png": 0}, "a list selects: the table may hold more"
    assert by_name(opened(root / "a.png", labels=labels)) == {"a.png": 2}


def test_names_tell_no_absolute_path(tmp_path: Path) -> None:
    root = put(tmp_path / "data", "a.png")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"{root / 'a.png'},1\n", encoding="utf-8")
    images = opened(labels)
    assert images.names == ("a.png",)
    assert str(tmp_path) not in json.dumps(images.to_json()) + str(images)


@pytest.mark.parametrize("spec", [RGB, GREY, LAST, FLAT, KERAS], ids=str)
def test_pixels_give_the_input_that_calibration_gives(
    tmp_path: Path, spec: TensorSpec
) -> None:
    root = put(tmp_path, *ABC, size=(9, 7, 3))
    images = opened(root, spec, image_flags={"mean": 0.3, "std": 0.7})
    colour = spec in (RGB, LAST)
    assert images.pixels.shape == ((3, 3, 5, 6) if colour else (3, 1, 5, 5))
    assert images.pixels.dtype == np.float32
    assert images.pixels.min() >= 0 and images.pixels.max() <= 1
    size = images.pixels.shape[2:]
    transform = Preprocess(
        resize=size if colour else 5,
        crop=size,
        cover=colour,
        color="RGB" if colour else "L",
        mean=(0.3,),
        std=(0.7,),
        layout="NHWC" if spec is LAST else "NCHW",
    )
    want = np.stack([transform(Image.open(root / name)) for name in images.names])
    got = images.normalisation(images.pixels)
    np.testing.assert_array_equal(got, want.reshape(got.shape))
    assert spec.shape is not None and got.shape[1:] == spec.shape[1:]


def test_bgr_models_have_rgb_pixels(tmp_path: Path) -> None:
    put(tmp_path, *ABC)
    plain, swapped = (opened(tmp_path, image_flags={"color": c}) for c in ("RGB", "BGR"))
    np.testing.assert_array_equal(plain.pixels, swapped.pixels)
    assert plain.digest == swapped.digest
    np.testing.assert_array_equal(
        plain.normalisation(plain.pixels)[:, ::-1], swapped.normalisation(plain.pixels)
    )


# What is refused


REFUSED: dict[str, tuple[Setup, str]] = {
    "too few folders": (
        folders("ant", "bee"),
        r"'data' has 2 class folders, but 'net\.onnx' has 3 outputs.*--classes .*--labels",
    ),
    "too many folders": (folders("a", "b", "c", "d"), "4 class folders, but .* has 3"),
    "integers twice": (folders("0_a", "0_b"), "2 class folders, but .* has 3 outputs"),
    "integer out of range": (
        folders("1", "2", "3"),
        r"label 3 of '3/x\.png', but 'net\.onnx' has 3 outputs, so labels are 0 to 2 \(1 of 3"
        r" labels are out of range\): count classes from 0",
    ),
    "folder not in classes": (
        folders("ant", "wasp", classes=["ant", "bee", "cow"]),
        r"class folder 'wasp' of 'data' is none of the 3 class names \(such as 'ant'\)",
    ),
    "other number of classes": (
        folders("ant", classes=["ant"]),
        r"1 class names were given, but 'net\.onnx' has 3 outputs: .*background",
    ),
    "ambiguous class": (
        folders("crane", classes=["crane", "bee", "crane"]),
        r"class name 'crane' stands for the classes \[0, 2\]: give the labels as numbers",
    ),
    "file beside folders": (
        tree(*ABC, "w.png"),
        r"has class folders, and 'w\.png' lies beside them without a label: move it",
    ),
    "no class folders": (
        tree("a.png"),
        "no labels found for 'data', which has no class folder: give a folder with one"
        r" sub-folder per class, or pass --labels with a \.csv",
    ),
    "empty": (tree(), "no labels found for 'data'"),
    "image without label": (
        table("a.png,1\n", "a.png", "b.png"),
        r"image 'b\.png' of 'data' has no label in 'labels\.csv' \(1 of 2 images have none\):"
        " add a row",
    ),
    "label without image": (
        table("a.png,1\nc.png,2\n", "a.png"),
        r"labels 'labels\.csv' name 'c\.png', which is no image in 'data': write paths",
    ),
    "file twice": (table("a.png,1\na.png,1\n", "a.png"), "name 'a.png' twice: keep one row"),
    "twice, spelt otherwise": (table("a.png,1\n./a.png,2\n", "a.png"), "'a.png' twice"),
    "label not an integer": (
        table("a.png,1.5\n", "a.png"),
        r"label '1\.5' of 'a\.png' is no integer: write the index of the class, or pass"
        " --classes",
    ),
    "label not a class": (
        table("a.png,wasp\n", "a.png", classes=["ant", "bee", "cow"]),
        "label 'wasp' of 'a.png' is neither an integer nor a known class name",
    ),
    "label beyond int64": (table("a.png,99999999999999999999\n", "a.png"), "is no integer"),
    "label true": (table('{"a.png": true}', "a.png", name="l.json"), "label True of 'a.png'"),
    "label below 0": (
        table("a.png,-1\n", "a.png", num_classes=None),
        "label -1 of 'a.png', but 'net.onnx' numbers its classes from 0",
    ),
    "three columns": (
        table("a.png,1,2\n", "a.png"),
        r"line 1 of labels '.*' has 3 columns, expected 2 between commas",
    ),
    "semicolons": (table("file,label\na.png;1\n", "a.png"), "line 2 of labels .* 1 columns"),
    "empty table": (table("file,label\n", "a.png"), "hold no label: write one row per image"),
    "json list": (table("[1]", "a.png", name="l.json"), "a JSON list, expected an object"),
    "broken json": (table("{", "a.png", name="l.json"), "read .*: save them as JSON"),
    "other table": (table("", "a.png", name="l.xml"), r"the suffix '\.xml': image files take"),
    "labels missing": (
        tree("a.png", labels="no.csv"),
        r"no\.csv' cannot be read \(No such file or directory\): check the path",
    ),
    "labels as an array": (
        tree("a.png", labels=np.array([1])),
        "no labels found for 'data': give a folder",
    ),
    "damaged image": (
        tree("a.png", texts={"b.png": "no", "l.csv": "a.png,0\nb.png,1\n"}, labels="l.csv"),
        r"sample 'b\.png' cannot be decoded \(not an image .*\): replace it, or take it out of"
        " the data",
    ),
    "missing image": (
        tree("a.png", texts={"l.csv": "b.png,1\n"}, data="l.csv"),
        r"sample 'b\.png' cannot be read \(No such file or directory\): replace it",
    ),
    "sizes do not fit": (
        tree(*ABC, preprocess=Preprocess(resize=(8, 8))),
        r"gives images of 3x8x8 \(channels x height x width\), which do not fit input",
    ),
    "flat and not square": (
        tree(*ABC, spec=TensorSpec("x", "float32", ("n", 48))),
        "is flat and no square of grey values.*give the images as .npz",
    ),
    "table and labels": (
        tree("a.png", texts={"l.csv": "a.png,1\n"}, data="l.csv", labels="l.csv"),
        "'l.csv' is itself a table of labels, and --labels gives others: give one of them",
    ),
    "other suffix": (
        tree("a.png", texts={"l.xml": ""}, data="l.xml"),
        r"has the suffix '\.xml': give a folder of images",
    ),
    "no such folder": (tree(data="nosuch"), "no such file or folder: check the path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    setup, match = REFUSED[case]
    with pytest.raises(DataError, match=match):
        opened(**setup(tmp_path / "data"))  # type: ignore[arg-type]


def test_images_that_differ_or_are_too_deep_are_named(tmp_path: Path) -> None:
    put(tmp_path, *ABC)
    put(tmp_path, ABC[1], size=(7, 6, 3))
    match = (
        r"'bee/sub/y\.png' is 7x6 \(height x width\), but 'ant/x\.png' is 5x6.*--input-size"
    )
    with pytest.raises(DataError, match=match):
        opened(tmp_path, DYNAMIC)
    Image.new("I;16", (6, 4)).save(tmp_path / ABC[0])
    with pytest.raises(DataError, match=r"'ant/x\.png': image mode 'I;16' holds more than 8"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        ("ant\n\nbee", "c.txt", "have '' for the class 1, which is no name: give a JSON list"),
        ("", "c.txt", "hold no name: give a JSON list"),
        ('{"0": "a", "2": "b"}', "c.json", "have 2 entries and none for the class 1: number"),
        ('["a", 3]', "c.json", "have 3 for the class 1, which is no name"),
        ('["a", []]', "c.json", r"have \[\] for the class 1"),
        ('"a"', "c.json", "hold no name"),
        ("{", "c.json", r"class names '.*c\.json' cannot be read"),
        (None, "c.json", r"cannot be read \(No such file or directory\): check the path"),
    ],
)
def test_class_names_that_are_refused(
    tmp_path: Path, text: str | None, name: str, match: str
) -> None:
    put(tmp_path / "data", *ABC)
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=match):
        opened(tmp_path / "data", classes=tmp_path / name)


def test_too_many_pixels_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *ABC)
    monkeypatch.setattr(image_pixels, "_MAX_BYTES", 2 * 4 * 90)
    with pytest.raises(
        DataError, match=r"3 images of 3x5x6 .* above the limit .*--samples 2 or"
    ):
        opened(tmp_path)
    assert len(opened(tmp_path, samples=2).pixels) == 2
