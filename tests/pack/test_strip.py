"""Every model of the pack that can be hardened comes back byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lipcompile
from lipcompile import ScanOptions
from tests.pack.test_every_model import NOTHING_TO_FORGE

SCAN = ScanOptions(on_nonfinite="skip", batch_size=1)


@pytest.mark.parametrize("form", ["smooth", "hard", "soft"])
def test_the_source_file_comes_back(pack_model: Any, form: str, tmp_path: Path) -> None:
    if pack_model.entry["id"] in NOTHING_TO_FORGE:
        pytest.skip("nothing is forged in this model")
    sized = pack_model.entry["id"] == "ppocrv6_tiny_det"  # for which random data is too small
    data = pack_model.samples(1) if sized else "random:1"
    output = tmp_path / "model.hardened.onnx"
    lipcompile.harden(pack_model.path, data, form=form, output=output, scan=SCAN)
    result = lipcompile.strip(output)
    assert result.output is not None
    assert result.output.read_bytes() == pack_model.path.read_bytes()
    assert (result.identical, result.differences) == (True, ())
