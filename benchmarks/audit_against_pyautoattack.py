"""Is the audit's accuracy under APGD that of AutoAttack itself, on the same images?

Baseline: `pyautoattack.AutoAttack` with its own settings for apgd-ce and apgd-t, on the model
in torch with the normalisation written out here, none of the audit's code around it. Against
it: the white-box lines of an audit's JSON (`lipcompile audit ... -o AUDIT.json`), whose
candidates were judged by ONNX Runtime.

    python benchmarks/audit_against_pyautoattack.py [MODEL DATA AUDIT.json]

Without arguments the bundled model is audited here, at eps_linf = 0.1 on 100 images.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import onnx
import torch
from pyautoattack import AutoAttack

import lipcompile
from lipcompile import model_io
from lipcompile.demo import MODEL, TEST
from lipcompile.labelled import open_labelled
from lipcompile.torchview import TorchView, torch_view


class Normalised(torch.nn.Module):
    """(pixels - mean) / std, then the model."""

    def __init__(self, view: TorchView, rule: dict[str, Any]) -> None:
        super().__init__()
        assert (rule["scale"], rule["layout"], rule["shape"]) == (1.0, "NCHW", None)
        self.view = view
        self.mean = torch.tensor(rule["mean"]).reshape(-1, 1, 1)
        self.std = torch.tensor(rule["std"]).reshape(-1, 1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.view((pixels - self.mean) / self.std)
        return logits


def audited_accuracy(audit: dict[str, Any]) -> float:
    """Share of the images that the original's white-box APGD-CE and APGD-T left."""
    lines = [p for p in audit["paths"] if (p["model"], p["path"]) == ("original", "white-box")]
    (last,) = [line for line in lines if line["attack"] == "apgd-t"]
    return float(last["attacked"] - last["broken"]) / audit["data"]["images"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("data", nargs="?", default=TEST)
    parser.add_argument("audit", nargs="?", type=Path)
    given = parser.parse_args()
    if given.audit is not None:
        audit = json.loads(given.audit.read_text())
    else:
        same = onnx.load(given.model)  # a model against itself will do
        audit = lipcompile.audit(same, given.model, given.data, eps=0.1, samples=100).to_json()
    rule, loaded = audit["data"]["normalisation"], model_io.load(given.model)
    images = open_labelled(
        given.data,
        loaded.inputs,
        num_classes=None,
        samples=audit["data"]["images"],
        seed=audit["seed"],
        image_flags={"mean": rule["mean"], "std": rule["std"]},
    )
    assert images.digest == audit["data"]["digest"], "the audit was about other images"
    assert loaded.digest == audit["original"]["digest"], "the audit was about another model"
    norm = {"linf": "Linf", "l2": "L2"}[audit["budget"]["norm"]]
    attack = AutoAttack(
        Normalised(torch_view(loaded).requires_grad_(False), rule),
        norm=norm,
        eps=audit["budget"]["eps"],
        version="custom",
        attacks=["apgd-ce", "apgd-t"],
        seed=0,
    )
    attack.apgd.n_restarts = 1  # as in AutoAttack's standard set
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    _, classes = attack.run_standard_evaluation(pixels, labels, batch_size=64)
    direct = float((classes == labels).float().mean())
    print(f"{given.model.name}: n = {len(labels)}, {norm} eps = {audit['budget']['eps']:.5g}")
    print(f"pyautoattack directly:      {direct:.2%}")
    print(f"audit, white-box APGD:      {audited_accuracy(audit):.2%}")
    print(f"audit, worst of all paths:  {audit['original']['worst_case_accuracy']:.2%}")


if __name__ == "__main__":
    main()
