"""Models with real images, each hardened once per form for the whole folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lipcompile
from lipcompile.demo import MODEL, load_test_images
from lipcompile.forged import FORMS
from tests.neighbours.cases import (
    CALIBRATION_IMAGES,
    COMPARED_IMAGES,
    CR,
    WEIGHT,
    Case,
    options_of,
)
from tests.pack.conftest import ENTRIES, PackModel

PACK = ("cifar_resnet18_w16", "cifar_vit_pgd")


def _demo() -> Case:
    images = load_test_images()[0]
    calibration, compared = images[:CALIBRATION_IMAGES], images[CALIBRATION_IMAGES:200]
    return Case(MODEL, "image", calibration, compared)


def _from_pack(name: str) -> Case:
    entry = next((e for e in ENTRIES if e["id"] == name), None)
    if entry is None:
        pytest.skip("no pack here")
    model = PackModel(entry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its loader leaves images open
        samples = model.samples(CALIBRATION_IMAGES + COMPARED_IMAGES)
    (name,) = samples[0]
    # The pack's images are sorted by class, so that a calibration on the first would be poor.
    order = np.random.default_rng(0).permutation(len(samples))
    images = np.stack([samples[index][name] for index in order])
    calibration, compared = images[:CALIBRATION_IMAGES], images[CALIBRATION_IMAGES:]
    return Case(model.path, name, calibration, compared)


@pytest.fixture(scope="session", params=["demo", *PACK])
def case(request: pytest.FixtureRequest) -> Case:
    """A model whose outputs are compared on images that it was not calibrated on."""
    return _demo() if request.param == "demo" else _from_pack(request.param)


@pytest.fixture(scope="session", params=[*FORMS, WEIGHT])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def harden(form: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`harden(case, path=None, cr=CR)` is the file of the case's model, or of `path`, hardened
    with the case's images."""
    done: dict[tuple[Path, str], Path] = {}

    def call(case: Case, path: Path | None = None, cr: str = CR) -> Path:
        key = (path or case.path, cr)
        if key not in done:
            output = tmp_path_factory.mktemp("hardened") / f"{form}.onnx"
            options = options_of(form)
            lipcompile.harden(key[0], case.calibration, cr=cr, output=output, **options)
            done[key] = output
        return done[key]

    return call
