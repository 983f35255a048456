"""Gradient attacks on an ensemble see every view, surrogates in every copy, and logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

import lipcompile
from lipcompile import Selector, model_io
from lipcompile.auditing.victim import Settings, Victim, open_victim
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.torchview import torch_view
from tests.ensembles.models import Network, in_runtime, wrapped
from tests.ensembles.seen import VIEWS

View = Callable[[torch.Tensor], torch.Tensor]
ways = pytest.mark.parametrize("way", ["batch", "branches"])
SHIFTS = ((0, 1), (2, 1), (1, 0), (1, 2))  # where a frame of 1 pixel is cut: up, down, ...


def shifted(top: int, left: int) -> View:
    def view(x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return padded[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    return view


EVERY: list[View] = [
    lambda x: x,
    lambda x: x.flip(-1),
    *(shifted(*place) for place in SHIFTS),
]


def images(network: Network, count: int = 3) -> torch.Tensor:
    return torch.from_numpy(network.batch_of(count))


def input_gradient(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Of the first class."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0]


# The view in torch


@ways
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "flat"])
def test_values_are_those_of_onnx_runtime(layout: str, name: str, way: str) -> None:
    network = Network(layout=layout, ending="Softmax")
    options = {"image_input": "x", "layout": "NCHW"} if layout == "flat" else {}
    for mean in ("scores", "logits", "probabilities"):
        model = wrapped(network.proto(), name, way, mean=mean, **options)
        x = images(network)
        with torch.no_grad():
            found = torch_view(model)(x).numpy()
        np.testing.assert_allclose(found, in_runtime(model, x.numpy()), rtol=0, atol=1e-6)


@ways
def test_gradients_pass_every_view(way: str) -> None:
    """The gradient of the mean is the mean of the gradients through each view."""
    network = Network()
    x, plain = images(network), torch_view(network.proto())
    found = input_gradient(torch_view(wrapped(network.proto(), "flip+shift:1", way)), x)
    each = [input_gradient(lambda x, view=view: plain(view(x)), x) for view in EVERY]
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0))
    for one in each:
        assert not torch.allclose(found, one)


# Surrogate gradients


def forged(form: str, selector: Selector, way: Any) -> onnx.ModelProto:
    around = EnsembleOptions("flip+shift:1", by=way)
    options: dict[str, Any] = {"form": form, "cr": 0.1, "selector": selector}
    proto = Network().proto()
    model: onnx.ModelProto = lipcompile.harden(
        proto, "random:4", ensemble=around, **options
    ).model
    return model


@pytest.mark.parametrize("gradient", ["identity", "smooth"])
@pytest.mark.parametrize("form", ["smooth", "hard", "soft"])
def test_every_copy_has_a_surrogate(form: str, gradient: str) -> None:
    model, x = forged(form, Selector("all"), "branches"), images(Network())
    scores = ["lipcompile.ensemble/scores"]
    scores += [f"lipcompile.ensemble/{index}/y" for index in range(1, len(EVERY))]
    for name in scores:
        exact = torch_view(model, outputs=(name,))
        other = torch_view(model, gradient=gradient, outputs=(name,))
        assert torch.equal(exact(x), other(x))
        assert not torch.allclose(input_gradient(exact, x), input_gradient(other, x))


@ways
@pytest.mark.parametrize("form", ["smooth", "hard", "soft"])
def test_identity_has_the_gradient_of_the_ensemble_of_the_original(
    form: str, way: str
) -> None:
    """Behind the last site everything is linear."""
    x = images(Network())
    model = forged(form, Selector("all", include=("^z$",)), way)
    before = input_gradient(torch_view(wrapped(Network().proto(), "flip+shift:1", way)), x)
    identity = input_gradient(torch_view(model, gradient="identity"), x)
    torch.testing.assert_close(identity, before)
    assert not torch.allclose(input_gradient(torch_view(model), x), before)


# Scores that are mean probabilities


def victim(model: onnx.ModelProto, pixels: np.ndarray) -> Victim:
    loaded, device = model_io.load(model), torch.device("cpu")
    return open_victim("original", loaded, Normalisation(), pixels, device, Settings())


@ways
@pytest.mark.parametrize(
    ("ending", "mean", "averaged"),
    [
        ("Softmax", "scores", True),
        ("Softmax", "probabilities", True),
        ("Softmax", "logits", False),
        ("", "scores", False),
        ("", "probabilities", True),
        ("LogSoftmax", "scores", False),
    ],
)
def test_probabilities_are_attacked_through_the_logits_of_every_view(
    ending: str, mean: str, averaged: bool, way: str
) -> None:
    network = Network(ending=ending)
    pixels = np.random.default_rng(0).uniform(0, 1, (4, *network.image)).astype(np.float32)
    found = victim(wrapped(network.proto(), "flip+shift:1", way, mean=mean), pixels)
    view, x = found.view(), torch.from_numpy(pixels)
    assert view.views == (6 if averaged else 1)
    assert found.gives_probabilities == (ending == "Softmax")
    logits, scores = view(x).detach().double(), torch.from_numpy(found.deployed(pixels))
    seen = logits.softmax(dim=1) if ending == "Softmax" else logits
    torch.testing.assert_close(seen, scores, atol=1e-5, rtol=1e-5)
    gradient = input_gradient(view, x)
    assert gradient.isfinite().all() and gradient.flatten(1).any(dim=1).all()


@ways
def test_probabilities_that_vanish_have_finite_gradients(way: str) -> None:
    network = Network(ending="Softmax")
    pixels = np.random.default_rng(0).uniform(0, 1, (4, *network.image)).astype(np.float32)
    model = wrapped(network.proto(), "flip", way)
    view = victim(model, pixels).view()
    x = (1e4 * torch.from_numpy(pixels)).requires_grad_()
    assert in_runtime(model, x.detach().numpy()).min() == 0.0
    logits = view(x)
    loss = F.cross_entropy(logits, logits.argmin(dim=1))
    (gradient,) = torch.autograd.grad(loss, x)
    assert logits.isfinite().all() and loss.isfinite() and gradient.isfinite().all()
