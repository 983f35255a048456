"""The masking checks catch sham defences, and let a sound model pass."""

from __future__ import annotations

from functools import cache

import onnx
import pytest

import lipcompile
from lipcompile.auditing.attacks import APGDCE, APGDT, FGSM, NES, PGD, MarginPGD, Square
from lipcompile.auditing.audit import audit
from lipcompile.auditing.presets import Preset
from lipcompile.auditing.results import AuditResult
from lipcompile.demo import CALIBRATION, MODEL, TEST
from lipcompile.errors import ModelError
from tests.auditing import planted

SHORT = Preset(
    "short",
    everywhere=(FGSM(), PGD(steps=10, step=0.25), MarginPGD(steps=10, step=0.25)),
    adaptive=APGDCE(steps=20),
    restart=MarginPGD(steps=10, step=0.25),
    survivors=(APGDT(steps=20, targets=3),),
    adaptive_survivors=(APGDT(steps=20, targets=1),),
    black_box=(Square(queries=200), NES(steps=4)),
    curve=MarginPGD(steps=20, step=0.1),
)


def short_audit(hardened: object, **options: object) -> AuditResult:
    options = {"eps": 0.2, "samples": 48, "attacks": SHORT, "seed": 1} | options
    return audit(hardened, MODEL, TEST, **options)  # type: ignore[arg-type]


@cache
def original() -> onnx.ModelProto:
    return onnx.load(MODEL)


def failed(result: AuditResult) -> set[str]:
    return {check.name for check in result.checks if check.failed}


CAUGHT = {
    planted.shattered_gradients: {
        "gradients do not vanish",
        "bpda-identity is not stronger than white-box",
        "transfer from the other model is not stronger than white-box",
        "accuracy falls to zero as epsilon grows",
    },
    planted.cut_gradients: {
        "gradients do not vanish",
        "transfer from the other model is not stronger than white-box",
    },
    planted.scaled_logits: {
        "logits are not saturated",
        "the gap between CW and APGD does not widen against the original",
    },
    planted.against_one_step: {
        "gradients do not vanish",
    },
}


@pytest.mark.parametrize("plant", CAUGHT, ids=lambda plant: plant.__name__)
def test_sham_defence_is_called_masked(plant: planted.Planted) -> None:
    result = short_audit(plant(original()))
    assert CAUGHT[plant] <= failed(result)
    assert result.verdict == "masked"
    # The adaptive paths find what the white-box attacks do not: nothing is gained.
    assert result.worst.difference <= 0.05


def test_random_layer_is_refused_before_any_number_is_printed() -> None:
    with pytest.raises(ModelError, match=r"not deterministic: the same 48 images gave scores"):
        short_audit(planted.random_layer(original()))


@pytest.mark.parametrize("form", ["smooth", "hard"])
def test_sound_model_passes_every_check(form: str) -> None:
    model = lipcompile.harden(original(), CALIBRATION, form=form, cr="2^-7").model
    result = short_audit(model, eps=0.1)
    assert failed(result) == set()
    assert all(check.passed for check in result.checks)
    assert result.verdict == "no measurable change"
