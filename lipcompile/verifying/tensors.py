"""Every forged tensor against the form's definition in NumPy, on data.

Tolerances, where f_c(x) is computed beside x: relative to |x|, since a form multiplies x by a
gate in [0, 1], and zero for `hard`, which only compares and copies.
    float64   1e-6   ONNX Runtime's double Sigmoid, no more than the float32 one promises
    float32   1e-6   its Sigmoid is a rational approximation, 1.6e-7 absolute at worst
    float16   1e-3   one unit in the last place, 2^-10
    bfloat16  8e-3   one unit in the last place, 2^-7
ONNX Runtime computes most 16-bit operators in float32 on the CPU, and hands the next one what
was not rounded yet. So in these types f_c(x) may be that of x and its two neighbours; every
form grows with x.

Where c was taken into a bias, sums are rounded in another order: relative to the largest |x|
of the tensor, and of the threshold.
    float64   1e-12
    float32   1e-5   2.5e-7 was the worst of 42 real models
    float16   4e-3   four units in the last place
    bfloat16  3e-2   the same
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lipcompile import model_io, runtime
from lipcompile.calibration.probes import Probe
from lipcompile.errors import ModelError, RunFailure
from lipcompile.runtime import RuntimeOptions
from lipcompile.text import count, percent
from lipcompile.verifying.definitions import Definition, find_definitions
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck, some

NAME = "forged tensors"
BESIDE = {"float64": 1e-6, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
SHIFTED = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
_NARROW = frozenset({"float16", "bfloat16"})
_SAMPLES = 8  # at least; more for tensors of few elements
_ELEMENTS = 4096
_TOGETHER = 16  # tensors that leave one session, to bound memory


@dataclass(slots=True)
class _Measured:
    """What the data said of one forged tensor."""

    error: float = 0.0  # in the unit of the tolerance
    elements: int = 0
    suppressed: int = 0
    samples: int = 0


def check_tensors(
    pair: Pair, probes: Sequence[Probe], data: str, options: RuntimeOptions
) -> VerifyCheck:
    """Runs the model as written, on the CPU, with x and f_c(x) of every site as outputs."""
    definitions = find_definitions(pair)
    on_cpu = RuntimeOptions(threads=options.threads, optimize=False, verbose=options.verbose)
    measured: dict[str, _Measured] = {}
    try:
        for start in range(0, len(definitions), _TOGETHER):
            group = definitions[start : start + _TOGETHER]
            measured |= _measure(pair, group, probes, on_cpu)
    except (ModelError, RunFailure) as error:
        return VerifyCheck(NAME, None, f"it does not run on the CPU as written: {error}")
    shown = min((one.samples for one in measured.values()), default=0)
    few = shown < sum(probe.count for probe in probes)
    return _judge(definitions, measured, f"at least {shown} of {data}" if few else data)


def _measure(
    pair: Pair,
    group: Sequence[Definition],
    probes: Sequence[Probe],
    options: RuntimeOptions,
) -> dict[str, _Measured]:
    nodes = [node for definition in group for node in definition.nodes]
    tapped = model_io.with_extra_outputs(pair.inner.proto, nodes)
    session = runtime.open_session(tapped, options, pair.inner.base_dir)
    names = [name for item in group for name in (item.argument, item.result)]
    measured = {item.tensor: _Measured() for item in group}
    for number, probe in enumerate(probes):
        fewest = min((one.elements for one in measured.values()), default=0)
        if number >= _SAMPLES and fewest >= _ELEMENTS:
            break
        results = session.run(names, probe.feeds)
        for item in group:
            _compare(item, results, measured[item.tensor])
            measured[item.tensor].samples += probe.count
    return measured


def _compare(item: Definition, results: Mapping[str, np.ndarray], measured: _Measured) -> None:
    """Adds one run; elements whose x is not finite are not compared."""
    x, got = results[item.argument], results[item.result]
    if x.shape != got.shape or x.dtype != got.dtype:
        measured.error = np.inf
        return
    low, expected, high = (_defined(item, at) for at in _near(item, x))
    wide = np.abs(x.astype(np.float64))
    finite = np.isfinite(wide)
    if not finite.any():
        return
    measured.elements += int(finite.sum())
    measured.suppressed += int((expected != x.astype(np.float64))[finite].sum())
    real, wide = got.astype(np.float64)[finite], wide[finite]
    error = np.maximum(low[finite] - real, real - high[finite]).clip(min=0)
    scale = np.full_like(wide, max(wide.max(), item.c)) if item.shifted else wide
    error[error > 0] /= np.maximum(scale[error > 0], np.finfo(np.float64).tiny)
    measured.error = max(measured.error, float(np.nan_to_num(error, nan=np.inf).max()))


def _near(item: Definition, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What may have stood before x was rounded, and x between them."""
    if item.dtype not in _NARROW:
        return x, x, x
    below, above = (np.nextafter(x, x.dtype.type(end)) for end in (-np.inf, np.inf))
    return below, x, above


def _defined(item: Definition, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return item.form(x, item.c).astype(np.float64)


def tolerance(item: Definition) -> float:
    """How far f_c(x) may lie from the definition."""
    if item.shifted:
        return SHIFTED[item.dtype]
    return 0.0 if item.form.name == "hard" else BESIDE[item.dtype]


def _judge(
    definitions: Sequence[Definition], measured: Mapping[str, _Measured], data: str
) -> VerifyCheck:
    wrong = [*_wrong(definitions, measured)]
    if wrong:
        return VerifyCheck(NAME, False, f"on {data}: {some(wrong)}")
    elements = sum(one.elements for one in measured.values())
    if not elements:
        return VerifyCheck(NAME, None, f"on {data}: no element is finite")
    share = sum(one.suppressed for one in measured.values()) / elements
    text = f"{count(definitions, 'tensor')} by definition on {data}, which it changes in "
    text += f"{percent(share)} of the elements; {_errors(definitions, measured)}"
    return VerifyCheck(NAME, True, text)


def _wrong(
    definitions: Sequence[Definition], measured: Mapping[str, _Measured]
) -> Iterator[str]:
    for item in definitions:
        error = measured[item.tensor].error
        if error > tolerance(item):
            yield (
                f"'{item.tensor}' is not {item.form.name} with c = {item.c:.4g}: off by "
                f"{error:.1e} of {_unit(item)}, allowed {tolerance(item):.0e}"
            )


def _unit(item: Definition) -> str:
    return "its largest" if item.shifted else "|x|"


def _errors(definitions: Sequence[Definition], measured: Mapping[str, _Measured]) -> str:
    parts = []
    for unit in ("|x|", "its largest"):
        group = [item for item in definitions if _unit(item) == unit]
        if group:
            worst = max(measured[item.tensor].error for item in group)
            allowed = max(tolerance(item) for item in group)
            parts.append(f"error at most {worst:.1e} of {unit} (allowed {allowed:.0e})")
    exact = not any(measured[item.tensor].error for item in definitions)
    return "not a bit differs" if exact else ", ".join(parts)
