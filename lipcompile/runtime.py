"""ONNX Runtime sessions: providers, threads, external weights. The only module that imports
it.

ONNX Runtime falls back to the CPU with a mere warning when a provider cannot start, so what
was asked for is compared with what is active.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lipcompile.errors import (
    MissingExtraError,
    ModelError,
    OptionError,
    OutOfMemory,
    ProviderError,
    RunFailure,
)

_SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/onnxruntime/\S+(:\d+)? ")
PROVIDERS = frozenset(_SHORT_NAMES.values())
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
# ONNX Runtime's log levels. Errors come as exceptions as well, and are told once.
_WARNING, _FATAL = 2, 4
_MOST_THREADS = 1024  # each is really started


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How to run a model.

    Attributes:
        providers: Execution providers in order of preference: "cpu", "cuda", "tensorrt", ...
            or ONNX Runtime's own names. Every one but the CPU must be active.
        allow_cpu_fallback: Run on the CPU when a provider is not active.
        threads: Intra-operator threads; 0 lets ONNX Runtime choose.
        optimize: Whether ONNX Runtime optimises the graph.
        prepack: Whether kernels may lay out weights anew when a session is made. With neither
            this nor `optimize`, the CPU provider maps external weights and reads none.
        spinning: Let threads wait actively for each other within a run. Off where sessions run
            at the same time in one process: the threads of one would work against the other.
        verbose: Let ONNX Runtime's warnings through.
    """

    providers: tuple[str, ...] = ("cpu",)
    allow_cpu_fallback: bool = False
    threads: int = 0
    optimize: bool = True
    prepack: bool = True
    spinning: bool = True
    verbose: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.providers, str):
            raise OptionError(
                f"providers = '{self.providers}' is one text, and many are expected: write "
                f"('{self.providers}',)"
            )
        if not self.providers:
            raise OptionError(
                "no execution provider is named: use for example --providers cpu"
            )
        for name in self.providers:
            provider_name(name)
        if self.threads < 0:
            raise OptionError(f"threads = {self.threads} is negative: use 0 for automatic")
        if self.threads > _MOST_THREADS:
            raise OptionError(
                f"threads = {self.threads} are more than {_MOST_THREADS}: use 0 for one a core"
            )


def provider_name(name: str) -> str:
    """ONNX Runtime's name of a provider.

    Raises:
        OptionError: No such provider is known.
    """
    full = _SHORT_NAMES.get(name.strip().lower(), name.strip())
    if full not in PROVIDERS:
        raise OptionError(
            f"execution provider '{name}' is unknown: use one of {', '.join(_SHORT_NAMES)}"
        )
    return full


