"""Where a preprocessing config is found, and which files are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lipcompile.calibration.resolve_preprocess import resolve
from lipcompile.errors import DataError
from tests.calibration.configs import DYNAMIC, TIMM, VIT


def test_config_files_and_folders(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TIMM))
    want = resolve(DYNAMIC, TIMM)
    assert resolve(DYNAMIC, str(file)) == resolve(DYNAMIC, file) == want
    assert resolve(DYNAMIC, tmp_path) == want
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT))
    assert resolve(DYNAMIC, tmp_path) == resolve(DYNAMIC, VIT)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b" " * 1_000_001, "above 1 MB"),
        (b'{"hidden_size": 768}', r"neither a Hugging Face .* keys \['hidden_size'\]"),
    ],
)
def test_config_files_that_cannot_be_used(tmp_path: Path, content, match):
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=match):
        resolve(DYNAMIC, file)


def test_missing_config_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nope\.json' cannot be read \(No such file"):
        resolve(DYNAMIC, tmp_path / "nope.json")
    with pytest.raises(DataError, match=r"preprocessor_config\.json' cannot be read"):
        resolve(DYNAMIC, tmp_path)
