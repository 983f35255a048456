"""How good the bounds are, which of them is returned, and what they certify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lipcompile import demo_assets, model_io
from lipcompile.certifying.lipschitz import bounds, stepwise
from lipcompile.certifying.lipschitz.bounds import LipschitzBounds, lipschitz_bounds
from lipcompile.labelled import Normalisation
from tests.certifying.lipschitz.measuring import (
    Dims,
    Function,
    bounds_of,
    build,
    function_of,
    sampled,
)

SIDE = 8


def mlp(depth: int, seed: int) -> onnx.ModelProto:
    """Gaussian matrices of 64 x 64, the last one of 10 x 64, and ReLU between."""
    rng = np.random.default_rng(seed)
    body, arrays = "r0 = Flatten(x) ", {}
    for i in range(depth):
        rows = 10 if i == depth - 1 else SIDE**2
        arrays[f"W{i}"] = rng.standard_normal((rows, SIDE**2)) / SIDE
        body += f"a{i} = Gemm<transB=1>(r{i}, W{i}) r{i + 1} = Relu(a{i}) "
    body += f"y = Identity(a{depth - 1})"
    return build(body, (1, SIDE, SIDE), **arrays)


@pytest.mark.parametrize(("depth", "published"), [(2, 0.78), (4, 0.54), (8, 0.23), (12, 0.10)])
def test_liplt_gains_on_the_product_what_is_known(depth: int, published: float) -> None:
    """Draws differ by 3 % from each other, and other widths and numbers of classes by 7 %."""
    ratios = []
    for seed in range(3):
        found = bounds_of(mlp(depth, seed), (1, SIDE, SIDE)).by_method
        ratios.append(found["LipLT"] / found["product"])
        assert found["ECLipsE-Fast"] < found["LipLT"] < found["product"]
    assert np.mean(ratios) == pytest.approx(published, rel=0.1)


def test_smallest_of_all_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dims = mlp(3, 0), (1, SIDE, SIDE)
    plain = bounds_of(model, dims)
    assert plain.whole == plain.by_method["ECLipsE-Fast"]
    monkeypatch.setattr(bounds, "find_tail", lambda _: None)
    without = bounds_of(model, dims)
    assert without.whole == without.by_method["LipLT"] > plain.whole
    assert (without.pairwise >= plain.pairwise).all()
    assert (without.per_logit >= plain.per_logit).all()


def test_notes_say_what_took_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(
        "a = Conv<pads=[1,1,1,1]>(x, A) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, B) "
        "s = Relu(b) f = Flatten(s) y = Gemm<transB=1>(f, Z)",
        (2, 6, 6),
        A=np.ones((3, 2, 3, 3)),
        B=np.ones((2, 3, 3, 3)),
        Z=np.ones((3, 72)),
    )
    whole = bounds_of(model, (2, 6, 6))
    monkeypatch.setattr(stepwise, "_MOST_WORK", 1.0)
    monkeypatch.setattr(stepwise, "_MOST_ELEMENTS", 1)
    left = bounds_of(model, (2, 6, 6))
    assert "LipLT was left out in front of 2 activations" in left.notes[0]
    assert left.by_method["LipLT"] >= whole.by_method["LipLT"]
    assert left.by_method["product"] == whole.by_method["product"]


# A classifier whose bounds are within a factor of two of the truth.
DIMS: Dims = (1, 6, 6)


@pytest.fixture(scope="module")
def classifier() -> tuple[LipschitzBounds, Function]:
    rng = np.random.default_rng(0)
    model = build(
        "a = Conv<pads=[1,1,1,1]>(x, A) r = Relu(a) b = Conv(r, B) s = Relu(b) f = Flatten(s) "
        "y = Gemm<transB=1>(f, Z, BZ)",
        DIMS,
        A=rng.uniform(0.5, 1, (2, 1, 3, 3)),
        B=rng.uniform(0.5, 1, (2, 2, 3, 3)),
        Z=rng.uniform(-0.2, 1, (3, 32)) * np.array([[1.0], [-1.0], [0.2]]),
        BZ=np.array([-200.0, 200.0, 0.0]),
    )
    return bounds_of(model, DIMS), function_of(model)


def radii(found: LipschitzBounds, logits: torch.Tensor) -> torch.Tensor:
    """min over j of (z_i - z_j) / L_ij, by image."""
    top = logits.argmax(dim=1)
    apart = logits.gather(1, top[:, None]) - logits
    limits = torch.from_numpy(found.pairwise)[top]
    return torch.where(limits > 0, apart / limits, torch.inf).amin(dim=1)


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    level = torch.rand((count, 1, 1, 1), dtype=torch.float64, generator=generator)
    return level * torch.rand((count, *DIMS), dtype=torch.float64, generator=generator)


def attacked(
    function: Function, x: torch.Tensor, top: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Whether projected gradient descent within the radius changes a decision, by image."""
    changed = torch.zeros(len(x), dtype=torch.bool)
    limit = radius.reshape(-1, 1, 1, 1)
    for rival in range(3):
        moved = torch.zeros_like(x)
        for _ in range(20):
            moved = moved.detach().requires_grad_()
            logits = function(x + moved)
            goal = logits[:, rival].sum() - logits.gather(1, top[:, None]).sum()
            (gradient,) = torch.autograd.grad(goal, moved)
            size = gradient.flatten(1).norm(dim=1).reshape(limit.shape).clamp_min(1e-30)
            moved = moved + limit * gradient / size
            over = moved.flatten(1).norm(dim=1).reshape(limit.shape) / limit
            moved = moved / over.clamp_min(1.0)
            with torch.no_grad():
                changed |= function(x + moved).argmax(dim=1) != top
    return changed


def test_no_attack_succeeds_within_a_certified_radius(
    classifier: tuple[LipschitzBounds, Function],
) -> None:
    found, function = classifier
    x = images(200)
    logits = function(x)
    assert len(logits.argmax(dim=1).unique()) == 3
    certified = radii(found, logits)
    top = logits.argmax(dim=1)
    assert not attacked(function, x, top, certified * (1 - 1e-9)).any()
    # Radii that are three times too large are caught.
    assert attacked(function, x, top, 3 * certified).any()


def test_no_direction_leaves_the_decision_within_a_certified_radius(
    classifier: tuple[LipschitzBounds, Function],
) -> None:
    found, function = classifier
    x = images(20)
    logits = function(x)
    certified, top = radii(found, logits), logits.argmax(dim=1)
    generator = torch.Generator().manual_seed(1)
    for one, radius, decided in zip(x, certified, top, strict=True):
        steps = torch.randn((5_000, *DIMS), dtype=torch.float64, generator=generator)
        steps *= radius / steps.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        # Toward either end of the grey scale, which no random direction finds.
        steps[0] = radius / one.numel() ** 0.5
        steps[1] = -steps[0]
        assert (function(one + steps).argmax(dim=1) == decided).all()
    grey = torch.stack([torch.ones(DIMS), -torch.ones(DIMS)]).double() / 6
    changed = [
        (function(one + 4 * radius * grey).argmax(dim=1) != decided).any()
        for one, radius, decided in zip(x, certified, top, strict=True)
    ]
    assert any(changed)


def test_bundled_model() -> None:
    path = Path(next(iter(demo_assets.__path__))) / "fashion_mnist_adv.onnx"
    model = onnx.load(path)
    found = lipschitz_bounds(model_io.load(path), Normalisation(), (1, 28, 28))
    assert sampled(model, (1, 28, 28), count=3).within(found)
    assert found.whole < 0.2 * found.product
