"""What holds for every hardened model: untouched nodes, forged tensors by definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lipcompile import HardenResult


def assert_only_forged_nodes_changed(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    old = {tuple(node.output): node for node in before.graph.node}
    new = {tuple(node.output): node for node in after.graph.node}
    assert list(old) == [outputs for outputs in new if outputs in old], "order changed"
    for outputs in new.keys() - old.keys():
        assert all(name.startswith("lipcompile/") for name in outputs)
    for outputs, node in old.items():
        if new[outputs] == node:
            continue
        forged_input = any(name.startswith("lipcompile/") for name in new[outputs].input)
        in_place = new[outputs].op_type == "ThresholdedRelu" and node.op_type == "Relu"
        assert forged_input or in_place, f"{node.name} changed"
    for field in ("input", "output", "initializer", "value_info"):
        assert list(getattr(before.graph, field)) == list(getattr(after.graph, field))
    assert list(before.opset_import) == list(after.opset_import)
    assert before.ir_version == after.ir_version


def assert_forged_tensors_equal_definition(
    output: Path, result: HardenResult, feeds: dict[str, np.ndarray]
) -> None:
    model = onnx.load(output)
    records = json.loads(
        next(p.value for p in model.metadata_props if p.key == "lipcompile.sites")
    )
    assert records
    tensors = fetch(model, records, feeds)
    for record in records:
        pre_relu = record["tensor"] == record["forged"]
        source = _relu_input(model, record["tensor"]) if pre_relu else record["tensor"]
        x = np.maximum(tensors[source], 0) if pre_relu else tensors[source]
        expected = result.form(x, record["c"])
        if result.form.name == "hard":
            np.testing.assert_array_equal(tensors[record["forged"]], expected)
        else:
            error = np.abs(tensors[record["forged"]] - expected)
            assert (error <= 1e-6 * np.abs(x)).all()


def _relu_input(model: onnx.ModelProto, tensor: str) -> str:
    return next(n.input[0] for n in model.graph.node if tensor in n.output)


def fetch(
    model: onnx.ModelProto, records: list[dict[str, Any]], feeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs the hardened model without optimisation, with every site as an output."""
    names = {r["forged"] for r in records}
    names |= {
        _relu_input(model, r["tensor"]) if r["tensor"] == r["forged"] else r["tensor"]
        for r in records
    }
    inputs = {i.name for i in model.graph.input}
    taken = {o.name for o in model.graph.output} | inputs
    for name in sorted(names - taken):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ranks = {i.name: len(i.shape) for i in session.get_inputs()}
    full = {k: v if v.ndim == ranks[k] else v[None] for k, v in feeds.items()}
    wanted = sorted(names - inputs)
    return dict(zip(wanted, session.run(wanted, full), strict=True)) | full
