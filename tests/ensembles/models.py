"""Small image classifiers of many kinds, wrapped, and run in two evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from lipcompile import model_io
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.ensembles.plan import plan_ensembles
from lipcompile.ensembles.wrapping import wrap

CLASSES = 5
HEIGHT, WIDTH, SIDE = 12, 16, 12  # the last of a flat image, which is square
_FRONT = {
    "NCHW": "i = Identity(x)",
    "NHWC": "i = Transpose<perm = [0, 3, 1, 2]>(x)",
    "grey": "i = Reshape(x, GREY)",
    "flat": "i = Reshape(x, PLANES)",
    "flat NHWC": "e = Reshape(x, PIXELS) i = Transpose<perm = [0, 3, 1, 2]>(e)",
    "uint8": "j = Cast<to = 1>(x) i = Mul(j, SCALE)",
}
_MIDDLE = (
    "a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(i, K, B) r = Relu(a) "
    "b = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r, L) s = Relu(b) f = Flatten(s)"
)
_KINDS = {"float32": "float", "float64": "double"}
_RNG = np.random.default_rng(0)
_ARRAYS = {
    "K": _RNG.normal(size=(6, 3, 3, 3)).astype(np.float32),
    "W": _RNG.normal(size=(6, CLASSES)).astype(np.float32),
    "TWO": np.array(2, np.float32),
    "YES": np.array(True),
    "ONE_ROW": np.array([1, 6]),
}


@dataclass(frozen=True)
class Network:
    """A classifier; the same fields give the same bytes.

    Attributes:
        opset: Below 9 its initializers are inputs, as they had to be then.
        dtype: Of its input, and but for uint8 of everything in it.
        layout: A key of `_FRONT`.
        ending: "Softmax", "LogSoftmax", or "" for logits.
        batch: Length of axis 0.
    """

    opset: int = 17
    dtype: str = "float32"
    layout: str = "NCHW"
    ending: str = ""
    batch: str = "N"

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        if self.layout.startswith("flat"):
            return 3, SIDE, SIDE
        return 1 if self.layout == "grey" else 3, HEIGHT, WIDTH

    @property
    def convolves(self) -> bool:
        """Not in float64, which ONNX Runtime lacks, nor in bfloat16, new in opset 22."""
        return self.dtype not in ("float64", "bfloat16")

    def proto(self) -> onnx.ModelProto:
        middle = _MIDDLE if self.convolves else "f = Flatten(i)"
        front = _FRONT["uint8" if self.dtype == "uint8" else self.layout]
        end = f"z = Gemm(f, W, D) y = {self.ending or 'Identity'}(z)"
        shape = self.folded(np.zeros((1, *self.image))).shape[1:]
        kind = _KINDS.get(self.dtype, self.dtype)
        model = parse(
            f"{front} {middle} {end}",
            f"{kind}[{self.batch},{','.join(map(str, shape))}] x",
            f"{'float' if kind == 'uint8' else kind}[{self.batch},{CLASSES}] y",
            self.opset,
        )
        add_initializers(model, self._arrays())
        return model

    def _arrays(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        channels, height, width = self.image
        features = 4 * (height // 4) * (width // 4)
        if not self.convolves:
            features = channels * height * width
        shapes: dict[str, tuple[int, ...]] = {
            "K": (6, channels, 3, 3),
            "B": (6,),
            "L": (4, 6, 3, 3),
            "W": (features, CLASSES),
            "D": (CLASSES,),
        }
        dtype = "float32" if self.dtype == "uint8" else self.dtype
        return {
            **{k: (0.3 * rng.normal(size=v)).astype(dtype) for k, v in shapes.items()},
            "SCALE": np.array(1 / 255, np.float32),
            "GREY": np.array([0, 1, HEIGHT, WIDTH]),
            "PLANES": np.array([0, 3, SIDE, SIDE]),
            "PIXELS": np.array([0, SIDE, SIDE, 3]),
        }

    def batch_of(self, count: int) -> np.ndarray:
        """Random images, as the model takes them."""
        rng = np.random.default_rng(count)
        if self.dtype == "uint8":
            return self.folded(rng.integers(0, 256, (count, *self.image), np.uint8))
        return self.folded(rng.uniform(-1, 1, (count, *self.image)).astype(self.dtype))

    def folded(self, images: np.ndarray) -> np.ndarray:
        """[N, C, H, W] as the model takes it."""
        if self.layout.endswith("NHWC"):
            images = images.transpose(0, 2, 3, 1)
        if self.layout.startswith("flat"):
            images = images.reshape(len(images), -1)
        return np.ascontiguousarray(images[:, 0] if self.layout == "grey" else images)

    def unfolded(self, batch: np.ndarray) -> np.ndarray:
        """The inverse of `folded`."""
        channels, height, width = self.image
        if self.layout.endswith("NHWC"):
            return batch.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        return batch.reshape(-1, channels, height, width)


def parse(body: str, inputs: str, outputs: str, opset: int = 17) -> onnx.ModelProto:
    """A model in ONNX's text form, without initializers."""
    version = 3 if opset < 9 else 8 if opset < 20 else 10
    return onnx.parser.parse_model(
        f'<ir_version: {version}, opset_import: ["": {opset}], producer_name: "maker"> '
        f"g ({inputs}) => ({outputs}) {{ {body} }}"
    )


def add_initializers(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> None:
    """Those that the graph reads; in IR version 3 they are inputs as well."""
    read = {name for node in model.graph.node for name in node.input}
    for name, array in arrays.items():
        if name in read:
            tensor = numpy_helper.from_array(array, name)
            model.graph.initializer.append(tensor)
            if model.ir_version < 4:
                info = onnx.helper.make_tensor_value_info(name, tensor.data_type, array.shape)
                model.graph.input.append(info)


def small(body: str, batch: str = "N", more_inputs: str = "") -> onnx.ModelProto:
    """Pooled maps [N, 6, 1, 1] in "p", made scores "y" by the body."""
    model = parse(
        f"a = Conv(x, K) r = Relu(a) p = GlobalAveragePool(r) {body}",
        f"float[{batch},3,{HEIGHT},{WIDTH}] x{more_inputs}",
        f"float[{batch},{CLASSES}] y",
    )
    add_initializers(model, _ARRAYS)
    return model


def wrapped(proto: onnx.ModelProto, views: str, way: Any, **options: Any) -> onnx.ModelProto:
    """`proto` in an ensemble; nothing of the package checks the result."""
    loaded = model_io.load(proto)
    (ensemble,) = plan_ensembles(loaded, EnsembleOptions(views, by=way, **options))
    result: onnx.ModelProto = wrap(loaded, loaded.proto, ensemble)
    return result


def in_runtime(proto: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """The first output, from ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def in_reference(proto: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """The first output, from ONNX's reference evaluator."""
    return ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: batch})[0]
