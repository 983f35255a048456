"""verify(): the one place where the steps meet.

open both -> compare the files -> run the forged tensors -> compare the outputs -> the clock
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.scan import Progress
from lipcompile.checks import Agreement
from lipcompile.errors import DataError, InputError, ModelError, OptionError, RunFailure
from lipcompile.findings import Finding
from lipcompile.fusions import LostFusions
from lipcompile.gates import NO_SCORES, NOT_RUN, Gates
from lipcompile.measure import LatencyRatio
from lipcompile.rebuild import MISFITS
from lipcompile.records import ABSTAIN, COLUMNS, ENSEMBLE, LIPSCHITZ, SOURCE, is_hardened
from lipcompile.runtime import RuntimeOptions
from lipcompile.verifying import (
    bounds,
    columns,
    ensemble,
    rebuilding,
    tensors,
    thresholds,
    untouched,
)
from lipcompile.verifying.outputs import FINITE, check_outputs
from lipcompile.verifying.pair import Pair, open_pair
from lipcompile.verifying.results import VerifyCheck, VerifyResult
from lipcompile.verifying.samples import Samples, read_samples
from lipcompile.verifying.signature import NAME as SIGNATURE
from lipcompile.verifying.signature import check_signature
from lipcompile.verifying.speed import (
    Sessions,
    check_fusions,
    check_latency,
    open_sessions,
)

_OnData = Callable[[Pair, Samples, RuntimeOptions], VerifyCheck]


def verify(
    original: object,
    hardened: object,
    data: object = None,
    *,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    pairs: int = 50,
    min_agreement: float | None = None,
    max_latency_ratio: float | None = None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Checks that a hardened model is what its provenance says.

    The file is compared with the model that is built once more from the original and the
    provenance; what the provenance does not name is compared with the original by itself;
    every forged tensor is compared with the form's definition in NumPy on data. A provenance
    is no signature: who can change the file can change it as well, so that both agree.

    Args:
        original: The model before hardening: a path, `onnx.ModelProto`, `onnx_ir.Model` or
            graphsurgeon `Graph`.
        hardened: The hardened model, the same.
        data: As for `calibrate`; None draws random samples.
        scan: How to read the data; without `samples`, 32 are taken. Each runs alone.
        runtime: Execution providers and threads.
        pairs: Pairs of runs for the latency ratio; 0 skips it.
        min_agreement: Gate: least top-1 agreement, in [0, 1].
        max_latency_ratio: Gate: largest median of hardened over original latency.
        progress: Called with samples done and samples in all (None if unknown).

    Returns:
        The result; `result.holds` is the verdict, and `result.failed_gates` tells of failed
        checks as well.

    Raises:
        ModelError: A model cannot be read, or the two do not belong together.
        DataError: The data cannot be used with this model.
        LipCompileError: See `lipcompile.errors`.
    """
    gates = Gates(min_agreement=min_agreement, max_latency_ratio=max_latency_ratio)
    if pairs < 0:
        raise OptionError(f"pairs = {pairs} is negative: give 0 to skip the latency")
    if pairs == 0 and max_latency_ratio is not None:
        raise OptionError(
            "--max-latency-ratio needs a latency, and --pairs 0 measures none: leave one of "
            "the two out"
        )
    pair, first = open_pair(original, hardened)
    run = _Run(pair, runtime or RuntimeOptions(), pairs)
    run.measure(data, scan or ScanOptions(), progress)
    return VerifyResult(
        original=pair.original.name,
        hardened=pair.hardened.name,
        source=pair.hardened.metadata[SOURCE],
        digest=pair.hardened.digest,
        variant=_variant(pair),
        data=run.samples.label if run.samples else None,
        checks=(first, *_file_checks(pair), *run.checks),
        agreement=run.agreement,
        latency=run.latency,
        fusions=run.fusions,
        gates=run.judge(gates),
    )


def _variant(pair: Pair) -> str:
    metadata = pair.hardened.metadata
    if not is_hardened(metadata):
        return "none"
    return "weight" if COLUMNS in metadata else "forged"


