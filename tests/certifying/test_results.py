"""CertifyResult: what it prints, and what it becomes in JSON, CSV, JUnit and Markdown."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from lipcompile.certifying.certify import certify
from lipcompile.certifying.results import CertifyResult, ModelCertificates
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.findings import Finding, document_text
from lipcompile.junit import junit
from lipcompile.report.shape import problems, schema
from lipcompile.statistics import exact_interval
from lipcompile.step_summary import step_summary
from tests.certifying import small

EPS = 0.15


def options(procedure: str) -> SmoothingOptions:
    radius = EPS if procedure == "test" else None
    return SmoothingOptions(0.1, procedure, n0=50, n=300, radius=radius)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CertifyResult]:
    """One of each procedure, and of one model and of two."""
    root = tmp_path_factory.mktemp("small")
    small.fill(root)
    model, other, data = root / "model.onnx", root / "other.onnx", root / "test.npz"
    found = {
        "one": certify(model, data),
        "two": certify(model, data, original=other, eps=EPS),
    }
    for procedure in ("certify", "predict", "test"):
        found[procedure] = certify(
            model,
            data,
            method="smoothing",
            smoothing=options(procedure),
            eps=None if procedure == "predict" else EPS,
            samples=8,
        )
    return found


KINDS = ("one", "two", "certify", "predict", "test")


def made(right: list[bool], radii: list[float]) -> ModelCertificates:
    arrays = np.zeros(len(right), np.int64), np.array(right), np.array(radii)
    return ModelCertificates("m.onnx", "sha256:0", None, *arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_json_fits_the_schema_of_reports(kind: str, results: dict[str, CertifyResult]) -> None:
    content = json.loads(document_text(results[kind]))
    rules = {**schema(), **schema()["$defs"]["certify"]}
    jsonschema.Draft202012Validator(rules).validate(content)
    assert list(problems(content, schema()["$defs"]["certify"], "")) == []
    assert content["outcome"] == "passed"


def test_json_holds_every_radius_and_share(results: dict[str, CertifyResult]) -> None:
    result = results["two"]
    content = json.loads(document_text(result))
    assert result.original is not None
    for role, one in (("original", result.original), ("model", result.model)):
        assert content[role]["radii_l2"] == one.radii_l2.tolist(), "not even rounded"
        held = int(one.certified(EPS).sum())
        assert content[role]["certified"] == {
            "value": held / 24,
            "interval": list(exact_interval(held, 24)),
            "n": 24,
        }
        assert one.bounds is not None
        assert content[role]["bounds"]["pairwise"] == one.bounds.pairwise.tolist()
    assert content["difference"]["n"] == 24
    alone = json.loads(document_text(results["one"]))
    assert (alone["eps"], alone["original"], alone["difference"]) == (None, None, None)
    assert alone["model"]["certified"] is None
    smoothed = json.loads(document_text(results["test"]))["model"]
    assert "bounds" not in smoothed
    assert {one["answer"] for one in smoothed["outcomes"]} <= {"yes", "no", "undecided"}


def test_csv_has_a_row_per_image_and_model(
    results: dict[str, CertifyResult], tmp_path: Path
) -> None:
    results["two"].save_csv(tmp_path / "radii.csv")
    rows = list(csv.DictReader((tmp_path / "radii.csv").read_text().splitlines()))
    assert len(rows) == 48
    assert [row["model"] for row in rows[:24]] == ["original"] * 24
    model = results["two"].model
    assert [float(row["radius_l2"]) for row in rows[24:]] == model.radii_l2.tolist()
    assert [int(row["right"]) for row in rows[24:]] == model.right.tolist()
    assert rows[0]["image"] == "test.npz[0]"


def test_an_abstention_is_an_empty_class(
    results: dict[str, CertifyResult], tmp_path: Path
) -> None:
    unsure = replace(results["certify"].model, labels=np.full(8, -1))
    replace(results["certify"], model=unsure).save_csv(tmp_path / "radii.csv")
    rows = list(csv.DictReader((tmp_path / "radii.csv").read_text().splitlines()))
    assert {row["class"] for row in rows} == {""}


def test_certified_needs_the_right_class_and_a_radius() -> None:
    found = made([True, True, False, True], [0.5, 0.0, 2.0, 1.0])
    assert found.certified(0.5).tolist() == [True, False, False, True]
    assert found.certified(0.0).tolist() == [True, False, False, True]
    assert found.curve() == [(0.5, 0.5), (1.0, 0.25)]
    assert made([True, True], [0.5, 0.5]).curve() == [(0.5, 1.0)]
    assert made([False], [0.5]).curve() == []


def test_text_marks_the_radius_that_was_asked_for(results: dict[str, CertifyResult]) -> None:
    text = str(results["two"])
    assert "certified at 0.15 *" in text
    assert "certified at 0.15, model - original: " in text
    assert "McNemar's exact p" in text
    assert "rounding at inference is not covered" in text
    assert "Lipschitz bound, LipLT" in text
    assert " *" not in str(results["one"])


@pytest.mark.parametrize(
    ("kind", "told", "untold"),
    [
        ("certify", "Radii are in pixels in [0, 1], for the model smoothed", "Lipschitz"),
        ("predict", "Classes are those of the model smoothed by noise", "radius"),
        ("test", "certified at 0.15 *", "median radius"),
    ],
)
def test_text_of_smoothing(
    kind: str, told: str, untold: str, results: dict[str, CertifyResult]
) -> None:
    text = str(results[kind])
    assert told in text
    assert untold not in text
    assert "each with probability 0.999; not for the model as it is" in text


def test_pipelines_read_numbers_and_gates(results: dict[str, CertifyResult]) -> None:
    failed = "certified accuracy is 1.00 %, below --min-certified-accuracy 30.00 %"
    gates = (Finding("--min-certified-accuracy", False, failed),)
    result = replace(results["two"], gates=gates)
    assert result.failed_gates == (failed,)
    xml = junit("certify", result).decode()
    assert 'name="lipcompile.certify"' in xml
    assert 'failures="1"' in xml
    assert "model: certified at l2 0.15" in xml
    summary = step_summary("certify", result)
    assert summary.index("below") < summary.index("original: accuracy")
    assert json.loads(document_text(result))["outcome"] == f"failed: {failed}"
    assert str(result).endswith(f"gate failed: {failed}")
