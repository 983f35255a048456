"""Scores that have passed a Softmax, and more: what attacks see of them, and of their mean."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

import lipcompile
from lipcompile import model_io
from lipcompile.auditing.audit import audit
from lipcompile.auditing.victim import Settings, Victim, open_victim
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.labelled.normalisation import Normalisation
from tests.auditing.quick import QUICK
from tests.ensembles.models import add_initializers, in_runtime, parse

GAIN = 100  # of the logits: their Softmax is 0 and 1 in float32, and has no gradient
ways = pytest.mark.parametrize("way", ["batch", "branches"])


@cache
def weights(symmetric: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(3, 8, 8, 4))
    if symmetric:
        planes = planes + planes[:, :, ::-1]
    return {
        "W": planes.reshape(192, 4).astype(np.float32),
        "V": rng.normal(size=(192, 4)).astype(np.float32),
        "GAIN": np.array(GAIN, np.float32),
        "HUNDRED": np.array(100, np.float32),
    }


def made(end: str, symmetric: bool = False) -> onnx.ModelProto:
    """Logits "z" and values "v" of an image, made scores "y" by the end."""
    body = f"f = Flatten(x) z = MatMul(f, W) {end}"
    model = parse(body, "float[N,3,8,8] x", "float[N,4] y")
    add_initializers(model, weights(symmetric))
    return model


def images(count: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(0, 1, (count, 3, 8, 8)).astype(np.float32)


def victim(model: onnx.ModelProto, role: str = "original") -> Victim:
    loaded, device = model_io.load(model), torch.device("cpu")
    return open_victim(role, loaded, Normalisation(), images(), device, Settings(threads=1))


# Scores that are more than a Softmax

BEYOND = {
    "percent": "s = Softmax(z) y = Mul(s, HUNDRED)",
    "percent first": "s = Softmax(z) y = Mul(HUNDRED, s)",
    "gated": "v = MatMul(f, V) s = Softmax(z) y = Mul(s, v)",
    "two heads": "v = MatMul(f, V) s = Softmax(z) y = Sum(s, v)",
    "two heads, averaged": "v = MatMul(f, V) s = Softmax(z) t = Softmax(v) y = Mean(s, t)",
}


@pytest.mark.parametrize("end", BEYOND)
def test_what_follows_a_softmax_is_seen(end: str) -> None:
    """The view gives the scores themselves, and not the logits of a Softmax on the way."""
    proto = made(BEYOND[end])
    found = victim(proto)
    assert not found.averaged and not found.gives_probabilities
    x = torch.from_numpy(images())
    seen = found.view()(x).numpy()
    np.testing.assert_allclose(seen, in_runtime(proto, images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", ["percent", "gated"])
def test_an_audit_of_such_scores(end: str) -> None:
    proto = made(BEYOND[end])
    labels = in_runtime(proto, images(8)).argmax(axis=1)
    hardened = lipcompile.harden(proto, ensemble="flip").model
    result = audit(hardened, proto, (images(8), labels), eps=8 / 255, attacks=QUICK, threads=1)
    assert result.original.clean.all()
    (same,) = (c for c in result.checks if c.name == "the file is what its provenance says")
    assert same.passed is True


# Means of probabilities that saturate


def gradient(found: Any, labels: torch.Tensor) -> torch.Tensor:
    leaf = torch.from_numpy(images()).requires_grad_()
    loss = F.cross_entropy(found(leaf), labels, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


@ways
@pytest.mark.parametrize("mean", ["scores", "probabilities"])
def test_a_mean_that_saturates_has_the_gradient_of_its_logits(mean: Any, way: Any) -> None:
    """Both views of a symmetric model are the same, and so is their mean."""
    proto = made("g = Mul(z, GAIN) y = Softmax(g)", symmetric=True)
    bare = made("y = Mul(z, GAIN)", symmetric=True)
    around = EnsembleOptions("flip", mean=mean, by=way)
    found = victim(lipcompile.harden(proto, ensemble=around).model, "hardened")
    assert found.gives_probabilities and found.view().views == 2
    scores = in_runtime(proto, images())
    labels = torch.from_numpy(scores.argmax(axis=1))
    assert scores.max(axis=1) == pytest.approx(np.ones(4)), "the probabilities saturate"
    other = (labels + 1) % 4
    expected = gradient(victim(bare).view(), other)
    assert expected.flatten(1).any(dim=1).all()
    torch.testing.assert_close(gradient(found.view(), other), expected, rtol=1e-4, atol=1e-4)


@ways
def test_a_mean_that_saturates_is_broken_as_its_logits_are(way: Any) -> None:
    """Without their gradients, nothing but chance would break an image."""
    proto = made("g = Mul(z, GAIN) y = Softmax(g)", symmetric=True)
    labels = in_runtime(proto, images(8)).argmax(axis=1)
    hardened = lipcompile.harden(proto, ensemble=EnsembleOptions("flip", by=way)).model
    result = audit(hardened, proto, (images(8), labels), eps=8 / 255, attacks=QUICK, threads=1)
    white_box = {
        strike.role: int(strike.broken.sum())
        for strike in result.strikes
        if (strike.path, strike.attack) == ("white-box", "margin-pgd")
    }
    assert white_box["original"] >= 4, "attacks on logits break many"
    assert abs(white_box["hardened"] - white_box["original"]) <= 1
