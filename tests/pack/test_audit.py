"""Every real image classifier of the pack can be hardened and audited, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

import lipcompile
from lipcompile import ScanOptions
from tests.auditing.quick import QUICK
from tests.pack.conftest import ROOT, PackModel
from tests.pack.test_labelled import CASES, flags_of

IMAGES = 16
# 224 pixels and more: a minute each.
LARGE = {"efficientnet_lite0_w16", "mobilenetv2_qdq"}
MARKED = [
    pytest.param(*case.values, id=case.id, marks=[pytest.mark.slow] * (case.id in LARGE))
    for case in CASES
]


@pytest.mark.parametrize("classifier", MARKED)
@pytest.mark.parametrize("form", ["smooth", "hard"])
def test_audit_ends_with_a_verdict(classifier: PackModel, form: str, tmp_path: Path) -> None:
    entry = classifier.entry
    how, flags = entry["preprocessing"], flags_of(entry)
    images = 4 if entry["id"] in LARGE else IMAGES
    hardened = tmp_path / "hardened.onnx"
    lipcompile.harden(
        classifier.path,
        classifier.samples(8),
        form=form,
        cr="2^-6",
        output=hardened,
        scan=ScanOptions(batch_size=2),
    )
    result = lipcompile.audit(
        hardened,
        classifier.path,
        ROOT / how["data"],
        eps="2/255",
        samples=images,
        attacks=QUICK,
        image_flags=flags,
        labels=ROOT / how["labels_file"] if how["labels"] == "json" else None,
        threads=1,
    )
    assert result.data["images"] == images
    found = {check.name: check for check in result.checks}
    for name in (
        "the file is what its provenance says",
        "thresholds near zero reproduce the original",
        "gradients do not vanish",
    ):
        assert found[name].passed is not False, found[name]
    assert len({strike.path for strike in result.strikes}) == 6
