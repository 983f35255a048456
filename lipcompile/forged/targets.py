"""Targets: where a hardened model will run, which decides how a form is written.

portable   ONNX operators that every runtime knows, exact in every float type (default)
ort-cpu    ONNX Runtime on the CPU: what stays in its blocked layout (NCHWc), and has a fast
           kernel there
ort-cuda   ONNX Runtime on CUDA: as few kernels as possible
tensorrt   TensorRT: operators of its published support list alone

All encodings of one form compute the same function; a target never changes what a model
computes, only how fast.
"""

from __future__ import annotations

from typing import Literal, get_args

from lipcompile.errors import OptionError

Target = Literal["portable", "ort-cpu", "ort-cuda", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)


def check_target(name: str) -> Target:
    """Returns `name` as a target.

    Raises:
        OptionError: There is no such target.
    """
    for target in TARGETS:
        if name == target:
            return target
    raise OptionError(f"target '{name}' is unknown: use {', '.join(TARGETS)}")
