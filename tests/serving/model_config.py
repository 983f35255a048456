"""Triton's own schema, where tritonclient is installed; and what its server asks for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest


def model_config_pb2() -> Any:
    """The generated module, loaded alone: its package imports grpc as well."""
    name = "tritonclient/grpc/model_config_pb2.py"
    try:
        distribution = importlib.metadata.distribution("tritonclient")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tritonclient is not installed")
    path = Path(str(distribution.locate_file(name)))
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(text: str) -> Any:
    """A config.pbtxt as Triton's ModelConfig; whatever it cannot read is an error."""
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_pb2().ModelConfig())


def complaints(config: Any, reported: dict[str, list[int]]) -> list[str]:
    """What Triton's server and its onnxruntime backend would refuse.

    After ValidateIOShape in triton-inference-server/core, and CompareDimsSupported in the
    backend.

    Args:
        config: A ModelConfig.
        reported: Shape of each tensor as a session reports it, -1 where an axis is dynamic.
    """
    found = []
    batched = config.max_batch_size > 0
    for tensor in (*config.input, *config.output):
        dims = list(tensor.dims)
        empty = tensor.HasField("reshape") and not tensor.reshape.shape
        if not dims or any(axis < 1 and axis != -1 for axis in dims):
            found.append(f"{tensor.name}: dims {dims}")
        if empty and not batched:
            found.append(f"{tensor.name}: empty reshape without a batch")
        full = [*([-1] if batched else []), *([] if empty else dims)]
        scalar = not reported[tensor.name] and set(dims) <= {1}
        if full != reported[tensor.name] and not scalar:
            found.append(f"{tensor.name}: {full} is not {reported[tensor.name]}")
    return found
