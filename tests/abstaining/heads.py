"""Small classifiers with an abstain head, and what such a head should say."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.abstaining.head import Abstention, plan_abstention
from lipcompile.abstaining.options import AbstainOptions
from lipcompile.abstaining.wrapping import put_on
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.labelled.pixel_domain import PixelDomain
from lipcompile.runtime import RuntimeOptions, open_session

SIDE, CLASSES = 5, 5
QUIET = RuntimeOptions(threads=1)
DTYPES = {"float32": "float", "float64": "double"}


def linear(
    opset: int = 17,
    dtype: str = "float32",
    batch: str = "N",
    classes: str = str(CLASSES),
    ending: str = "",
    seed: int = 0,
    scale: float = 1.0,
) -> onnx.ModelProto:
    """z = W x + b on grey images of 5 by 5 pixels, of which every bound is exact."""
    kind, z = DTYPES[dtype], "z" if ending else "y"
    last = f" y = {ending}<axis = 1>(z)" if ending else ""
    model = onnx.parser.parse_model(
        f'<ir_version: 7, opset_import: ["": {opset}]> g ({kind}[{batch},1,{SIDE},{SIDE}] x) '
        f"=> ({kind}[{batch},{classes}] y) {{ f = Flatten(x) {z} = Gemm(f, W, B){last} }}"
    )
    rng = np.random.default_rng(seed)
    arrays = {"W": rng.normal(size=(SIDE**2, CLASSES)) * scale, "B": rng.normal(size=CLASSES)}
    for name, array in arrays.items():
        tensor = numpy_helper.from_array((array / 4).astype(dtype), name)
        model.graph.initializer.append(tensor)
    return model


def pixels(dtype: str = "float32", side: int = SIDE) -> PixelDomain:
    return PixelDomain(Normalisation(dtype=dtype), (1, side, side))


def with_head(proto: onnx.ModelProto, **options: Any) -> tuple[Any, Abstention]:
    """The model with its head, and the plan."""
    source = model_io.load(proto)
    dtype = str(source.inputs[0].dtype)
    plan = plan_abstention(source, AbstainOptions(**options), pixels(dtype))
    return put_on(source, proto, plan), plan


def images(count: int, dtype: str = "float32", seed: int = 1, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((count, 1, side, side), np.float32).astype(dtype)


def run(proto: Any, x: np.ndarray, *outputs: str) -> list[np.ndarray]:
    session = open_session(proto.SerializeToString(), QUIET)
    name = proto.graph.input[0].name
    found = session.run(list(outputs), {name: x})
    return [found[output] for output in outputs]


def by_definition(
    logits: np.ndarray, slopes: np.ndarray, eps: float, top: int = 1
) -> np.ndarray:
    """bool [N], in float64 and by the words of the definition: fewer than k classes can
    overtake the answer."""
    wide = logits.astype(np.float64)
    rows = []
    for z in wide:
        y = int(z.argmax())
        overtaking = [j for j in range(len(z)) if j != y and z[y] <= z[j] + eps * slopes[y, j]]
        rows.append(len(overtaking) < top)
    return np.array(rows)
