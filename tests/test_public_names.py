"""What `import lipcompile` offers and loads, and who may import what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lipcompile

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lipcompile"
HEAVY = ("onnxruntime", "torch", "matplotlib", "onnx", "onnx_ir", "numpy", "PIL", "rich")
# Who may import it: files and folders of the package.
WALLS = {
    "onnxruntime": ("runtime.py",),
    "onnx": ("model_io/",),
    "onnx_graphsurgeon": ("model_io/",),
    "torch": ("torchview/", "auditing/"),
    "matplotlib": ("report/plots.py",),
    "mlflow": ("tracking.py",),
}


# Names


def documented_names(page: str) -> set[str]:
    """The names in the first table of docs/python.md."""
    table = page.partition("| name |")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows(table))))


def rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("|") and "---" not in line]


def test_public_names_are_the_documented_ones() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert documented_names(page) == set(lipcompile.__all__)
    assert len(lipcompile.__all__) == len(set(lipcompile.__all__))


@pytest.mark.parametrize("name", lipcompile.__all__)
def test_public_name_is_importable_and_has_a_docstring(name: str) -> None:
    value = getattr(lipcompile, name)
    assert name in dir(lipcompile)
    assert name == "__version__" or value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'lipcompile' has no attribute 'hardn'"):
        lipcompile.hardn  # noqa: B018


def test_planted_undocumented_name_is_caught() -> None:
    page = "| name | x |\n|---|---|\n| `harden`, `calibrate` | `more` |\n\n| `other` | |"
    assert documented_names(page) == {"harden", "calibrate"}


# What an import loads


def loaded_by(statement: str) -> set[str]:
    """Heavy modules that a fresh interpreter holds after a statement."""
    code = (
        f"import sys\n{statement}\nprint('loaded:', *[m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import lipcompile") == set()


def test_help_loads_nothing_heavy() -> None:
    call = "from lipcompile.cli.main import run\nassert run(['--help']) == 0"
    assert loaded_by(call) == set()


@pytest.mark.parametrize(
    "name", ["harden", "inspect", "verify", "strip", "doctor", "audit", "sweep"]
)
def test_help_of_a_command_loads_no_runtime(name: str) -> None:
    call = f"from lipcompile.cli.main import run\nassert run(['{name}', '--help']) == 0"
    assert loaded_by(call) & {"onnxruntime", "torch", "matplotlib"} == set()


def test_inspecting_a_model_loads_no_runtime() -> None:
    call = (
        "import onnx_ir as ir, lipcompile\n"
        "graph = ir.Graph([], [], nodes=[], opset_imports={'': 17}, name='g')\n"
        "print(lipcompile.inspect(ir.Model(graph, ir_version=8)))"
    )
    assert loaded_by(call) & {"onnxruntime", "torch", "matplotlib"} == set()


def test_planted_heavy_import_is_caught() -> None:
    assert loaded_by("import numpy") == {"numpy"}
    assert "onnxruntime" in loaded_by("from lipcompile.runtime import *\nload_onnxruntime()")


# Walls


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and _is_import_call(node):
            yield from (
                (node.lineno, arg.value.partition(".")[0])
                for arg in node.args[:1]
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            )


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else None
    name = node.func.id if isinstance(node.func, ast.Name) else name
    return name in ("import_module", "__import__")


def breaches(path: str, source: str) -> list[str]:
    """Imports in a file of the package that a wall forbids."""
    return [
        f"{path}:{line} imports {package}"
        for line, package in imports_of(source)
        if package in WALLS and not path.startswith(WALLS[package])
    ]


def test_dependency_walls_hold() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    found = [
        breach
        for file in files
        for breach in breaches(
            file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("sites.py", "import onnx\n", ["sites.py:1 imports onnx"]),
        ("sites.py", "from onnx.helper import make_node", ["sites.py:1 imports onnx"]),
        (
            "cli/x.py",
            "def f():\n  import onnxruntime.quantization",
            ["cli/x.py:2 imports onnxruntime"],
        ),
        ("x.py", "importlib.import_module('torch.nn')", ["x.py:1 imports torch"]),
        ("x.py", "__import__('matplotlib')", ["x.py:1 imports matplotlib"]),
        (
            "model_io/runtime.py",
            "import onnxruntime",
            ["model_io/runtime.py:1 imports onnxruntime"],
        ),
        ("model_io/reading.py", "import onnx\nimport onnx_graphsurgeon", []),
        ("runtime.py", "importlib.import_module('onnxruntime')", []),
        ("sites.py", "import onnx_ir as ir\nfrom lipcompile.runtime import x", []),
    ],
)
def test_planted_breach_is_caught(path: str, source: str, expected: list[str]) -> None:
    assert breaches(path, source) == expected
