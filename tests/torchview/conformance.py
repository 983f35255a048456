"""ONNX's own node tests, run through the torch view.

    python -m tests.torchview.conformance [--family NAME] [--ops Conv,Pad]

prints how many pass, why others are out of scope, and what fails.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch

from lipcompile.errors import ModelError
from lipcompile.ops import RANDOM, STANDARD_DOMAINS
from lipcompile.torchview import operators, torch_view
from lipcompile.torchview.dtypes import to_tensor, torch_dtype
from lipcompile.torchview.registry import OPERATORS

KNOWN_FAILURES = Path(__file__).with_name("known_failures.txt")
OLDEST_OPSET = 7
Status = Literal["pass", "fail", "out of scope"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one node test.

    Attributes:
        name: As ONNX names it.
        status: "out of scope" says nothing of the view; `reason` says why.
        reason: What failed, or why the test does not count.
        floats: Whether an output is of a floating-point type.
    """

    name: str
    status: Status
    reason: str = ""
    floats: bool = False


@cache
def cases() -> dict[str, Any]:
    """ONNX's node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference values divide by zero, and the like
        from onnx.backend.test.case.node import collect_testcases

        return {case.name: case for case in collect_testcases(None)}


def run_case(name: str) -> Outcome:
    """Compares the view's outputs with the expected ones, in value, shape and type."""
    case = cases()[name]
    floats = any(
        onnx_float(value.type.tensor_type.elem_type) for value in case.model.graph.output
    )
    reason = out_of_scope(case)
    if reason:
        return Outcome(name, "out of scope", reason, floats)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as in pytest
            view = torch_view(case.model)
            for inputs, expected in case.data_sets:
                compare(view(*map(tensor, inputs)), expected, case.rtol, case.atol)
    except Exception as error:
        if reason := refused_for(error):
            return Outcome(name, "out of scope", reason, floats)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Outcome(name, "fail", reason, floats)
    return Outcome(name, "pass", floats=floats)


def tensor(value: Any) -> torch.Tensor:
    """An array of a data set, or `TensorProto` in its place."""
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    return to_tensor(np.asarray(value))


def onnx_float(code: int) -> bool:
    dtype = torch_dtype(code)
    return dtype is not None and dtype.is_floating_point


def out_of_scope(case: Any) -> str:
    """Why a test says nothing of the view, or ""."""
    model: onnx.ModelProto = case.model
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if any(node.op_type in RANDOM for node in model.graph.node):
        return "random values"
    if "training" in case.name:
        return "training mode"
    if versions.get("", OLDEST_OPSET) < OLDEST_OPSET:
        return f"opset below {OLDEST_OPSET}"
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.HasField("tensor_type"):
            return f"{value.type.WhichOneof('value')} in place of a tensor"
        element = value.type.tensor_type.elem_type
        if torch_dtype(element) is None:
            return f"element type {onnx.TensorProto.DataType.Name(element)}"
    return ""


def refused_for(error: Exception) -> str:
    """Why the view may refuse a model, or "" where it should not have failed."""
    if not isinstance(error, ModelError):
        return ""
    if "torch view has no operator" in str(error):
        missing = re.findall(r"'([\w.]+)' \(node", str(error))
        return f"no operator {', '.join(sorted(set(missing)))}"
    return "element type that torch lacks" if "torch lacks" in str(error) else ""


def compare(results: Any, expected: list[Any], rtol: float, atol: float) -> None:
    """Raises AssertionError where a result is not what ONNX expects."""
    actual = results if isinstance(results, tuple) else (results,)
    assert len(actual) == len(expected), f"{len(actual)} outputs, expected {len(expected)}"
    for index, (got, array) in enumerate(zip(actual, expected, strict=True)):
        want = tensor(array)
        for what in ("dtype", "shape"):
            one, other = getattr(got, what), getattr(want, what)
            assert one == other, f"output {index} has {what} {one}, expected {other}"
        if not want.is_floating_point():
            assert torch.equal(got, want), f"output {index} is {got}, expected {want}"
            continue
        one, other = (t.detach().double().numpy() for t in (got, want))
        # A sum in another order may change the last two bits; 0.001 is less for bfloat16.
        least = 2 * torch.finfo(want.dtype).eps
        np.testing.assert_allclose(
            one, other, max(rtol, least), atol, err_msg=f"output {index}"
        )


def known_failures() -> frozenset[str]:
    """Names that may fail: the first word of each line of known_failures.txt."""
    lines = KNOWN_FAILURES.read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line and line[0] != "#")


def float_share(outcomes: Iterable[Outcome]) -> float:
    """Passes among the float tests of operators that the view has."""
    counts = Counter(o.status for o in outcomes if o.floats)
    counted = counts["pass"] + counts["fail"]
    return counts["pass"] / counted if counted else 1.0


def summary(outcomes: Collection[Outcome]) -> str:
    counts = Counter(o.status for o in outcomes)
    floats = Counter(o.status for o in outcomes if o.floats)
    return "\n".join(
        f"{name}: {c['pass']} pass, {c['fail']} fail, {c['out of scope']} out of scope"
        for name, c in (("node tests", counts), ("of them float", floats))
    )


def names_by_operator() -> dict[str, list[str]]:
    """For each operator the tests whose model has such a node."""
    found: dict[str, list[str]] = {}
    for name, case in cases().items():
        nodes = case.model.graph.node
        for op in sorted({n.op_type for n in nodes if n.domain in STANDARD_DOMAINS}):
            found.setdefault(op, []).append(name)
    return found


def operators_of(family: str) -> set[str]:
    """The operators that a file of `operators/` registers."""
    source = Path(operators.__path__[0], f"{family}.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(\w+)"', source)) & set(OPERATORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", help="a file of lipcompile/torchview/operators")
    parser.add_argument("--ops", help="names of operators, with commas")
    options = parser.parse_args()
    chosen = set(options.ops.split(",")) if options.ops else set()
    if options.family:
        chosen |= operators_of(options.family)
    torch.set_num_threads(1)
    tested = names_by_operator()
    names = {name: None for op in sorted(chosen) for name in tested.get(op, [])}
    outcomes = [run_case(name) for name in (names if chosen else cases())]
    reasons = Counter(o.reason for o in outcomes if o.status == "out of scope")
    print("out of scope:")
    for reason, count in reasons.most_common():
        print(f"{count:5}  {reason}")
    known = known_failures()
    print("\nfailures ('-' stands in known_failures.txt):")
    for outcome in outcomes:
        if outcome.status == "fail":
            print("-" if outcome.name in known else "!", outcome.name, outcome.reason[:150])
    print(f"\n{summary(outcomes)}; float share {float_share(outcomes):.1%}")


if __name__ == "__main__":
    main()