def _file_checks(pair: Pair) -> Iterator[VerifyCheck]:
    yield _guarded(SIGNATURE, partial(check_signature, pair))
    yield _guarded(rebuilding.NAME, partial(rebuilding.check_rebuilt, pair))
    yield _guarded(untouched.NAME, partial(untouched.check_untouched, pair))
    if is_hardened(pair.hardened.metadata):
        yield _guarded(thresholds.NAME, partial(thresholds.check_thresholds, pair))
    if pair.columns:
        yield _guarded(columns.NAME, partial(columns.check_columns, pair))
    if LIPSCHITZ in pair.hardened.metadata:
        yield _guarded(bounds.BOUND, partial(bounds.check_bound, pair))


def _guarded(name: str, check: Callable[[], VerifyCheck]) -> VerifyCheck:
    """A provenance may say anything: what does not fit the models fails the check."""
    try:
        return check()
    except InputError as error:
        return VerifyCheck(name, False, f"the provenance holds an illegal value: {error}")
    except MISFITS as error:
        reason = f"the provenance does not fit ({type(error).__name__}: {error})"
        return VerifyCheck(name, False, reason)


@dataclass
class _Run:
    """What both models do on data."""

    pair: Pair
    options: RuntimeOptions
    pairs: int
    checks: tuple[VerifyCheck, ...] = ()
    samples: Samples | None = None
    agreement: Agreement | None = None
    latency: LatencyRatio | None = None
    fusions: LostFusions | None = None

    def measure(self, data: object, scan: ScanOptions, progress: Progress | None) -> None:
        """Runs both; where the original cannot be run, says why."""
        try:
            sessions = open_sessions(self.pair, self.options)
        except ModelError as error:  # for example a bfloat16 model on the CPU
            self._skip(f"the original does not run here: {error}")
            return
        original = self.pair.original
        try:
            self.samples = read_samples(original, sessions.original, data, scan, progress)
        except (DataError, RunFailure) as error:
            if data is not None:
                raise
            self._skip(f"random samples do not do, pass --data: {error}")
            return
        reason = ensemble.too_small(self.pair, self.samples) if data is None else None
        if reason is not None:
            self._skip(f"random samples do not do, pass --data: {reason}")
            return
        try:
            self._compare(sessions, self.samples)
        except RunFailure as error:
            self.checks += (VerifyCheck(FINITE, False, f"the hardened model fails: {error}"),)

    def judge(self, gates: Gates) -> tuple[Finding, ...]:
        """The user's gates on what was measured."""
        agreement = self.agreement
        top1 = agreement.top1 if agreement is not None else None
        missing = NO_SCORES if agreement is not None else NOT_RUN
        return (*gates.agreement(top1, missing), *gates.latency(self.latency))

    def _skip(self, reason: str) -> None:
        names = [tensors.NAME] if self.pair.sites else []
        names += [name for name, _ in self._around()]
        self.checks = tuple(VerifyCheck(name, None, reason) for name in (*names, FINITE))

    def _around(self) -> Iterator[tuple[str, _OnData]]:
        """The checks of what the metadata names beside hardened layers."""
        known: dict[str, tuple[str, _OnData]] = {
            ENSEMBLE: (ensemble.NAME, ensemble.check_ensemble),
            LIPSCHITZ: (bounds.RESCALED, bounds.check_rescaled),
            ABSTAIN: (bounds.HEAD, bounds.check_head),
        }
        yield from (it for key, it in known.items() if key in self.pair.hardened.metadata)

    def _compare(self, sessions: Sessions, samples: Samples) -> None:
        probes, label = samples.probes, samples.label
        if sessions.hardened is None:
            reason = f"the original loads, and this does not: {sessions.problem}"
            self.checks = (VerifyCheck(FINITE, False, reason),)
            return
        if self.pair.sites:
            tensor_check = partial(
                tensors.check_tensors, self.pair, probes, label, self.options
            )
            self.checks = (_guarded(tensors.NAME, tensor_check),)
        for name, check in self._around():
            on_data = partial(check, self.pair, samples, self.options)
            self.checks += (_guarded(name, on_data),)
        change = self.pair.change
        found, self.agreement = check_outputs(sessions.hardened, probes, label, change)
        self.checks += found
        timed, self.latency = check_latency(sessions, probes[0].feeds, self.pairs)
        self.checks += (timed,)
        if self.pairs:
            fused, self.fusions = check_fusions(self.pair, self.options)
            self.checks += (fused,)
