"""What hardening costs: the clock, and what ONNX Runtime does not fuse any more."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.errors import LipCompileError, ModelError
from lipcompile.fusions import LostFusions, lost_fusions
from lipcompile.measure import LatencyRatio, latency_ratio
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck


@dataclass(frozen=True, slots=True)
class Sessions:
    """Both models, loaded for their users' settings.

    Attributes:
        original: Its session.
        hardened: Its session; None where only the original loads.
        problem: Why it does not.
    """

    original: Session
    hardened: Session | None
    problem: str = ""


def open_sessions(pair: Pair, options: RuntimeOptions) -> Sessions:
    """Loads both models.

    Raises:
        ModelError: ONNX Runtime does not load the original.
        ProviderError: A provider that was asked for is not active.
    """
    # Two sessions take turns: the idle threads of one would run against the other.
    options = replace(options, spinning=False)
    original = _open(pair.original, options)
    try:
        return Sessions(original, _open(pair.hardened, options))
    except ModelError as error:
        return Sessions(original, None, str(error))


def _open(
    model: LoadedModel, options: RuntimeOptions, optimized: Path | None = None
) -> Session:
    content = model_io.serialize(model.proto)
    return runtime.open_session(content, options, model.base_dir, optimized)


def check_latency(
    sessions: Sessions, feeds: Mapping[str, np.ndarray], pairs: int
) -> tuple[VerifyCheck, LatencyRatio | None]:
    """Hardened over original, in paired and interleaved runs."""
    if not pairs or sessions.hardened is None:
        return VerifyCheck("latency", None, "not measured: --pairs 0", decides=False), None
    ratio = latency_ratio(sessions.original, sessions.hardened, feeds, pairs)
    provider = sessions.hardened.providers[0].removesuffix("ExecutionProvider")
    text = f"{ratio} of the original's on {provider}"
    return VerifyCheck("latency", None, text, decides=False), ratio


def check_fusions(
    pair: Pair, options: RuntimeOptions
) -> tuple[VerifyCheck, LostFusions | None]:
    """Compares the graphs that ONNX Runtime makes of both."""
    try:
        with tempfile.TemporaryDirectory(prefix="lipcompile-") as folder:
            paths = [Path(folder) / f"{name}.onnx" for name in ("original", "hardened")]
            for path, model in zip(paths, (pair.original, pair.hardened), strict=True):
                _open(model, options, path)
            before, after = (ir.load(path) for path in paths)
            fusions = lost_fusions(before, after)
    except (LipCompileError, OSError) as error:  # a provider that compiles graphs writes none
        reason = f"the optimised graph cannot be written: {error}"
        return VerifyCheck("optimised graph", None, reason, decides=False), None
    return VerifyCheck("optimised graph", None, str(fusions), decides=False), fusions
