"""Lipschitz bounds of every image classifier of the pack, or the reason why it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lipcompile import model_io
from lipcompile.certifying.lipschitz.bounds import LipschitzBounds, lipschitz_bounds
from lipcompile.errors import ModelError
from lipcompile.labelled import Normalisation
from lipcompile.torchview import torch_view

# Pixels of the models that are bounded, as the network's own input: no normalisation.
COLOUR, GREY = (3, 32, 32), (1, 28, 28)
QUICK: dict[str, tuple[tuple[int, int, int], Normalisation]] = {
    "cifar_wide_masked_adv": (COLOUR, Normalisation()),
    "cifar_resnet4b": (COLOUR, Normalisation()),
    "cifar_marabou_large": (COLOUR, Normalisation(layout="NHWC")),
    "mnist_cntk": (GREY, Normalisation()),
    "mnist_lenet5_advtrained": (GREY, Normalisation()),
    "mnist_cnn_pytorch": (GREY, Normalisation()),
    "mnist_eran_sigmoid": (GREY, Normalisation()),
    "mnist_cora_trades": (GREY, Normalisation(shape=(784,))),
}
# Tens of seconds each, or minutes.
SLOW: dict[str, tuple[tuple[int, int, int], Normalisation]] = {
    "cifar_wrn10_2_adv": (COLOUR, Normalisation()),
    "cifar_sri_resnet_a": (COLOUR, Normalisation()),
    "cifar_mlperf_resnet8": (COLOUR, Normalisation(layout="NHWC")),
    "cifar_conv_small_pgd": (COLOUR, Normalisation()),
    "cifar_conv_small_sigmoid": (COLOUR, Normalisation()),
    "cifar_cnn_a_adv": (COLOUR, Normalisation()),
    "mnist_cnn_a_adv": (GREY, Normalisation()),
    "fashion_mnist_kw": (GREY, Normalisation()),
    "cifar_resnet18_w16": (COLOUR, Normalisation()),
    "cifar_resnet20_dynamo": (COLOUR, Normalisation()),
}
REFUSED: dict[str, tuple[tuple[int, int, int], str]] = {
    "cifar_vit_pgd": (COLOUR, r"\(MatMul\) multiplies two activations, as attention does"),
    "mobilenetv2_qdq": ((3, 244, 244), "rounds to uint8, as quantised models do"),
    # Squeeze and excitation: channels are multiplied by a function of their means.
    "ppocr_cls": ((3, 48, 192), r"\(Mul\) multiplies two activations"),
    "ultraface_rfb320": ((3, 240, 320), "no output with class scores"),
}
# Of ImageNet's size, tens of minutes: `make test-all` leaves them out as well.
TOO_LARGE = {"efficientnet_lite0_w16", "opennsfw"} | {
    f"light_{name}" for name in ("resnet50", "squeezenet", "inception_v2")
}
OTHERS = {"mnist_lr_scikit", "ppocrv6_tiny_det"}  # 780 pixels; no classifier
ROUNDING = 1e-6


def check(model: Any, dims: tuple[int, int, int], normalisation: Normalisation) -> None:
    found = lipschitz_bounds(model_io.load(model.path), normalisation, dims)
    assert np.isfinite(found.pairwise).all()
    assert 0 < found.whole <= found.product
    view = torch_view(model.path, precision=torch.float64).requires_grad_(False)
    for seed in range(2):
        assert_within(found, view, images(dims, seed), normalisation)


def images(dims: tuple[int, int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(1, *dims)).astype(np.float32)


def assert_within(
    found: LipschitzBounds,
    view: torch.nn.Module,
    image: np.ndarray,
    normalisation: Normalisation,
) -> None:
    """Gradients of each score that is not behind a Softmax, and of the differences."""
    x = torch.from_numpy(normalisation(image)).double().requires_grad_()
    logits = view(x).reshape(-1)
    rows = [torch.autograd.grad(z, x, retain_graph=True)[0].reshape(-1) for z in logits]
    matrix = torch.stack(rows).numpy()
    assert np.linalg.norm(matrix, 2) <= found.whole * (1 + ROUNDING)
    assert (np.linalg.norm(matrix, axis=1) <= found.per_logit * (1 + ROUNDING)).all()
    apart = np.linalg.norm(matrix[:, None] - matrix, axis=2)
    assert (apart <= found.pairwise * (1 + ROUNDING) + 1e-12).all()


@pytest.mark.parametrize("name", [n for n in QUICK if n != "mnist_cnn_pytorch"])
def test_gradients_are_within_the_bounds(pack: dict[str, Any], name: str) -> None:
    check(pack[name], *QUICK[name])


def test_bound_is_that_of_the_logits_before_a_last_log_softmax(pack: dict[str, Any]) -> None:
    """The scores themselves may change twice as fast, and are in the same order."""
    model = pack["mnist_cnn_pytorch"]
    found = lipschitz_bounds(model_io.load(model.path), Normalisation(), GREY)
    view = torch_view(model.path, precision=torch.float64).requires_grad_(False)
    x = torch.from_numpy(images(GREY, 0)).double()
    y = torch.from_numpy(images(GREY, 1)).double()
    a, b = (view(v).reshape(-1) for v in (x, y))
    apart = ((a[:, None] - a) - (b[:, None] - b)).abs().numpy()
    assert (apart <= found.pairwise * float((x - y).norm()) * (1 + ROUNDING) + 1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_gradients_of_larger_models_are_within_the_bounds(
    pack: dict[str, Any], name: str
) -> None:
    check(pack[name], *SLOW[name])


@pytest.mark.parametrize("name", REFUSED)
def test_model_without_a_bound_is_refused(pack: dict[str, Any], name: str) -> None:
    dims, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        lipschitz_bounds(model_io.load(pack[name].path), Normalisation(), dims)


def test_planted_bound_is_caught(pack: dict[str, Any]) -> None:
    dims, normalisation = QUICK["cifar_wide_masked_adv"]
    model = pack["cifar_wide_masked_adv"]
    found = lipschitz_bounds(model_io.load(model.path), normalisation, dims)
    small = LipschitzBounds(
        found.pairwise / 1e3,
        found.per_logit / 1e3,
        found.whole / 1e3,
        found.product,
        found.by_method,
        found.layers,
    )
    view = torch_view(model.path, precision=torch.float64).requires_grad_(False)
    with pytest.raises(AssertionError):
        assert_within(small, view, images(dims, 0), normalisation)


def test_every_image_classifier_is_listed(pack: dict[str, Any]) -> None:
    listed = QUICK.keys() | SLOW.keys() | REFUSED.keys() | TOO_LARGE | OTHERS
    kinds = {name: model.entry["preprocessing"]["kind"] for name, model in pack.items()}
    assert {n for n, kind in kinds.items() if kind in ("images", "arange")} == listed
