"""A classifier inside of an ensemble, to be edited, and checked against its original."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import onnx

import lipcompile
from lipcompile import ScanOptions, Selector, VerifyResult
from tests.ensembles.models import Network
from tests.ensembles.test_composition import ENSEMBLES, VARIANTS

ENSEMBLE, OURS = "ensemble", "lipcompile.ensemble"  # the check, and the key


@cache
def pristine(variant: str, ensemble: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    original = Network(ending="LogSoftmax").proto()
    options: dict[str, Any] = {"calib": "random:4", "selector": Selector("all"), "cr": 0.1}
    options = {} if variant == "none" else options | VARIANTS[variant]
    hardened = lipcompile.harden(original, ensemble=ENSEMBLES[ensemble], **options)
    return original, hardened.model


def made(variant: str, ensemble: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The original, and the same inside of an ensemble, to edit."""
    original, hardened = pristine(variant, ensemble)
    return original, copy.deepcopy(hardened)


def check(original: onnx.ModelProto | Path, hardened: onnx.ModelProto | Path) -> VerifyResult:
    few = ScanOptions(samples=12)
    return lipcompile.verify(original, hardened, scan=few, pairs=0)