def load_onnxruntime() -> ModuleType:
    """Imports onnxruntime, or says which extra brings it.

    Raises:
        MissingExtraError: It is not installed, or does not start.
    """
    try:
        module = importlib.import_module("onnxruntime")
        if not hasattr(module, "InferenceSession"):  # pip uninstall leaves an empty folder
            raise ImportError("its folder is there, its content is not")
        return module
    except ImportError as error:
        installed = [name for name in PACKAGES if package_version(name)]
        if len(installed) == 2:
            raise MissingExtraError(
                f"onnxruntime does not import, and both {' and '.join(installed)} are "
                "installed, which overwrite each other: pip uninstall both, then "
                'pip install "lipcompile[cpu]" or "lipcompile[gpu]"'
            ) from error
        raise MissingExtraError(
            f"running a model needs ONNX Runtime, which does not import ({error}): "
            'pip install "lipcompile[cpu]" or "lipcompile[gpu]"'
        ) from error


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class Session:
    """A loaded model, ready to run."""

    def __init__(self, native: Any, requested: Sequence[str]) -> None:
        self._native = native
        self.requested = tuple(requested)
        self.providers: tuple[str, ...] = tuple(native.get_providers())
        self.outputs: tuple[str, ...] = tuple(o.name for o in native.get_outputs())

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
            outputs: Names of the outputs to fetch.
            feeds: Complete inputs by name, batch axis included.

        Raises:
            OutOfMemory: There was not enough memory.
            RunFailure: ONNX Runtime could not run the model on these inputs.
        """
        try:
            results = self._native.run(list(outputs), dict(feeds))
        except Exception as error:  # its exceptions share no base class but this one
            shapes = ", ".join(f"'{k}' {v.dtype} {list(v.shape)}" for k, v in feeds.items())
            if _is_out_of_memory(error):
                raise OutOfMemory(
                    f"memory ran out while the model ran on {shapes} ({_first_line(error)}): "
                    "give smaller inputs, for images with --input-size, or use a machine with "
                    "more memory"
                ) from error
            raise RunFailure(
                f"ONNX Runtime could not run the model on {shapes} ({_first_line(error)}): "
                "give inputs of shapes that it takes, for images with --input-size"
            ) from error
        return dict(zip(outputs, results, strict=True))


def open_session(
    model: bytes | Path,
    options: RuntimeOptions,
    base_dir: Path | None = None,
    optimized: Path | None = None,
) -> Session:
    """Loads a model into ONNX Runtime.

    Args:
        model: Serialised model, or its path.
        options: Providers, threads, logging.
        base_dir: For a serialised model, the folder of its external weights.
        optimized: Where ONNX Runtime writes the graph that it really runs, for this machine
            alone; larger weights go beside it into `<optimized>.data`.

    Raises:
        ProviderError: A provider that was asked for is not active.
        ModelError: ONNX Runtime refuses the model.
    """
    ort = load_onnxruntime()
    providers = _available(ort, options)
    native = ort.SessionOptions()
    native.intra_op_num_threads = options.threads
    native.log_severity_level = _WARNING if options.verbose else _FATAL
    if not options.spinning:
        native.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:  # threads wait actively within a run, and let others have the cores between runs
        native.add_session_config_entry("session.force_spinning_stop", "1")
    if not options.prepack:
        native.add_session_config_entry("session.disable_prepacking", "1")
    if not options.optimize:
        native.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if base_dir is not None and isinstance(model, bytes):
        key = "session.model_external_initializers_file_folder_path"
        native.add_session_config_entry(key, os.fspath(base_dir.resolve()))
    if optimized is not None:
        native.optimized_model_filepath = os.fspath(optimized)
        key = "session.optimized_model_external_initializers_file_name"
        native.add_session_config_entry(key, f"{optimized.name}.data")
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        session = Session(ort.InferenceSession(source, native, providers=providers), providers)
    except Exception as error:  # its exceptions share no base class but this one
        raise ModelError(
            f"ONNX Runtime {ort.__version__} does not load the model: {_first_line(error)}"
        ) from error
    _check_active(session, options)
    return session


def _available(ort: ModuleType, options: RuntimeOptions) -> list[str]:
    wanted = [provider_name(name) for name in options.providers]
    available = ort.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing and not options.allow_cpu_fallback:
        raise ProviderError(_inactive(missing[0], "installed", available))
    kept = [name for name in wanted if name in available]
    return kept if "CPUExecutionProvider" in kept else [*kept, "CPUExecutionProvider"]


def _check_active(session: Session, options: RuntimeOptions) -> None:
    for name in session.requested:
        if name not in session.providers and not options.allow_cpu_fallback:
            raise ProviderError(_inactive(name, "active", session.providers))


def _inactive(name: str, state: str, others: Sequence[str]) -> str:
    double = all(package_version(package) for package in PACKAGES)
    cause = (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
        'uninstall both, then pip install "lipcompile[gpu]"'
        if double
        else 'see "lipcompile doctor"; a GPU needs pip install "lipcompile[gpu]"'
    )
    return (
        f"execution provider '{name}' was asked for and is not active ({state}: "
        f"{', '.join(others)}): {cause}, or pass --allow-cpu-fallback"
    )


# What allocators say: ONNX Runtime's arenas, C++, CUDA, cuDNN, DirectML.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate|out of memory|bad_alloc|bad allocation|cudaErrorMemoryAllocation|"
    r"CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED|E_OUTOFMEMORY|"
    r"available memory of \d+ is smaller than requested",
    re.IGNORECASE,
)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def _first_line(error: BaseException) -> str:
    """What ONNX Runtime says, without its codes and the paths of its own sources."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = _NOISE.sub("", lines[0] if lines else type(error).__name__)
    return text if len(text) <= 300 else f"{text[:300]}..."
