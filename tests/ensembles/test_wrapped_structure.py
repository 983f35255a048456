"""What a wrapped model is made of: valid ONNX, the same signature and weights; a way back."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from lipcompile import model_io
from lipcompile.ensembles.wrapping import unwrap
from tests.ensembles.models import Network, wrapped
from tests.ensembles.seen import VIEWS

FLAT = {"image_input": "x", "layout": "NCHW"}
NETWORKS: dict[str, tuple[Network, dict[str, str]]] = {
    **{f"opset {opset}": (Network(opset), {}) for opset in (9, 10, 11, 13, 18, 21)},
    **{dtype: (Network(dtype=dtype), {}) for dtype in ("float16", "float64", "bfloat16")},
    "channels last": (Network(layout="NHWC"), {}),
    "grey": (Network(layout="grey"), {"image_input": "x"}),
    "flat": (Network(layout="flat"), FLAT),
    "logits": (Network(ending="Softmax"), {"mean": "logits"}),
    "probabilities": (Network(ending="Softmax"), {"mean": "probabilities"}),
    "logarithms": (Network(ending="LogSoftmax"), {"mean": "probabilities"}),
    "bfloat16 probabilities": (Network(dtype="bfloat16"), {"mean": "probabilities"}),
    "batches of 4": (Network(batch="4"), {}),
}

ways = pytest.mark.parametrize("way", ["batch", "branches"])
networks = pytest.mark.parametrize(("network", "options"), NETWORKS.values(), ids=NETWORKS)


def as_bytes(proto: onnx.ModelProto) -> bytes:
    """Without what LipCompile says of it."""
    kept = [p for p in proto.metadata_props if not p.key.startswith("lipcompile.")]
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    del copied.metadata_props[:]
    copied.metadata_props.extend(kept)
    return copied.SerializeToString(deterministic=True)


def unwrapped(proto: onnx.ModelProto) -> onnx.ModelProto:
    inner, ensemble = unwrap(model_io.load(proto))
    assert ensemble is not None
    result: onnx.ModelProto = inner.proto
    return result


# Valid, and nothing but what it was


@networks
@pytest.mark.parametrize("name", VIEWS)
@ways
def test_onnx_accepts_it(network: Network, options: Any, name: str, way: str) -> None:
    model = wrapped(network.proto(), name, way, **options)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, True, True, True)


@pytest.mark.parametrize("name", ["shift:2", "scale:0.9"])
@ways
def test_onnx_accepts_the_first_opset(name: str, way: str) -> None:
    onnx.checker.check_model(wrapped(Network(7).proto(), name, way), full_check=True)


@networks
@ways
def test_signature_and_weights_stay(network: Network, options: Any, way: str) -> None:
    proto = network.proto()
    model = wrapped(proto, "flip+scale:1.2", way, **options)
    for field in ("input", "output", "initializer", "value_info"):
        assert list(getattr(model.graph, field)) == list(getattr(proto.graph, field))
    for field in ("ir_version", "opset_import", "producer_name", "functions"):
        assert getattr(model, field) == getattr(proto, field)


@networks
@ways
def test_the_way_back(network: Network, options: Any, way: str) -> None:
    proto = network.proto()
    before = proto.SerializeToString(deterministic=True)
    model = wrapped(proto, "flip*shift:1", way, **options)
    assert proto.SerializeToString(deterministic=True) == before
    assert as_bytes(model) != before
    assert as_bytes(unwrapped(model)) == before


@networks
@ways
def test_the_same_bytes_each_time(network: Network, options: Any, way: str) -> None:
    first, again = (wrapped(network.proto(), "flip+scale:1.2", way, **options) for _ in "12")
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(
        deterministic=True
    )
