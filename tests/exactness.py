"""What holds for every hardened model: untouched nodes, forged tensors by definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lipcompile import HardenResult

# Relative to what enters the subtraction; the gate of `smooth` is a float32 Sigmoid.
TOLERANCE = 1e-6


def records_of(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """The site records of a hardened model."""
    return json.loads(
        next(p.value for p in model.metadata_props if p.key == "lipcompile.sites")
    )


def assert_only_forged_nodes_changed(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Nodes are inserted, layers read them, activations and biases take forms in."""
    records = records_of(after)
    changes = [change for record in records for change in record.get("changes", ())]
    taken_in = {record["at"] for record in records if record["way"] != "insert"}
    old = {tuple(node.output): node for node in before.graph.node}
    new = {tuple(node.output): node for node in after.graph.node}
    assert list(old) == [outputs for outputs in new if outputs in old], "order changed"
    for outputs in new.keys() - old.keys():
        assert all(name.startswith("lipcompile/") for name in outputs)
    expected = taken_in | {change["node"] for change in changes}
    for outputs, node in old.items():
        if new[outputs] == node:
            continue
        forged_input = any(name.startswith("lipcompile/") for name in new[outputs].input)
        assert forged_input or outputs[0] in expected, f"{node.name} changed"
        in_place = new[outputs].op_type == "ThresholdedRelu" and node.op_type == "Relu"
        assert in_place or new[outputs].op_type == node.op_type
    for field in ("input", "output", "value_info"):
        assert list(getattr(before.graph, field)) == list(getattr(after.graph, field))
    _assert_only_biases_changed(before, after, {c["was"] for c in changes if "stored" in c})
    assert list(before.opset_import) == list(after.opset_import)
    assert before.ir_version == after.ir_version


def _assert_only_biases_changed(
    before: onnx.ModelProto, after: onnx.ModelProto, biases: set[str]
) -> None:
    kept = after.graph.initializer[: len(before.graph.initializer)]
    for old, new in zip(before.graph.initializer, kept, strict=True):
        same_kind = (old.name, old.data_type, old.dims) == (new.name, new.data_type, new.dims)
        assert old == new or (old.name in biases and same_kind), f"{old.name} changed"
    added = after.graph.initializer[len(before.graph.initializer) :]
    assert all(tensor.name.startswith("lipcompile/") for tensor in added)


def assert_forged_tensors_equal_definition(
    output: Path, result: HardenResult, feeds: dict[str, np.ndarray]
) -> None:
    model = onnx.load(output)
    records = records_of(model)
    assert records
    tensors = fetch(model, records, feeds)
    form = result.request.form
    assert form is not None
    for record in records:
        x = _argument(model, tensors, record)
        found, expected = tensors[record["forged"]], form(x, record["c"])
        if form.name == "hard":
            np.testing.assert_array_equal(found, expected)
        else:
            largest = np.abs(x) + (record["c"] if record["way"] == "bias" else 0)
            assert (np.abs(found - expected) <= TOLERANCE * largest).all()


def _argument(
    model: onnx.ModelProto, tensors: dict[str, np.ndarray], record: dict[str, Any]
) -> np.ndarray:
    """What the form was computed of: the anchor, as it was before a form was taken in."""
    source = tensors[_source(model, record)]
    if record["way"] == "insert":
        return source
    shift = np.asarray(record["c"] if record["way"] == "bias" else 0, source.dtype)
    x = np.maximum(source + shift, 0)
    cap = _upper_bound(model, record["at"])
    return x if cap is None else np.minimum(x, cap + shift)


def _upper_bound(model: onnx.ModelProto, tensor: str) -> np.ndarray | None:
    """Of the Clip that gives the tensor, if one does."""
    (node,) = [n for n in model.graph.node if tensor in n.output]
    if node.op_type != "Clip":
        return None
    for attribute in node.attribute:
        if attribute.name == "max":
            return np.float32(attribute.f)
    (bound,) = [t for t in model.graph.initializer if t.name == node.input[2]]
    return onnx.numpy_helper.to_array(bound)


def _source(model: onnx.ModelProto, record: dict[str, Any]) -> str:
    """The anchor, or what the activation reads that gives it."""
    if record["way"] == "insert":
        return str(record["at"])
    return next(n.input[0] for n in model.graph.node if record["at"] in n.output)


def fetch(
    model: onnx.ModelProto, records: list[dict[str, Any]], feeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs the hardened model without optimisation, with every site as an output."""
    names = {r["forged"] for r in records} | {_source(model, r) for r in records}
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
