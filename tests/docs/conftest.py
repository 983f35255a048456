"""The folder in which the reader of the pages stands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import fill_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the pages assume, made once."""
    root = tmp_path_factory.mktemp("reader")
    fill_folder(root)
    return root


@pytest.fixture
def reader(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the folder, and the current directory."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
