"""onnxslim over a hardened file.

What it keeps: every output bit for bit, the names of inserted nodes and of forged tensors, and
the model's `lipcompile.*` metadata. What it drops: the metadata of nodes, by which `force`
tells what was rewritten in place; and Constant nodes, whose values become initializers.
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

onnxslim = pytest.importorskip("onnxslim")


def test_hardened_file_slims(case: Case, harden: Callable[..., Path], tmp_path: Path) -> None:
    hardened, slimmed = harden(case), tmp_path / "slim.onnx"
    onnxslim.slim(str(hardened), str(slimmed))
    expected = case.outputs(hardened)
    # Nothing is reordered; 1e-6 of the largest leaves room for a constant folded otherwise.
    np.testing.assert_allclose(
        case.outputs(slimmed), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )
    before, after = onnx.load(hardened), onnx.load(slimmed)
    assert inserted_nodes(before) <= inserted_nodes(after)
    assert forged_tensors(before) <= computed_tensors(after)
    assert provenance(after) == provenance(before)
    assert not marked_nodes(after)
