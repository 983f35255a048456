"""One entry per loader: bytes of one file in, `watching.Defect` out if it misbehaves.

Commands of the tool are called wherever that is quick; the others go through the library,
where a refusal is an `InputError`, and any other exception a defect.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources import opening
from lipcompile.calibration.sources.image_files import decode
from lipcompile.errors import InputError
from lipcompile.labelled.class_names import read_classes
from lipcompile.labelled.label_tables import read_label_column, read_label_table
from lipcompile.layer_cr import read_cr_file
from lipcompile.signature import TensorSpec
from tests.fuzzing import mutating
from tests.fuzzing.subjects import Subjects
from tests.fuzzing.watching import command, refusal, time_limit

IMAGE = TensorSpec("x", "float32", ("n", 3, 8, 8))
FREE_IMAGE = TensorSpec("x", "float32", ("n", 3, "h", "w"))
_FEW = 3  # samples that are read of what opens


@dataclass(frozen=True)
class Harness:
    """What to do with the bytes of one kind of file.

    Attributes:
        check: Writes the bytes into the folder, reads them as the tool does, and watches.
        mutate: Damages such a file, and mostly keeps its structure.
        seeds: Sound files to begin with.
    """

    check: Callable[[bytes, Path, Subjects], None]
    mutate: mutating.Mutator
    seeds: Callable[[Subjects], list[bytes]]


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@contextmanager
def _refusable() -> Iterator[None]:
    with time_limit(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield
        except InputError as error:
            refusal(error)


def inspect_model(data: bytes, folder: Path, made: Subjects) -> None:
    """A model whose external weights, if it names any, may lie beside it."""
    _put(folder, "net.bin", bytes(1000))
    path = _put(folder, "m.onnx", data)
    command("inspect", path, "--rule", "all")
    command("inspect", path, "--format", "json")


def harden_model(data: bytes, folder: Path, made: Subjects) -> None:
    """The whole way, with ONNX Runtime; nothing is written."""
    path = _put(folder, "m.onnx", data)
    options = ("--calib", "random:1", "--rule", "all", "--cr", "0.1", "--threads", "1")
    command("harden", *options, "--dry-run", "--no-progress", path)


def provenance(data: bytes, folder: Path, made: Subjects) -> None:
    """A hardened model of which another program changed the metadata, or anything else."""
    original = _put(folder, "original.onnx", made.model)
    path, stripped = _put(folder, "m.onnx", data), folder / "stripped.onnx"
    command("inspect", path)
    command("strip", "-o", stripped, path, changes=[stripped])
    stripped.unlink(missing_ok=True)
    # A gate that fails is what a damaged model should lead to.
    command(
        "verify", "--pairs", "0", "--samples", "1", "--threads", "1", original, path, gate=True
    )


def table(data: bytes, folder: Path, made: Subjects) -> None:
    path = _put(folder, "t.json", data)
    model = _put(folder, "m.onnx", made.model)
    other, merged = _put(folder, "other.json", made.other_table), folder / "merged.json"
    options = ("--rule", "all", "--threads", "1", "--dry-run", "--no-progress")
    command("harden", model, *options, "--table", path)
    command("merge", "-o", merged, other, path, changes=[merged])
    merged.unlink(missing_ok=True)


def preprocess(data: bytes, folder: Path, made: Subjects) -> None:
    """A Hugging Face or timm config, and what it does to an image."""
    path = _put(folder, "preprocessor_config.json", data)
    image = decode(made.image, "image.png")
    for spec in (IMAGE, FREE_IMAGE):
        with _refusable():
            transform = resolve(spec, path)
            assert Preprocess.from_json(transform.to_json()) == transform
            transform(image)
            str(transform)


def image(data: bytes, folder: Path, made: Subjects) -> None:
    path = _put(folder, "image.png", data)
    for transform in (Preprocess(resize=9, crop=(8, 8)), Preprocess(color="L")):
        spec = IMAGE if transform.crop else TensorSpec("x", "float32", ("n", 1, "h", "w"))
        with _refusable():
            for _ in opening.open_source(path, [spec], preprocess=lambda t=transform: t):
                pass


def arrays(data: bytes, folder: Path, made: Subjects) -> None:
    """A stack of samples; and one sample in a folder."""
    suffix = ".npz" if data[:2] == b"PK" else ".npy"
    (folder / "few").mkdir(exist_ok=True)
    path = _put(folder / "few", f"data{suffix}", data)
    for source in (path, path.parent):
        with _refusable():
            opened = opening.open_source(source, [IMAGE], preprocess=None, samples=_FEW)
            for _ in opened:
                pass
    path.unlink()


def list_file(data: bytes, folder: Path, made: Subjects) -> None:
    _put(folder, "image.png", made.image)
    path = _put(folder, "list.txt", data)
    with _refusable():
        opened = opening.open_source(
            path, [IMAGE], preprocess=lambda: Preprocess(resize=(8, 8)), samples=_FEW
        )
        for _ in opened:
            pass


def settings(data: bytes, folder: Path, made: Subjects) -> None:
    """lipcompile.toml, and a file of c_r per layer."""
    model = _put(folder, "m.onnx", made.model)
    path = _put(folder, "settings.toml", data)
    command("inspect", "-c", path, model)
    for name in ("cr.toml", "cr.json"):
        with _refusable():
            read_cr_file(_put(folder, name, data))


def labels(data: bytes, folder: Path, made: Subjects) -> None:
    """Labels in CSV and JSON, and names of classes."""
    for name in ("labels.csv", "labels.json"):
        path = _put(folder, name, data)
        with _refusable():
            read_label_table(path, None)
        with _refusable():
            read_label_column(path, read_classes(["cat", "dog"]))
        with _refusable():
            read_classes(path)


def result(data: bytes, folder: Path, made: Subjects) -> None:
    """A result from which a report is made."""
    path = _put(folder, "result.json", data)
    command("report", path)


def _models(made: Subjects) -> list[bytes]:
    return [made.model, made.hardened, *map(_parsed, _TEXTS)]


def _parsed(text: str) -> bytes:
    return onnx.parser.parse_model(text).SerializeToString()


_TEXTS = (
    """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[2,2] x, bool c) => (float[2,2] y)
    <float[2,2] w = {1, 2, 3, 4}> {
        t = If (c) <
            then_branch = a () => (float[2,2] u) { u = MatMul (x, w) },
            else_branch = b () => (float[2,2] v) { v = Identity (x) }>
        y = local.twice (t, w)
    }
    <domain: "local", opset_import: ["": 17]>
    twice (a, b) => (c) { k = MatMul (a, b)  c = Relu (k) }""",
    """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x) => (float[n,2] y)
    <int8[2,4] q = {1, 2, 3, 4, 5, 6, 7, 8}, float s = {0.5}, int64[2] p = {-1, 4}> {
        r = Relu (x)
        f = Reshape (r, p)
        d = DequantizeLinear (q, s)
        w = Transpose <perm = [1, 0]> (d)
        h = MatMul (f, w)
        m, i = MaxPool <kernel_shape = [1]> (h)
        y = Softmax (h)
    }""",
)


def _results(made: Subjects) -> list[bytes]:
    return [made.result]


_HUGGING_FACE = b"""{"image_processor_type": "ConvNextImageProcessor", "do_resize": true,
"size": {"shortest_edge": 9}, "crop_pct": 0.875, "do_center_crop": true, "crop_size": 8,
"do_normalize": true, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3],
"resample": 3, "do_rescale": true, "rescale_factor": 0.0039}"""
_TIMM = b"""{"architecture": "resnet", "pretrained_cfg": {"input_size": [3, 8, 8],
"interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2],
"crop_mode": "squash"}}"""
_SETTINGS = b"""[inspect]
rule = "all"
include = ["Gemm", "Conv.*"]
format = "json"
"""
_CR = b"""default = "2^-7"
"Gemm" = 0.01
'Conv.*' = "1/128"
"""


def _images(made: Subjects) -> list[bytes]:
    from tests.fuzzing.seeds import encoded_images

    return encoded_images()


def _arrays(made: Subjects) -> list[bytes]:
    from tests.fuzzing.seeds import array_files

    return array_files()


HARNESSES = {
    "model": Harness(inspect_model, mutating.model, _models),
    "harden": Harness(harden_model, mutating.model, _models),
    "provenance": Harness(
        provenance,
        mutating.provenance,
        lambda made: [made.hardened, made.weight, made.ensemble],
    ),
    "table": Harness(table, mutating.document, lambda made: [made.table]),
    "preprocess": Harness(preprocess, mutating.document, lambda made: [_HUGGING_FACE, _TIMM]),
    "image": Harness(image, mutating.damaged, _images),
    "arrays": Harness(arrays, mutating.array, _arrays),
    "list": Harness(
        list_file, mutating.text, lambda made: [b"# two\nimage.png\n./image.png\n"]
    ),
    "settings": Harness(settings, mutating.text, lambda made: [_SETTINGS, _CR]),
    "labels": Harness(
        labels,
        mutating.text_or_document,
        lambda made: [b"file,label\na.png,1\nb.png,cat\n", b'{"labels": {"a.png": 1}}'],
    ),
    "result": Harness(result, mutating.document, _results),
}


def mutated(name: str, data: bytes, rng: random.Random) -> bytes:
    """A damaged copy of a file; as bytes, where it is too damaged to be edited."""
    try:
        return HARNESSES[name].mutate(data, rng)
    except Exception:
        return mutating.damaged(data, rng)
