"""What every neighbour's test needs: a model with real images, its outputs, their distance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

# The largest c_r of the paper's range, where the outputs move by 1.3 to 4 % (root mean square;
# 15 % and more with `soft`); and one beyond it, where they move further than quantisation
# moves them.
CR, LARGE_CR = "2^-6", "2^-4"
CALIBRATION_IMAGES, COMPARED_IMAGES = 32, 64
# Beside the forms, variant "weight". Here the demo loses columns, the two of the pack
# 176 and 9 channels, and most images keep their class.
WEIGHT = "weight"
RATE = 0.9


def options_of(form: str) -> dict[str, Any]:
    """What `lipcompile.harden` takes for a form, or for the weight variant, compacted."""
    if form == WEIGHT:
        return {"variant": WEIGHT, "compact": True, "zero_rate": RATE}
    return {"form": form}


@dataclass(frozen=True)
class Case:
    """A model, real images to calibrate on, and others to compare outputs on."""

    path: Path
    input_name: str
    calibration: np.ndarray
    images: np.ndarray
    known: dict[Path, np.ndarray] = field(default_factory=dict)

    def outputs(self, model: Path | onnx.ModelProto) -> np.ndarray:
        """The first output over `images` in float32, as ONNX Runtime computes it."""
        if not isinstance(model, Path):
            return self._run(model.SerializeToString())
        if model not in self.known:
            self.known[model] = self._run(str(model))
        return self.known[model]

    def _run(self, source: str | bytes) -> np.ndarray:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        half = session.get_inputs()[0].type == "tensor(float16)"
        images = self.images.astype(np.float16) if half else self.images
        return session.run(None, {self.input_name: images})[0].astype(np.float32)


def distance(got: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference, over that of the reference; NaN gives infinity."""
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.sqrt(np.mean((got - reference) ** 2) / np.mean(reference**2)))


def agreement(got: np.ndarray, reference: np.ndarray) -> float:
    """Share of images that get the same class."""
    return float((got.argmax(axis=1) == reference.argmax(axis=1)).mean())


def provenance(model: onnx.ModelProto) -> dict[str, str]:
    """The `lipcompile.*` keys of a model."""
    return {p.key: p.value for p in model.metadata_props if p.key.startswith("lipcompile.")}


def marked_nodes(model: onnx.ModelProto) -> set[str]:
    """Outputs of the nodes that carry `lipcompile.*` metadata of their own."""
    return {node.output[0] for node in model.graph.node if node.metadata_props}


def inserted_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of inserted nodes; constants, which any tool may fold, are left out."""
    return {
        node.name
        for node in model.graph.node
        if node.name.startswith("lipcompile/") and node.op_type != "Constant"
    }


def forged_tensors(model: onnx.ModelProto) -> set[str]:
    """The tensors that the provenance says hold f_c: what an audit finds its gradients by.

    None in the weight variant.
    """
    records = json.loads(provenance(model).get("lipcompile.sites", "[]"))
    return {record["forged"] for record in records}


def computed_tensors(model: onnx.ModelProto) -> set[str]:
    """Outputs of all nodes."""
    return {name for node in model.graph.node for name in node.output}
