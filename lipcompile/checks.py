"""Checks of a compiled model before it is written, and its agreement with the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile import model_io, runtime
from lipcompile.calibration.scan import Probe
from lipcompile.errors import CheckFailed, ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the hardened model's outputs compare with the original's, on calibration data.

    Attributes:
        samples: How many samples were compared.
        top1: Share of samples for which both models have the same arg max of the first output;
            None where that output is no vector of class scores.
        max_difference: Largest |hardened - original| over all float outputs, over the largest
            |original|; no unit.
        original_has_nan: The original itself gives NaN on this data.
    """

    samples: int
    top1: float | None
    max_difference: float
    original_has_nan: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "top1": self.top1,
            "max_difference": self.max_difference,
            "original_has_nan": self.original_has_nan,
        }


def check_structure(source: LoadedModel, hardened: Any) -> None:
    """The signature is unchanged, and ONNX's checker accepts what it accepted before.

    Raises:
        CheckFailed: It does not hold; a defect of LipCompile.
    """
    before, after = source.proto.graph, hardened.graph
    for role in ("input", "output"):
        if list(getattr(before, role)) != list(getattr(after, role)):
            raise CheckFailed(
                f"the {role}s of '{source.name}' changed while it was hardened: nothing was "
                "written; please report this with the model"
            )
    if model_io.passes_checker(source.proto) and not model_io.passes_checker(hardened):
        raise CheckFailed(
            f"ONNX's checker accepted '{source.name}' and rejects the hardened model: nothing "
            "was written; please report this with the model"
        )


def check_outputs(
    source: LoadedModel, hardened: Any, probes: Sequence[Probe], options: RuntimeOptions
) -> Agreement | None:
    """The hardened model loads, and gives finite outputs where the original did.

    Args:
        source: The original.
        hardened: The rendered model.
        probes: Feeds with the original's outputs; without any, only loading is checked.
        options: Providers and threads.

    Raises:
        CheckFailed: It does not load, or an output became NaN or infinite.
    """
    try:
        session = runtime.open_session(model_io.serialize(hardened), options, source.base_dir)
    except ModelError as error:
        if not probes and not _loads(source, options):
            return None  # neither does the original, for example a bfloat16 model on the CPU
        raise CheckFailed(
            f"'{source.name}' was hardened, but does not load ({error}): nothing was written; "
            "please report this with the model"
        ) from error
    comparison = _Comparison()
    for probe in probes:
        comparison.add(probe, session.run(list(probe.outputs), probe.feeds))
        if comparison.broken:
            raise CheckFailed(
                f"output '{comparison.broken[0]}' of the hardened '{source.name}' is NaN or "
                "infinite on calibration data where the original's is finite: nothing was "
                "written; try a smaller --cr, or report this with the model"
            )
    return comparison.result() if probes else None


def measure_agreement(
    session: runtime.Session, probes: Sequence[Probe]
) -> tuple[Agreement, tuple[str, ...]]:
    """How a model's outputs compare with those of `probes`.

    Returns:
        The comparison, and the outputs that are NaN or infinite where the original's is not.
    """
    comparison = _Comparison()
    for probe in probes:
        comparison.add(probe, session.run(list(probe.outputs), probe.feeds))
    return comparison.result(), tuple(comparison.broken)


def _loads(source: LoadedModel, options: RuntimeOptions) -> bool:
    try:
        runtime.open_session(model_io.serialize(source.proto), options, source.base_dir)
    except ModelError:
        return False
    return True


class _Comparison:
    """Accumulates over probes."""

    def __init__(self) -> None:
        self.samples = 0
        self.same = 0
        self.compared = 0
        self.difference = 0.0
        self.scale = 0.0
        self.nan = False
        self.broken: list[str] = []  # outputs that became NaN or infinite

    def add(self, probe: Probe, results: dict[str, np.ndarray]) -> None:
        self.samples += probe.count
        first = True
        for output, before in probe.outputs.items():
            if not _is_float(before):
                continue
            after = np.asarray(results[output], dtype=np.float64)
            before = np.asarray(before, dtype=np.float64)
            if output not in self.broken and _breaks(before, after):
                self.broken.append(output)
            self.nan |= bool(np.isnan(before).any())
            if after.shape == before.shape:
                self._compare(before, after)
                if first:
                    rows = _own_rows(probe, before)
                    self._compare_top1(before[:rows], after[:rows])
            first = False

    def _compare(self, before: np.ndarray, after: np.ndarray) -> None:
        finite = np.isfinite(before) & np.isfinite(after)
        if finite.any():
            change = np.abs(after[finite] - before[finite])
            self.difference = max(self.difference, float(change.max()))
            self.scale = max(self.scale, float(np.abs(before[finite]).max()))

    def _compare_top1(self, before: np.ndarray, after: np.ndarray) -> None:
        """Scores are [N, C] with C > 1, up to axes of length 1; a map or sequence has none."""
        rows = len(before)
        if not rows or before.ndim < 2 or not np.isfinite(before).any():
            return
        if before[0].size < 2 or max(before.shape[1:]) != before[0].size:
            return
        best = [scores.reshape(rows, -1).argmax(axis=1) for scores in (before, after)]
        self.same += int((best[0] == best[1]).sum())
        self.compared += rows

    def result(self) -> Agreement:
        return Agreement(
            self.samples,
            self.same / self.compared if self.compared else None,
            self.difference / self.scale if self.scale else self.difference,
            self.nan,
        )


def _breaks(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether `after` is NaN or infinite somewhere where `before` is finite."""
    worse = ~np.isfinite(after)
    if before.shape == after.shape:
        worse &= np.isfinite(before)
    return bool(worse.any())


def _own_rows(probe: Probe, output: np.ndarray) -> int:
    """How many rows are those of samples; all, where axis 0 does not count samples."""
    if output.ndim == 0:
        return 0
    batched = len(output) == probe.count + probe.padding
    return len(output) - (probe.padding if batched else 0)


def _is_float(array: np.ndarray) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"
