"""onnxsim (onnx-simplifier) over a hardened file.

What it keeps: every output bit for bit, the names of inserted nodes and of forged tensors, and
the model's `lipcompile.*` metadata, beside keys of its own (`onnxsim.*`). What it drops: the
metadata of nodes, by which `force` tells what was rewritten in place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.neighbours.cases import (
    Case,
    computed_tensors,
    forged_tensors,
    inserted_nodes,
    marked_nodes,
    provenance,
)

onnxsim = pytest.importorskip("onnxsim")


def test_hardened_file_simplifies(case: Case, harden: Callable[..., Path]) -> None:
    hardened = harden(case)
    before = onnx.load(hardened)
    after, verified = onnxsim.simplify(str(hardened))
    assert verified
    expected = case.outputs(hardened)
    # Nodes are sorted anew; 1e-6 of the largest leaves room for a constant folded otherwise.
    np.testing.assert_allclose(
        case.outputs(after), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )
    assert inserted_nodes(before) <= inserted_nodes(after)
    assert forged_tensors(before) <= computed_tensors(after)
    assert provenance(after) == provenance(before)
    assert not marked_nodes(after)
