"""Real third-party models and data, where the folder with them lies beside the project."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3] / "shared" / "pack"
MANIFEST = ROOT / "manifest.json"
ENTRIES: list[dict[str, Any]] = (
    json.loads(MANIFEST.read_text())["shared"] if MANIFEST.exists() else []
)


@dataclass(frozen=True)
class PackModel:
    """One model of the pack with its data."""

    entry: dict[str, Any]

    @property
    def path(self) -> Path:
        return ROOT / self.entry["file"]

    @property
    def sites(self) -> int:
        return int(self.entry["sites"])

    def samples(self, limit: int) -> list[dict[str, np.ndarray]]:
        """Feeds by input name: samples without batch axis, or complete feeds."""
        preprocessing = self.entry["preprocessing"]
        loaded = [feeds for feeds, _ in _verify().load(self.entry, limit)]
        constants = {
            name: np.zeros(c["zeros"], c["dtype"]) if "zeros" in c else np.array(c["value"])
            for name, c in preprocessing.get("constant_feeds", {}).items()
        }
        return [{**feeds, **constants} for feeds in loaded]


def _verify() -> Any:
    spec = importlib.util.spec_from_file_location("pack_verify", ROOT / "verify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pack_model" in metafunc.fixturenames:
        if ENTRIES:
            models = [pytest.param(PackModel(e), id=e["id"]) for e in ENTRIES]
        else:
            models = [pytest.param(None, marks=pytest.mark.skip(reason="no pack here"))]
        metafunc.parametrize("pack_model", models)


@pytest.fixture
def pack() -> dict[str, PackModel]:
    """The models by id."""
    if not ENTRIES:
        pytest.skip("no pack here")
    return {entry["id"]: PackModel(entry) for entry in ENTRIES}


@pytest.fixture(autouse=True)
def quiet_pillow() -> Iterator[None]:
    """The pack's own loader leaves image files open."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
