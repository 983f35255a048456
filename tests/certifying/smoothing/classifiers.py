"""Small classifiers in ONNX's text form, and counting as anyone would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.certifying.smoothing.noise import ImageNoise, Stream
from lipcompile.labelled import LabelledImages, Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session, open_session
from tests.conftest import _externalise

DIMS = (2, 3, 3)
VALUES = 18
CLASSES = 3
ONE_THREAD = RuntimeOptions(threads=1)
PLAIN = Normalisation()
_RNG = np.random.default_rng(5)
WEIGHTS = _RNG.normal(size=(VALUES, CLASSES)).astype(np.float32)
BIAS = np.array([0.3, 0.1, -0.2], np.float32)
LINEAR = "f = Flatten (x)  y = Gemm (f, W, B)"


def proto(
    body: str = LINEAR,
    *,
    opset: int = 17,
    dtype: str = "float",
    shape: str = "N,2,3,3",
    outputs: str | None = None,
    **arrays: np.ndarray,
) -> onnx.ModelProto:
    """Capital letters are initializers: W [18, 3], B [3], and those of `arrays`."""
    batch = shape.partition(",")[0]
    outputs = outputs or f"{dtype}[{batch},{CLASSES}] y"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> '
        f"g ({dtype}[{shape}] x) => ({outputs}) {{ {body} }}"
    )
    kind = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    weights = {"W": WEIGHTS.astype(kind), "B": BIAS.astype(kind)} | arrays
    used = {name for node in model.graph.node for name in node.input}
    for name, array in weights.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def loaded(*arguments: Any, **options: Any) -> LoadedModel:
    return model_io.load(proto(*arguments, **options))


def external(folder: Path) -> LoadedModel:
    """The linear classifier with its weights in a file."""
    model = proto()
    _externalise(model.graph.initializer[0], folder / "net.bin")
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return model_io.load(folder / "net.onnx")


def images(
    count: int = 3, normalisation: Normalisation = PLAIN, seed: int = 0
) -> LabelledImages:
    pixels = np.random.default_rng(seed).random((count, *DIMS), np.float32)
    labels = np.arange(count) % CLASSES
    names = tuple(f"image[{i}]" for i in range(count))
    return LabelledImages(pixels, labels, names, normalisation, "made up", count)


def noisy_inputs(
    normalisation: Normalisation, pixels: np.ndarray, sigma: float, draws: int, seed: int = 0
) -> np.ndarray:
    """What the model gets for the first counting draws, noise added to the pixels in float64.

    Differs from the graph by rounding, and for float16 inputs not even by that.
    """
    shape = normalisation(pixels[None]).shape[1:]
    noise = ImageNoise(pixels, seed, shape).draws(Stream.COUNT, 0, draws).astype(np.float64)
    if normalisation.shape is not None:
        turned = (3, 3, 2) if normalisation.layout == "NHWC" else DIMS
        noise = noise.reshape(draws, *turned)
    if normalisation.layout == "NHWC":
        noise = noise.transpose(0, 3, 1, 2)
    if normalisation.swaps_channels:
        noise = noise[:, ::-1]
    return normalisation((pixels + sigma * noise).astype(np.float32))


def scores_alone(model: LoadedModel, inputs: np.ndarray, output: str = "y") -> np.ndarray:
    """Scores of the file as it is, one row after the other, which fills a fixed batch."""
    session: Session = open_session(
        model.path or model_io.serialize(model.proto), ONE_THREAD, model.base_dir
    )
    fixed = model.inputs[0].fixed_batch or 1
    rows = [
        session.run([output], {"x": np.repeat(row[None], fixed, axis=0)})[output][:1]
        for row in inputs
    ]
    return np.concatenate(rows).reshape(len(inputs), -1)


def counted(scores: np.ndarray) -> np.ndarray:
    """int64 [K]: NaN rows count for no class."""
    known = scores[~np.isnan(scores).any(axis=1)]
    return np.bincount(known.argmax(axis=1), minlength=scores.shape[1])
