"""What does a hardened model cost at inference, for each form and target?

Latency of the hardened model over the original's (budget: 1.02 for `hard` on ReLU CNNs, 1.06
for `smooth`, 1.00 for `soft` after ReLU). All sessions of a model live in one process and take
turns, in an order that rotates and turns round, so that drift of the machine's speed and what
is left in its caches fall on all alike; a ratio is of two runs of one round. Beside each ratio
stands what the hardened model's optimised graph has and the original's does not: the reason of
a budget that is missed. Calibrated on random data, which is enough for the clock.

    python benchmarks/inference_overhead.py [--models NAME_OR_PATH ...] [--batch 1,16]
        [--forms smooth,hard] [--targets portable,ort-cpu] [--threads N] [--pairs N]
        [--seconds S]

Without arguments: the bundled demo model, and ResNet-50 and ViT-B/16 with random weights
(`benchmarks/shaped_models.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from shaped_models import SHAPED

import lipcompile
from lipcompile import CalibrationTable, RuntimeOptions, model_io
from lipcompile.demo import MODEL
from lipcompile.errors import LipCompileError
from lipcompile.forged import FORMS
from lipcompile.forged.targets import TARGETS
from lipcompile.fusions import lost_fusions
from lipcompile.measure import LatencyRatio
from lipcompile.runtime import Session, open_session

WARM_UP, FEWEST_ROUNDS = 3, 5
HEADER = "| model | batch | form | target | hardened / original | optimised graph |"


@dataclass(frozen=True)
class Candidate:
    """One hardened model, or why there is none to run."""

    form: str
    target: str
    session: Session | None
    remark: str


@dataclass(frozen=True)
class Original:
    """The model to compare with, and the table that all candidates are made from."""

    name: str
    path: Path
    table: CalibrationTable
    options: RuntimeOptions
    session: Session
    graph: ir.Model


def feeds_for(path: Path, batch: int) -> dict[str, np.ndarray]:
    """Normal inputs; dynamic axes beyond the first become 224."""
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in model_io.load(path).inputs:
        dims = [
            d if isinstance(d, int) else (224 if axis else batch)
            for axis, d in enumerate(spec.shape or ())
        ]
        feeds[spec.name] = rng.normal(size=dims).astype(spec.dtype or "float32")
    return feeds


def opened(path: Path, options: RuntimeOptions) -> tuple[Session, ir.Model]:
    """A session, and the graph that it runs."""
    optimised = path.with_name("optimised.onnx")
    session = open_session(path, options, optimized=optimised)
    graph = ir.load(optimised)
    return session, graph


def open_original(name: str, path: Path, options: RuntimeOptions, folder: Path) -> Original:
    copy = folder / "original.onnx"
    copy.write_bytes(path.read_bytes())
    table = lipcompile.calibrate(copy, [feeds_for(copy, 2)])
    return Original(name, copy, table, options, *opened(copy, options))


def digest(path: Path) -> str:
    """Of everything but metadata, which names the target."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def candidates(
    original: Original, forms: Sequence[str], targets: Sequence[str]
) -> list[Candidate]:
    """Every form for every target, each distinct model opened once."""
    found = []
    for form in forms:
        seen: dict[str, str] = {}
        for target in targets:
            found.append(candidate(original, form, target, seen))
    return found


def candidate(original: Original, form: str, target: str, seen: dict[str, str]) -> Candidate:
    """`seen` maps the digest of each model of this form to its target."""
    output = original.path.with_name("hardened.onnx")
    try:
        lipcompile.harden(
            original.path,
            table=original.table,
            form=form,
            target=target,
            output=output,
            runtime=original.options,
            force=True,
        )
    except LipCompileError as error:
        return Candidate(form, target, None, f"refused: {error}")
    first = seen.setdefault(digest(output), target)
    if first != target:
        return Candidate(form, target, None, f"= {first}")
    session, graph = opened(output, original.options)
    return Candidate(form, target, session, str(lost_fusions(original.graph, graph)))


def timed(
    sessions: Sequence[Session], feeds: Mapping[str, np.ndarray], pairs: int, seconds: float
) -> np.ndarray:
    """Seconds [rounds, sessions]; the first rounds warm up uncounted.

    Ends after `pairs` rounds, or after `seconds`, but not before `FEWEST_ROUNDS`.
    """
    rows: list[list[float]] = []
    start = time.perf_counter()
    for index in range(-WARM_UP, pairs):
        if index >= FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            break
        order = np.roll(np.arange(len(sessions)), index)[:: 1 if index % 2 else -1]
        row = [0.0] * len(sessions)
        for position in order:
            before = time.perf_counter()
            sessions[position].run(sessions[position].outputs, feeds)
            row[position] = time.perf_counter() - before
        rows.append(row)
    return np.array(rows[WARM_UP:])


def report(
    original: Original, tried: Sequence[Candidate], batch: int, pairs: int, seconds: float
) -> None:
    """Prints one row of the table per candidate."""
    feeds = feeds_for(original.path, batch)
    length = {len(array) for array in feeds.values()}
    if length != {batch}:
        print(f"| {original.name} | {batch} | | | its batch is fixed: {length} | |")
        return
    running = [c.session for c in tried if c.session is not None]
    spent = timed([original.session, *running], feeds, pairs, seconds)
    milliseconds = 1000 * float(np.median(spent[:, 0]))
    print(f"| {original.name} | {batch} | (none) | | {milliseconds:.2f} ms | |")
    columns = iter(range(1, spent.shape[1]))
    for one in tried:
        ratio: LatencyRatio | str = ""
        if one.session is not None:
            ratios = spent[:, next(columns)] / spent[:, 0]
            low, median, high = (float(q) for q in np.quantile(ratios, [0.1, 0.5, 0.9]))
            ratio = LatencyRatio(median, low, high, len(ratios))
        row = (original.name, batch, one.form, one.target, ratio, one.remark)
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def compare(model: str, arguments: argparse.Namespace) -> None:
    options = RuntimeOptions(threads=arguments.threads, spinning=False)
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(model)
        if model in SHAPED:
            path = folder / f"{model}.onnx"
            onnx.save(SHAPED[model](), path)
        original = open_original(path.stem, path, options, folder)
        tried = candidates(original, arguments.forms.split(","), arguments.targets.split(","))
        for batch in map(int, arguments.batch.split(",")):
            report(original, tried, batch, arguments.pairs, arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[str(MODEL), *SHAPED],
        help=f"paths, or {', '.join(SHAPED)}",
    )
    parser.add_argument("--batch", default="1,16", help="batch sizes")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--targets", default="portable,ort-cpu", help=", ".join(TARGETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=100, help="rounds, at most")
    parser.add_argument(
        "--seconds",
        type=float,
        default=45,
        help=f"ends a model's rounds at one batch early, after {FEWEST_ROUNDS} at least",
    )
    arguments = parser.parse_args()
    print(HEADER)
    print("|---" * HEADER.count(" | ") + "|---|", flush=True)
    for model in arguments.models:
        compare(model, arguments)


if __name__ == "__main__":
    main()
