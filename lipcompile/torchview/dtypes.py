"""Element types of ONNX and torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

_TORCH_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
}
_STORAGE_ONLY = frozenset({torch.uint16, torch.uint32, torch.uint64})


def torch_dtype(code: int | ir.DataType) -> torch.dtype | None:
    """torch's name of an ONNX element type, or None where torch has none."""
    try:
        return _TORCH_TYPES.get(ir.DataType(code))
    except ValueError:
        return None


def to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor with its own copy of `array`.

    Raises:
        TypeError: torch has no such element type.
    """
    if array.dtype == ml_dtypes.bfloat16:
        bits = torch.from_numpy(np.array(array).view(np.int16).copy())
        return bits.view(torch.bfloat16)
    return torch.from_numpy(np.array(array))  # a copy: arrays of a model are read-only


def widened(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function` for the unsigned types as well that torch can store but not compute with."""

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        narrow = next((a.dtype for a in arguments if a.dtype in _STORAGE_ONLY), None)
        if narrow is None:
            return function(*arguments)
        wide = (a.to(torch.int64) if a.dtype == narrow else a for a in arguments)
        result = function(*wide)
        return result.to(narrow) if result.dtype == torch.int64 else result

    return run
