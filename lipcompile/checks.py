"""Checks of a compiled model before it is written, and its agreement with the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipcompile import model_io, runtime
from lipcompile.calibration.probes import Probe
from lipcompile.changing import Change
from lipcompile.errors import CheckFailed, ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions

_TIMES = 10  # what ONNX Runtime's optimisations do to a model itself
_NOTHING = Change()
_MOST_SENSITIVE = 0.5  # beyond it nothing could be told from rounding


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the hardened model's outputs compare with the original's, on calibration data.

    Attributes:
        samples: How many samples were compared.
        top1: Share of samples for which both models have the same arg max of the first output;
            None where that output is no vector of class scores.
        max_difference: Largest |hardened - original| over all float outputs, over the largest
            |original|; no unit. Of a model without float outputs, the share of elements that
            differ.
        original_has_nan: The original itself gives NaN on this data.
        integer_agreement: Share of equal elements in all integer, boolean and text outputs,
            such as labels; None where there are none.
    """

    samples: int
    top1: float | None
    max_difference: float
    original_has_nan: bool = False
    integer_agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "top1": self.top1,
            "max_difference": self.max_difference,
            "original_has_nan": self.original_has_nan,
            "integer_agreement": self.integer_agreement,
        }


def check_structure(source: LoadedModel, hardened: Any, change: Change = _NOTHING) -> None:
    """The signature is unchanged but for `change`, and ONNX's checker accepts what it accepted
    before.

    Raises:
        CheckFailed: It does not hold; a defect of LipCompile.
    """
    before, after = change.signature(source.proto).graph, hardened.graph
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
    source: LoadedModel,
    hardened: Any,
    probes: Sequence[Probe],
    options: RuntimeOptions,
    change: Change = _NOTHING,
) -> Agreement | None:
    """The hardened model loads, and gives finite outputs where the original did.

    Where there is nothing to run, a model with external weights is loaded as it stands,
    neither optimised nor prepacked, which reads no weight.

    Args:
        source: The original.
        hardened: The rendered model.
        probes: Feeds with the original's outputs; without any, only loading is checked.
        options: Providers and threads.
        change: What differs on purpose.

    Raises:
        CheckFailed: It does not load, or an output became NaN or infinite.
    """
    if source.external and not probes:
        options = replace(options, optimize=False, prepack=False)
    try:
        session = _open(source, hardened, options)
    except ModelError as error:
        if not probes and not _loads(source, options):
            return None  # neither does the original, for example a bfloat16 model on the CPU
        raise CheckFailed(
            f"'{source.name}' was hardened, but does not load ({error}): nothing was written; "
            "please report this with the model"
        ) from error
    comparison = _Comparison()
    for probe in probes:
        results = session.run(list(probe.outputs), probe.feeds)
        comparison.add(probe, change.comparable(results))
        if comparison.broken:
            raise CheckFailed(
                f"output '{comparison.broken[0]}' of the hardened '{source.name}' is NaN or "
                "infinite on calibration data where the original's is finite: nothing was "
                "written; try a smaller --cr, or report this with the model"
            )
    return comparison.result() if probes else None


def check_compaction(
    source: LoadedModel,
    zeroed: Any,
    compacted: Any,
    probes: Sequence[Probe],
    options: RuntimeOptions,
) -> None:
    """Dropping channels changed no output: |compacted - zeroed| <= t max |zeroed|, for each.

    t is 1e-4 (2^-6 in float16), where rounding gives 5e-6 at most on real models: the sums are
    those of before without terms that are 0, taken in another order. Of integers one in a
    hundred may differ, and one in any case: a label in a tie. A model that is more sensitive
    than that, as with `Floor` or integer arithmetic inside, may differ by ten times what it
    differs from itself when ONNX Runtime takes its sums otherwise, without optimisations.

    Args:
        source: The original, for its name and its folder.
        zeroed: The rendered model whose columns are zero.
        compacted: The same without its dead channels.
        probes: Feeds; without any, nothing is run.
        options: Providers and threads.

    Raises:
        CheckFailed: An output differs by more; a defect of LipCompile.
    """
    if not probes:
        return
    reference = _open(source, zeroed, options)
    expected = [
        replace(probe, outputs=reference.run(list(probe.outputs), probe.feeds))
        for probe in probes
    ]
    found = _by_output(_open(source, compacted, options), expected)
    if all(apart.is_rounding() for apart in found):
        return
    other = replace(options, optimize=not options.optimize)
    itself = _by_output(_open(source, zeroed, other), expected)
    for apart, own in zip(found, itself, strict=True):
        if not apart.is_rounding(own.difference):
            raise CheckFailed(
                f"removing dead channels moved output '{apart.output}' of '{source.name}' by "
                f"{apart.difference:.1e} of its largest value on calibration data, where "
                f"rounding moves it by {own.difference:.1e}: nothing was written; leave out "
                "--compact, and please report this with the model"
            )


