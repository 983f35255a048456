"""What is refused before an audit, and what is said about it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from lipcompile import model_io
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.preconditions import (
    batch_for,
    check_labels,
    check_pair,
    note_floor,
    open_device,
    torch_threads,
)
from lipcompile.errors import DataError, ModelError, OptionError, ProviderError
from tests.auditing.synthetic import FakeVictim, make_campaign, rows, strike, without_pixels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("values", "device", "images"),
    [
        (1, CPU, 64),
        (28 * 28, CPU, 64),
        (3 * 32 * 32, CPU, 64),
        (3 * 224 * 224, CPU, 9),
        (1_500_000, CPU, 1),
        (3 * 2048 * 2048, CPU, 1),
        (28 * 28, CUDA, 1024),
        (3 * 224 * 224, CUDA, 159),
        (3 * 2048 * 2048, CUDA, 1),
        (100_000_000, CUDA, 1),
    ],
)
def test_batch_for_images_of_a_size(values: int, device: torch.device, images: int) -> None:
    assert batch_for(values, device) == images


# Devices


def test_cpu_is_always_there() -> None:
    assert open_device("cpu") == CPU
    assert open_device("cpu:0").type == "cpu"


@pytest.mark.parametrize(
    ("name", "there", "opens"),
    [
        ("cuda", 0, False),
        ("cuda:0", 0, False),
        ("cuda", 1, True),
        ("cuda:0", 1, True),
        ("cuda:1", 1, False),
        ("cuda:9", 1, False),
        ("cuda:9", 9, False),
        ("cuda:9", 10, True),
    ],
)
def test_cuda_devices_that_are_and_are_not_there(
    name: str, there: int, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    if opens:
        assert open_device(name) == torch.device(name)
        return
    match = f"device '{name}' was asked for, and torch .* sees {there} CUDA devices"
    with pytest.raises(ProviderError, match=match):
        open_device(name)


@pytest.mark.skipif(torch.cuda.device_count() > 9, reason="there is such a device")
def test_tenth_cuda_device_of_this_machine() -> None:
    with pytest.raises(ProviderError, match=r"device 'cuda:9' .* or pass --device cpu"):
        open_device("cuda:9")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("tpu9", "device 'tpu9' is unknown: use cpu or cuda"),
        ("", "device '' is unknown"),
        ("cuda:x", "device 'cuda:x' is unknown"),
        ("meta", "device 'meta' is not supported: use cpu or cuda"),
        ("mps", "device 'mps' is not supported"),
    ],
)
def test_devices_of_other_kinds(name: str, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        open_device(name)


def test_second_cpu_is_no_matter_of_cuda() -> None:
    with pytest.raises((OptionError, ProviderError)) as refusal:
        open_device("cpu:1")
    assert "CUDA devices" not in str(refusal.value)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    other = 2 if before == 1 else 1
    with torch_threads(other):
        assert torch.get_num_threads() == other
    with pytest.raises(KeyboardInterrupt), torch_threads(other):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
    with torch_threads(0):
        assert torch.get_num_threads() == before


# Models that belong together


def load(text: str, **properties: str) -> model_io.LoadedModel:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    proto = onnx.parser.parse_model(f"{header} net {text}")
    onnx.helper.set_model_props(proto, {f"lipcompile.{k}": v for k, v in properties.items()})
    return model_io.load(proto)


PLAIN = "(float[n, 1, 2, 2] x) => (float[n, 4] y) { y = Flatten (x) }"
WIDER = "(float[n, 3, 2, 2] x) => (float[n, 12] y) { y = Flatten (x) }"
TWO_INPUTS = "(float[n, 4] x, float[n, 4] z) => (float[n, 4] y) { y = Add (x, z) }"


def test_hardened_from_this_original() -> None:
    original = load(PLAIN)
    assert check_pair(original, load(PLAIN, source=original.digest)) == []


def test_no_provenance_becomes_a_note() -> None:
    (note,) = check_pair(load(PLAIN), load(PLAIN))
    assert (
        "has no LipCompile provenance: that it comes from 'net' is the caller's word" in note
    )


@pytest.mark.parametrize(
    ("original", "hardened", "match"),
    [
        (load(PLAIN), load(PLAIN, source="sha256:0"), "was hardened from a model with digest"),
        (load(PLAIN), load(WIDER), "they do not belong together"),
        (load(TWO_INPUTS), load(PLAIN), "has 2 inputs and cannot be audited"),
        (load(PLAIN), load(TWO_INPUTS), "has 2 inputs and cannot be audited"),
    ],
)
def test_models_that_do_not_belong_together(
    original: model_io.LoadedModel, hardened: model_io.LoadedModel, match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        check_pair(original, hardened)


# Labels


def labelled(
    classes: int, right: int, count: int = 100, before: int | None = None
) -> Campaign:
    """Labels 0 to 3, of which the original gets the first `right` right."""
    of = make_campaign(
        np.zeros((count, 1, 2, 2)),
        np.arange(count) % min(classes, 4),
        original=FakeVictim(classes=before or classes),
        hardened=FakeVictim(classes=classes),
    )
    of.clean["original"] = rows(count, (0, right))
    return of


@pytest.mark.parametrize(
    ("classes", "right", "count", "noted"),
    [
        (2, 90, 100, False),
        (2, 100, 100, False),
        (2, 50, 100, True),
        (2, 60, 100, True),  # interval 49.7 % to 69.7 %
        (2, 61, 100, False),  # interval 50.7 % to 70.6 %
        (2, 5, 100, True),
        (2, 4, 4, True),  # a coin does that once in 16 tries
        (10, 10, 100, True),
        (10, 0, 100, True),
        (10, 30, 100, False),
        (1000, 3, 100, False),
        (1000, 0, 100, True),
    ],
)
def test_accuracy_that_chance_explains_is_noted(
    classes: int, right: int, count: int, noted: bool
) -> None:
    of = labelled(classes, right, count)
    check_labels(of)
    assert bool(of.notes) is noted
    if noted:
        assert of.notes[0].endswith("may explain: check labels and preprocessing")
        assert f"% of {count} images, which chance (" in of.notes[0]


def test_the_hardened_models_accuracy_is_not_what_labels_are_judged_by() -> None:
    of = labelled(10, 90)
    of.clean["hardened"] = rows(100)
    check_labels(of)
    assert of.notes == []


def test_label_without_a_score() -> None:
    of = labelled(4, 90)
    check_labels(of)
    of.victims["hardened"].classes = of.victims["original"].classes = 3
    match = r"label 3 of 'image\[3\]' has no score: .* gives 3 scores, for labels 0 to 2"
    with pytest.raises(DataError, match=match):
        check_labels(of)


def test_models_with_different_numbers_of_classes() -> None:
    with pytest.raises(DataError, match=r"gives 10 scores per image and its original 9"):
        check_labels(labelled(10, 90, before=9))


# Nothing left to compare


@pytest.mark.parametrize(
    ("original", "hardened", "noted"),
    [(0, 0, True), (2, 2, True), (2, 3, False), (3, 0, False), (50, 60, False)],
)
def test_two_worst_cases_near_zero_are_noted(
    original: int, hardened: int, noted: bool
) -> None:
    of = without_pixels(
        100,
        strike("original", "white-box", "pgd", rows(100, (original, 100))),
        strike("hardened", "black-box", "square", rows(100, (hardened, 100))),
    )
    note_floor(of)
    assert [note.startswith("both worst cases are near 0 %") for note in of.notes] == (
        [True] if noted else []
    )
