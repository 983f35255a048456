"""Every model of the pack is, once hardened, what its provenance says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lipcompile
from lipcompile import ScanOptions
from tests.pack.test_every_model import NOTHING_TO_FORGE

SCAN = ScanOptions(on_nonfinite="skip", batch_size=1)


@pytest.mark.parametrize(
    ("form", "target"), [("smooth", "portable"), ("hard", "ort-cpu"), ("soft", "portable")]
)
def test_every_check_holds(pack_model: Any, form: str, target: Any, tmp_path: Path) -> None:
    if pack_model.entry["id"] in NOTHING_TO_FORGE:
        pytest.skip("nothing is forged in this model")
    data, path = pack_model.samples(1), tmp_path / "model.hardened.onnx"
    options: dict[str, Any] = {"form": form, "target": target, "output": path, "scan": SCAN}
    lipcompile.harden(pack_model.path, data, cr="2^-5", **options)
    result = lipcompile.verify(pack_model.path, path, data, pairs=0)
    assert result.holds, str(result)
    assert all(check.holds for check in result.checks if check.decides), str(result)
