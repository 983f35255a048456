"""onnx-graphsurgeon: a Graph in, a Graph out, as TensorRT's users hold them.

A Graph has no place for `metadata_props`: exporting one writes a model without provenance,
which is hardened all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile.errors import SelectionError
from tests.neighbours.cases import CR, Case, options_of, provenance

gs = pytest.importorskip("onnx_graphsurgeon")


def test_graph_route_equals_path_route(
    case: Case, form: str, harden: Callable[..., Path]
) -> None:
    """The exported Graph is what the path route wrote, read and exported by graphsurgeon."""
    graph = gs.import_onnx(onnx.load(case.path))
    result = lipcompile.harden(graph, case.calibration, cr=CR, **options_of(form))
    assert isinstance(result.model, gs.Graph)
    exported = gs.export_onnx(result.model)
    by_path = gs.export_onnx(gs.import_onnx(onnx.load(harden(case))))
    assert sorted(map(_shape, exported.graph.node)) == sorted(map(_shape, by_path.graph.node))
    np.testing.assert_array_equal(case.outputs(exported), case.outputs(harden(case)))
    assert not provenance(exported)


def test_inserted_nodes_are_recognised_without_provenance(case: Case) -> None:
    """By their names, so that nothing is forged twice.

    (What an encoding changed in place, a Relu or a bias, keeps its own name, and is recognised
    by the provenance alone.)
    """
    graph = gs.import_onnx(onnx.load(case.path))
    hardened = lipcompile.harden(graph, case.calibration, form="smooth", cr=CR).model
    with pytest.raises(SelectionError, match="already-hardened"):
        lipcompile.harden(hardened, case.calibration, form="smooth", cr=CR)


def _shape(node: onnx.NodeProto) -> tuple[str, ...]:
    return (node.op_type, *node.input, "->", *node.output)
