"""Every model of the pack is hardened exactly with both forms, or refused for the right reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import lipcompile
from lipcompile import HardenResult, ScanOptions, Selector
from lipcompile.errors import SelectionError

SAMPLES = 4
# Why auto selects nothing in these models.
NOTHING_TO_FORGE = {
    "mnist_lr_scikit": "has no linear layer",
    "safenlp_ruarobot": r"1 graph-input, 1 head",
}


def harden(pack_model: Any, form: str, output: Path, **options: Any) -> HardenResult:
    return lipcompile.harden(
        pack_model.path,
        pack_model.samples(SAMPLES),
        form=form,
        output=output,
        scan=ScanOptions(batch_size=2),
        **options,
    )


def test_rule_all_finds_every_site(pack_model: Any) -> None:
    rows = lipcompile.inspect(pack_model.path, selector=Selector("all")).rows
    # The manifest does not count the stem of this one, which normalises inside the graph.
    uncounted = 1 if pack_model.entry["id"] == "cifar_wrn10_2_adv" else 0
    assert sum(row.selected for row in rows) == pack_model.sites + uncounted


@pytest.mark.parametrize("form", ["smooth", "hard"])
def test_hardened_exactly_or_refused(pack_model: Any, form: str, tmp_path: Path) -> None:
    output = tmp_path / "hardened.onnx"
    reason = NOTHING_TO_FORGE.get(pack_model.entry["id"])
    if reason is not None:
        with pytest.raises(SelectionError, match=reason):
            harden(pack_model, form, output)
        assert not output.exists()
        return
    before = pack_model.path.read_bytes()
    result = harden(pack_model, form, output, cr="2^-6")
    assert pack_model.path.read_bytes() == before
    assert result.agreement is not None
    assert np.isfinite(result.agreement.max_difference)
    assert_only_forged_nodes_changed(onnx.load(pack_model.path), onnx.load(output))
    assert_forged_tensors_equal_definition(output, result, pack_model.samples(1)[0])


def test_tiny_threshold_reproduces_the_outputs(pack_model: Any, tmp_path: Path) -> None:
    if pack_model.entry["id"] in NOTHING_TO_FORGE:
        pytest.skip("nothing is forged in this model")
    for form in ("smooth", "hard"):
        result = harden(pack_model, form, tmp_path / f"{form}.onnx", cr="2^-40")
        assert result.agreement is not None
        assert result.agreement.max_difference <= 1e-5
        assert result.agreement.top1 in (1.0, None)


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
    tensors = fetch(model, records, result.table.data.samples and feeds)
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
