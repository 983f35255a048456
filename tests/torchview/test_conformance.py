"""The view against ONNX's own node tests; `conformance.py` says what counts."""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import cache

import pytest
import torch

from lipcompile.ops import RANDOM
from lipcompile.torchview.registry import OPERATORS
from tests.torchview.conformance import (
    Outcome,
    cases,
    float_share,
    known_failures,
    names_by_operator,
    operators_of,
    run_case,
    summary,
)

LEAST_FLOAT_SHARE = 0.95


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors are tiny: threads of several workers would only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def outcome(name: str) -> Outcome:
    return run_case(name)


def starting_with(letter: str) -> list[str]:
    return [name for name in cases() if name.removeprefix("test_").startswith(letter)]


def complaints(outcomes: list[Outcome], known: frozenset[str]) -> list[str]:
    """Failures that nobody knew of, and known ones that pass."""
    return [
        f"{o.name}: {o.reason[:200]}"
        if o.status == "fail"
        else f"{o.name} passes: strike it from known_failures.txt"
        for o in outcomes
        if (o.status == "fail") != (o.name in known) and o.status != "out of scope"
    ]


@pytest.mark.parametrize("letter", string.ascii_lowercase)
def test_nothing_fails_but_what_is_known(letter: str) -> None:
    found = complaints([outcome(name) for name in starting_with(letter)], known_failures())
    assert not found, "\n".join(found)


def test_every_case_has_a_letter() -> None:
    grouped = [name for letter in string.ascii_lowercase for name in starting_with(letter)]
    assert sorted(grouped) == sorted(cases())


def test_float_share() -> None:
    outcomes = [outcome(name) for name in cases()]
    print(summary(outcomes))
    assert sum(o.status == "pass" and o.floats for o in outcomes) > 500
    assert float_share(outcomes) >= LEAST_FLOAT_SHARE


def test_every_operator_with_tests_passes_one() -> None:
    """An operator whose tests all fall out of scope would look as if it worked."""
    tested = names_by_operator()
    passed = {
        op for op, names in tested.items() if any(outcome(n).status == "pass" for n in names)
    }
    assert sorted(set(OPERATORS) & set(tested) - RANDOM - passed) == []


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda x: x + 0.01, "Not equal to tolerance"),
        (lambda x: torch.relu(x).double(), "dtype torch.float64, expected torch.float32"),
        (lambda x: torch.relu(x)[:1], "shape torch.Size"),
        (lambda x: (), "KeyError"),
        (lambda x: x.reshape(7, 7), "could not run Relu node"),
    ],
    ids=["value", "dtype", "shape", "outputs", "raises"],
)
def test_planted_failure_is_caught(
    wrong: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "Relu", lambda node: wrong)
    found = run_case("test_relu")
    assert found.status == "fail"
    assert reason in found.reason
    assert complaints([found], frozenset())
    assert not complaints([found], frozenset({"test_relu"}))


def test_planted_repair_is_caught() -> None:
    assert complaints([run_case("test_relu")], frozenset({"test_relu"}))


def test_missing_operator_is_out_of_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPERATORS, "Relu")
    assert run_case("test_relu").reason == "no operator Relu"


def test_float_share_counts_failures_of_float_tests_only() -> None:
    outcomes = [
        Outcome("a", "pass", floats=True),
        Outcome("b", "fail", floats=True),
        Outcome("c", "fail"),
        Outcome("d", "out of scope", floats=True),
    ]
    assert float_share(outcomes) == 0.5


def test_family_names_its_operators() -> None:
    assert operators_of("matmul") == {"MatMul", "Gemm", "Einsum"}
