"""An audit of an ensemble around the bundled model: the controls hold, the cost is told."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import onnx
import pytest
from onnx import helper

import lipcompile
from lipcompile.auditing.audit import audit
from lipcompile.auditing.results import AuditResult
from lipcompile.demo import CALIBRATION, MODEL, TEST
from lipcompile.ensembles.options import EnsembleOptions
from tests.auditing.quick import QUICK
from tests.verifying.test_verify import producer

ways = pytest.mark.parametrize("way", ["batch", "branches"])
SAME, LIMIT = (
    "the file is what its provenance says",
    "thresholds near zero reproduce the original",
)
PLACEBO = "a placebo with random thresholds is no better"


def bundled(ending: str = "") -> onnx.ModelProto:
    model = onnx.load(MODEL)
    if ending:
        output = model.graph.output[0].name
        producer(model, output).output[0] = "raw"
        model.graph.node.append(helper.make_node(ending, ["raw"], [output]))
    return model


@cache
def audited(way: str, form: str | None, ending: str = "") -> AuditResult:
    options: dict[str, Any] = {"ensemble": EnsembleOptions("flip", by=way)}
    if form is not None:
        options |= {"calib": CALIBRATION, "form": form, "cr": "2^-6"}
    original = bundled(ending)
    hardened = lipcompile.harden(original, **options).model
    one_thread = {"samples": 12, "attacks": QUICK, "threads": 1}
    return audit(hardened, original, TEST, eps=0.1, **one_thread)


def passed(result: AuditResult, name: str) -> bool | None:
    return next(check.passed for check in result.checks if check.name == name)


def evidence(result: AuditResult, name: str) -> str:
    return next(check.evidence for check in result.checks if check.name == name)


@ways
def test_an_ensemble_alone(way: str) -> None:
    result = audited(way, None)
    assert [check.name for check in result.checks if check.failed] == []
    assert passed(result, SAME) is True
    assert "largest difference 0 of the scores" in evidence(result, SAME)
    for name in (LIMIT, PLACEBO):
        assert passed(result, name) is None
        assert evidence(result, name) == "variant none has no thresholds to change"
    for name in ("bpda-identity", "bpda-smooth"):
        replaced = evidence(result, f"{name} is not stronger than white-box")
        assert replaced.startswith("no forged function and no rounding operator")


@ways
@pytest.mark.parametrize("form", ["hard", "smooth"])
def test_an_ensemble_of_a_forged_model(form: str, way: str) -> None:
    result = audited(way, form)
    assert [check.name for check in result.checks if check.failed] == []
    for name in (SAME, LIMIT, PLACEBO):
        assert passed(result, name) is True
    assert "largest difference 0 of the scores" in evidence(result, SAME)
    assert "hardened " in evidence(result, PLACEBO) and "placebo " in evidence(result, PLACEBO)
    assert "bpda-smooth" in {strike.path for strike in result.strikes}


def test_an_ensemble_of_probabilities() -> None:
    result = audited("batch", None, "Softmax")
    assert [check.name for check in result.checks if check.failed] == []
    assert passed(result, SAME) is True
    assert passed(result, "attacks see logits, not probabilities") is True
    assert result.hardened.robust.sum() < 12, "the attacks break something"


def test_a_file_that_is_not_what_it_says_fails_the_control() -> None:
    hardened = lipcompile.harden(bundled(), ensemble="flip").model
    next(node for node in hardened.graph.node if node.op_type == "Mean").op_type = "Max"
    result = audit(hardened, bundled(), TEST, eps=0.1, samples=4, attacks=QUICK, threads=1)
    assert passed(result, SAME) is False
    assert result.verdict == "masked"


def test_what_a_gain_costs_is_told() -> None:
    result = audited("branches", None)
    assert result.latency is not None and result.latency.pairs == 40
    assert 0 < result.latency.low <= result.latency.median <= result.latency.high
    assert f"\nlatency, hardened / original: {result.latency}\n" in str(result)
    found = json.loads(json.dumps(result.to_json()))["latency"]
    assert found == {
        name: getattr(result.latency, name) for name in ("median", "low", "high", "pairs")
    }
