"""What the command line need not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lipcompile.demo import MODEL

COMMAND = """
import sys
{load}
from lipcompile.cli.main import run
code = run(['inspect', sys.argv[1]])
print('loaded:', 'sympy.core' in sys.modules)
{then}
sys.exit(code)
"""
LATER = "from lipcompile.cli.lazy_modules import load_later; load_later()"


def run(load: str = LATER, then: str = "") -> str:
    code = COMMAND.format(load=load, then=then)
    done = subprocess.run(
        [sys.executable, "-c", code, str(MODEL)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_command_does_not_load_what_it_does_not_use() -> None:
    assert "loaded: False" in run()


def test_planted_loading_at_once_is_seen() -> None:
    assert "loaded: True" in run(load="")


def test_result_is_the_same() -> None:
    assert run().partition("loaded")[0] == run(load="").partition("loaded")[0]


@pytest.mark.parametrize(
    "use",
    [
        "import onnx_ir as ir; print('sum:', ir.SymbolicDim('n') + 1)",
        "from sympy.core import Symbol; print('sum:', Symbol('n') + 1)",
        "import sympy; print('sum:', sympy.Symbol('n') + 1)",
    ],
)
def test_it_is_there_when_it_is_used(use: str) -> None:
    assert "sum: n + 1" in run(then=use)


def test_loading_later_twice_is_loading_later_once() -> None:
    then = "print('finders:', sum('Later' in type(f).__name__ for f in sys.meta_path))"
    assert "finders: 1" in run(load=f"{LATER}\nload_later()", then=then)
