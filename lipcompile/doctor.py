"""What is installed, what really runs, and what to install for the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from lipcompile import model_io
from lipcompile.errors import LipCompileError, MissingExtraError
from lipcompile.runtime import (
    PACKAGES,
    PROVIDERS,
    RuntimeOptions,
    load_onnxruntime,
    open_session,
)
from lipcompile.runtime import package_version as version_of
from lipcompile.text import table
from lipcompile.version import __version__

_BASE = ("numpy", "onnx", "onnx-ir", "click", "rich", "pillow", "threadpoolctl")
# Extra -> the packages that it brings.
EXTRAS = {
    "cpu": ("onnxruntime",),
    "gpu": ("onnxruntime-gpu",),
    "audit": ("torch", "scipy", "pyautoattack"),
    "certify": ("scipy",),
    "graphsurgeon": ("onnx-graphsurgeon",),
    "ray": ("ray",),
    "arrow": ("pyarrow",),
    "remote": ("fsspec",),
    "fast": ("simplejpeg",),
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of this installation.

    Attributes:
        versions: Distribution -> installed version, or None.
        providers: Execution provider -> "active", or why it is not.
        problems: What stands in the way of hardening; empty when nothing does.
        hints: Extras that are not installed, with their pip line.
    """

    versions: dict[str, str | None]
    providers: dict[str, str]
    problems: tuple[str, ...]
    hints: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "versions": self.versions,
            "providers": self.providers,
            "problems": list(self.problems),
            "hints": list(self.hints),
        }

    def __str__(self) -> str:
        versions = [(name, found or "not installed") for name, found in self.versions.items()]
        lines = table(("package", "version"), versions)
        lines += ["", *table(("execution provider", "state"), list(self.providers.items()))]
        for hint in self.hints:
            lines += ["", hint]
        lines += ["", *(f"problem: {problem}" for problem in self.problems)]
        return "\n".join(lines + ["no problem found"] * (not self.problems))


def diagnose() -> Diagnosis:
    """Looks at versions, tries every execution provider on a tiny model, and lists extras."""
    versions: dict[str, str | None] = {
        "lipcompile": __version__,
        "python": platform.python_version(),
    }
    optional = [package for packages in EXTRAS.values() for package in packages]
    versions |= {name: version_of(name) for name in (*_BASE, *optional)}
    providers, problems = _try_providers()
    if all(version_of(name) for name in PACKAGES):
        problems.append(
            f"{' and '.join(PACKAGES)} are both installed and overwrite each other's files: "
            'pip uninstall both, then pip install "lipcompile[cpu]" or "lipcompile[gpu]"'
        )
    hints = [
        f'extra "{extra}" is not installed: pip install "lipcompile[{extra}]"'
        for extra, packages in EXTRAS.items()
        if not all(version_of(package) for package in packages)
        # onnxruntime and onnxruntime-gpu must not be installed together.
        and not (extra in ("cpu", "gpu") and any(version_of(name) for name in PACKAGES))
    ]
    return Diagnosis(versions, providers, tuple(problems), tuple(hints))


def _try_providers() -> tuple[dict[str, str], list[str]]:
    try:
        available = load_onnxruntime().get_available_providers()
    except MissingExtraError as error:
        return {}, [str(error)]
    states = {}
    for provider in available:
        if provider not in PROVIDERS:
            states[provider] = "not used by LipCompile"
            continue
        try:
            open_session(_tiny_model(), RuntimeOptions(providers=(provider,)))
            states[provider] = "active"
        except LipCompileError as error:
            states[provider] = f"not active: {error}"
    return states, []


def _tiny_model() -> bytes:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.node("Relu", [x], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 17}, name="tiny")
    return model_io.serialize(ir.to_proto(ir.Model(graph, ir_version=8)))
