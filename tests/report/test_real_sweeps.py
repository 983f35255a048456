"""Reports on sweeps that were run: a change of their layout shows here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lipcompile
from lipcompile import demo
from lipcompile.calibration.options import ScanOptions
from lipcompile.documents import Document
from lipcompile.report import Report
from lipcompile.runtime import RuntimeOptions
from lipcompile.sweeping.opening import DataOptions

ONE: dict[str, Any] = {"cr": "2^-6", "forms": ("hard",), "variants": ("forged",)}
FEW = {"scan": ScanOptions(samples=16), "runtime": RuntimeOptions(threads=1)}


def document(result: Any, kind: Any) -> Document:
    return Document(kind, f"{kind}.json", result.to_json())


def swept(data: Path, *, labelled: bool) -> Document:
    reading = DataOptions(labelled=labelled, samples=20)
    limits = {"max_accuracy_drop": 1.0} if labelled else {"min_agreement": 0.0}
    found = lipcompile.sweep(
        demo.MODEL, demo.CALIBRATION, data, reading=reading, **ONE, **FEW, **limits
    )
    return document(found, "sweep")


@pytest.fixture(scope="module")
def unlabelled() -> Document:
    return swept(demo.CALIBRATION, labelled=False)


@pytest.fixture(scope="module")
def labelled() -> Document:
    return swept(demo.TEST, labelled=True)


def test_samples_without_labels_are_not_called_images(unlabelled: Document) -> None:
    assert unlabelled.content["data"]["available"] is None
    report = Report((unlabelled,))
    text = report.to_markdown()
    assert "hard 2^-6, held-out samples, n = 10" in text
    assert "10 samples to choose, 10 others to report" in text
    assert "- samples: 20 of 'calibration', seed 0" in text
    assert "chosen on 10 samples; the chosen one" in text
    # The calibration data is a folder of images.
    assert "images" not in text.replace("(images)", "")
    assert "agreement with the original (%)" in report.to_html()


def test_a_sweep_of_labelled_images_is_shown(labelled: Document) -> None:
    text = Report((labelled,)).to_markdown()
    assert "hard 2^-6, held-out images, n = 10" in text
    assert "- images: 20 of 1000 of 'test.npz', seed 0" in text
    assert "clean accuracy" in text
    assert "(chosen)" in text


def test_hardening_with_the_chosen_setting_agrees_with_the_sweep(
    labelled: Document, tmp_path: Path
) -> None:
    assert labelled.content["chosen"] == "hard 2^-6"
    for form, told in (("hard", 0), ("smooth", 1)):
        asked = {"cr": "2^-6", "form": form, "output": tmp_path / f"{form}.onnx"}
        made = lipcompile.harden(demo.MODEL, demo.CALIBRATION, **asked, **FEW)
        report = Report((labelled, document(made, "harden")))
        assert len(report.evidence.disagreements) == told
