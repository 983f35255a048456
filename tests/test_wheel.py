"""The wheel holds what the demo needs: it works from an empty folder, without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def call(*command: str, cwd: Path, **environment: str) -> str:
    # Without coverage of the checkout: neither its folder nor its metadata may be seen.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_works_from_the_wheel(tmp_path: Path) -> None:
    source, empty = tmp_path / "source", tmp_path / "empty"
    tracked = ("lipcompile", "pyproject.toml", "README.md", "LICENSE")
    for name in tracked:  # a copy, so that the checkout stays free of build output
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    call(*PIP, "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(source), cwd=tmp_path)
    (wheel,) = tmp_path.glob("lipcompile-*.whl")
    target = tmp_path / "installed"
    options = ("--no-deps", "--quiet", "--target", str(target))
    call(*PIP, "install", *options, str(wheel), cwd=tmp_path)
    empty.mkdir()
    demo = "import lipcompile.cli.main as m; print(m.__file__); m.main(['demo'])"
    out = call(sys.executable, "-c", demo, cwd=empty, PYTHONPATH=str(target))
    assert out.startswith(str(target))
    assert "clean accuracy" in out
    assert [p.name for p in empty.iterdir()] == ["lipcompile-demo"]
    assert (empty / "lipcompile-demo" / "fashion_mnist_adv.hardened.onnx").is_file()
