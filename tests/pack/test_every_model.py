"""Every model of the pack is hardened exactly with every form, or rightly refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import HardenResult, ScanOptions, Selector
from lipcompile.errors import SelectionError
from lipcompile.forged import FORMS
from tests.exactness import (
    assert_forged_tensors_equal_definition,
    assert_only_forged_nodes_changed,
)

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


@pytest.mark.parametrize("form", list(FORMS))
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
    for form in FORMS:
        result = harden(pack_model, form, tmp_path / f"{form}.onnx", cr="2^-40")
        assert result.agreement is not None
        assert result.agreement.max_difference <= 1e-5
        assert result.agreement.top1 in (1.0, None)