@dataclass(frozen=True, slots=True)
class _Apart:
    """How far one output lies from the same of another model."""

    output: str
    difference: float  # as `Agreement.max_difference`; infinite for an output that is broken
    allowed: float

    def is_rounding(self, own: float = 0.0) -> bool:
        return self.difference <= max(self.allowed, sensitivity(own))


def sensitivity(own: float) -> float:
    """What a rewrite may move an output by, where the model differs by `own` from itself when
    ONNX Runtime takes its sums otherwise; both are shares of the largest value."""
    return min(_TIMES * own, _MOST_SENSITIVE)


def _by_output(session: runtime.Session, expected: Sequence[Probe]) -> list[_Apart]:
    comparisons = {name: _Comparison() for name in expected[0].outputs}
    sizes = dict.fromkeys(comparisons, 0)
    for probe in expected:
        results = session.run(list(probe.outputs), probe.feeds)
        for name, array in probe.outputs.items():
            comparisons[name].add(replace(probe, outputs={name: array}), results)
            sizes[name] += np.asarray(array).size
    found = []
    for name, comparison in comparisons.items():
        apart = float("inf") if comparison.broken else comparison.result().max_difference
        allowed = _rounding(np.asarray(expected[0].outputs[name]), sizes[name])
        found.append(_Apart(name, apart, allowed))
    return found


def _rounding(array: np.ndarray, size: int) -> float:
    """What rounding may do to an output like `array`, of `size` elements in all."""
    if array.dtype.kind == "f":
        return 2.0**-6 if array.dtype == np.float16 else 1e-4
    return max(0.01, 1 / max(size, 1))


def _open(source: LoadedModel, proto: Any, options: RuntimeOptions) -> runtime.Session:
    return runtime.open_session(model_io.serialize(proto), options, source.base_dir)


def measure_agreement(
    session: runtime.Session, probes: Sequence[Probe], change: Change = _NOTHING
) -> tuple[Agreement, tuple[str, ...]]:
    """How a model's outputs compare with those of `probes`, but for `change`.

    Returns:
        The comparison, and the outputs that are NaN or infinite where the original's is not.
    """
    comparison = _Comparison()
    for probe in probes:
        results = session.run(list(probe.outputs), probe.feeds)
        comparison.add(probe, change.comparable(results))
    return comparison.result(), tuple(comparison.broken)


def _loads(source: LoadedModel, options: RuntimeOptions) -> bool:
    try:
        _open(source, source.proto, options)
    except ModelError:
        return False
    return True


class _Comparison:
    """Accumulates over probes."""

    def __init__(self) -> None:
        self.samples = 0
        self.same = 0
        self.compared = 0
        self.has_classes = False  # whether any row has scores without NaN
        self.difference = 0.0
        self.scale = 0.0
        self.nan = False
        self.floats = False  # whether any output is float
        self.equal = 0  # elements of the other outputs
        self.discrete = 0
        self.broken: list[str] = []  # outputs that became NaN or infinite

    def add(self, probe: Probe, results: dict[str, np.ndarray]) -> None:
        self.samples += probe.count
        first = True
        for output, before in probe.outputs.items():
            if not _is_float(before):
                self._compare_equal(probe, np.asarray(before), np.asarray(results[output]))
                continue
            self.floats = True
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

    def _compare_equal(self, probe: Probe, before: np.ndarray, after: np.ndarray) -> None:
        rows = _own_rows(probe, before) if before.ndim else None
        own = before[:rows] if before.ndim else before
        self.discrete += own.size
        if after.shape == before.shape:
            same = own == (after[:rows] if before.ndim else after)
            self.equal += int(np.count_nonzero(same))

    def _compare(self, before: np.ndarray, after: np.ndarray) -> None:
        finite = np.isfinite(before) & np.isfinite(after)
        if finite.any():
            change = np.abs(after[finite] - before[finite])
            self.difference = max(self.difference, float(change.max()))
            self.scale = max(self.scale, float(np.abs(before[finite]).max()))

    def _compare_top1(self, before: np.ndarray, after: np.ndarray) -> None:
        """Scores are [N, C] with C > 1, up to axes of length 1; a map or sequence has none. A
        row with NaN has no class, and agrees with nothing."""
        rows = len(before)
        if not rows or before.ndim < 2:
            return
        if before[0].size < 2 or max(before.shape[1:]) != before[0].size:
            return
        scores = [array.reshape(rows, -1) for array in (before, after)]
        known = ~(np.isnan(scores[0]) | np.isnan(scores[1])).any(axis=1)
        best = [array.argmax(axis=1) for array in scores]
        self.same += int((known & (best[0] == best[1])).sum())
        self.compared += rows
        self.has_classes |= bool(known.any())

    def result(self) -> Agreement:
        equal = self.equal / self.discrete if self.discrete else None
        difference = self.difference / self.scale if self.scale else self.difference
        if equal is not None and not self.floats:
            difference = 1 - equal
        top1 = self.same / self.compared if self.has_classes else None
        return Agreement(self.samples, top1, difference, self.nan, equal)


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
