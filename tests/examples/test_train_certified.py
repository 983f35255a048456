"""examples/train_certified/ on small networks, against operators unrolled to matrices."""

from __future__ import annotations

import gzip
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import lipcompile
from lipcompile import demo
from lipcompile.torchview import torch_view

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "train_certified"
NAMES = ("network", "liplt", "losses", "descent", "train", "train_demo_model")
SMALL: dict[str, Any] = {"shape": (2, 8, 8), "channels": (3, 4), "hidden": (6,), "classes": 5}
HALVES = (slice(0, 800), slice(800, None))
Modules = dict[str, ModuleType]


@pytest.fixture(scope="module")
def example() -> Iterator[Modules]:
    """The folder's modules, imported as its script does."""
    pytest.importorskip("torch", minversion="2.9")  # which has Muon
    before, threads = list(sys.path), torch.get_num_threads()
    torch.set_num_threads(1)  # as the script does; small networks are quicker so
    sys.path.insert(0, str(FOLDER))
    sys.path.insert(1, str(FOLDER.parent))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = before
    torch.set_num_threads(threads)
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    found, labels = demo.load_test_images()
    return torch.from_numpy(found), torch.from_numpy(labels.astype(np.int64))


def random_network(example: Modules, path: Path, seed: int, bias: float = 0.0) -> Path:
    """A small network in a file; weights are not orthogonal, and biases grow with depth."""
    onnx.save(example["network"].build(seed, **SMALL), path)
    model, rng = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            fresh = rng.normal(0, 0.3, tuple(tensor.dims))
        else:
            fresh = np.full(tuple(tensor.dims), bias)
            bias *= 100
        tensor.CopyFrom(numpy_helper.from_array(fresh.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return path


def bound_of(example: Modules, path: Path) -> Any:
    layers = example["network"].layers_of(onnx.load(path))
    return example["liplt"].LipLT(torch_view(path), layers)


def unrolled(example: Modules, path: Path) -> list[np.ndarray]:
    """Each linear layer as a dense float64 matrix, column by column."""
    matrices = []
    view = torch_view(path)
    for layer in example["network"].layers_of(onnx.load(path)):
        weight = view.weight(layer.weight).detach().double()
        units = torch.eye(int(np.prod(layer.inputs)), dtype=torch.float64)
        columns = example["liplt"].apply(layer, weight, units.reshape(-1, *layer.inputs))
        matrices.append(columns.flatten(1).numpy().T)
    return matrices


def exact_liplt(matrices: list[np.ndarray]) -> np.ndarray:
    """[K, K]: LipLT with norms by SVD, over subsets of activations rather than by recursion.

    relu = id/2 + |.|/2: each subset of activations that are taken as |.| cuts the chain into
    runs, and weighs the product of the runs' norms with 2^-(number of activations).
    """
    depth = len(matrices)
    total = np.zeros((len(matrices[-1]),) * 2)
    for subset in range(2 ** (depth - 1)):
        cuts = [i for i in range(1, depth) if subset >> (i - 1) & 1]
        edges = list(zip([0, *cuts], [*cuts, depth], strict=True))
        runs = [_product(matrices[first:last]) for first, last in edges]
        norms = float(np.prod([np.linalg.norm(run, 2) for run in runs[:-1]]))
        rows = runs[-1]
        total += norms * np.linalg.norm(rows[:, None] - rows[None], axis=2)
    return np.asarray(total / 2 ** (depth - 1))


def _product(matrices: list[np.ndarray]) -> np.ndarray:
    result = matrices[0]
    for matrix in matrices[1:]:
        result = matrix @ result
    return result


def largest_gap(estimate: torch.Tensor, exact: np.ndarray) -> float:
    """Of an estimate, relative to the exact bound; infinite where it is above it."""
    off = ~np.eye(len(exact), dtype=bool)
    ratio = estimate.detach().double().numpy()[off] / exact[off]
    return float("inf") if ratio.max() > 1 + 1e-5 else float(1 - ratio.min())


# LipLT


@pytest.mark.parametrize("seed", range(5))
def test_estimate_is_that_of_the_unrolled_operators(
    example: Modules, tmp_path: Path, seed: int
) -> None:
    path = random_network(example, tmp_path / "model.onnx", seed)
    exact = exact_liplt(unrolled(example, path))
    bound = bound_of(example, path)
    estimate = bound.pairwise(steps=200)
    assert largest_gap(estimate, exact) < 1e-3
    assert (torch.diagonal(estimate) == 0).all()
    assert torch.equal(estimate, estimate.T)
    product = np.prod([np.linalg.norm(m, 2) for m in unrolled(example, path)[:-1]])
    rows = unrolled(example, path)[-1]
    assert exact[0, 1] < product * np.linalg.norm(rows[0] - rows[1])


def kernel_norm(bound: Any, first: int, last: int, steps: int = 1) -> torch.Tensor:
    """Wrong: multiplies the norms of kernels that are reshaped to matrices."""
    norms = [
        torch.linalg.matrix_norm(w.flatten(1), 2) for _, w in bound.chain[first : last + 1]
    ]
    return torch.stack(norms).prod()


def no_composition(bound: Any, steps: int = 1) -> list[torch.Tensor]:
    """Wrong: forgets the terms of composed layers."""
    m: list[torch.Tensor] = []
    for i in range(len(bound.chain) - 1):
        m.append(0.5 * bound.norm(i, i, steps) * (m[-1] if m else 2.0))
    return m


@pytest.mark.parametrize(
    ("method", "wrong"), [("norm", kernel_norm), ("pre_activations", no_composition)]
)
def test_planted_wrong_formula_is_caught(
    example: Modules,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    wrong: Callable[..., Any],
) -> None:
    path = random_network(example, tmp_path / "model.onnx", 0)
    exact = exact_liplt(unrolled(example, path))
    bound = bound_of(example, path)
    monkeypatch.setattr(type(bound), method, wrong)
    assert largest_gap(bound.pairwise(steps=200), exact) > 0.05


def test_gradient_is_that_of_finite_differences(example: Modules, tmp_path: Path) -> None:
    path = random_network(example, tmp_path / "model.onnx", 0)
    layers = example["network"].layers_of(onnx.load(path))
    view = torch_view(path, precision=torch.float64)
    bound = example["liplt"].LipLT(view, layers)
    weights = [weight for _, weight in bound.chain]
    gradients = torch.autograd.grad(bound.pairwise(steps=200).sum(), weights)
    generator = torch.Generator().manual_seed(0)
    for weight, gradient in zip(weights, gradients, strict=True):
        way = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        ends = []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                weight.add_(step * way)
                ends.append(float(bound.pairwise(steps=200).sum()))
        with torch.no_grad():
            weight.add_(1e-4 * way)
        assert float((gradient * way).sum()) == pytest.approx(
            (ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-3
        )


def test_warm_vectors_follow_the_weights(example: Modules, tmp_path: Path) -> None:
    path = random_network(example, tmp_path / "model.onnx", 0)
    bound = bound_of(example, path)
    before = bound.pairwise()
    with torch.no_grad():
        for _, weight in bound.chain:
            weight.mul_(2.0)
    after = bound.pairwise().detach()
    assert torch.allclose(after, 16 * before, rtol=0.02)


def test_no_pair_of_images_exceeds_the_bound(example: Modules, tmp_path: Path) -> None:
    """Biases keep every ReLU on: the network is linear, and its slope is known."""
    path = random_network(example, tmp_path / "model.onnx", 1, bias=100.0)
    view = torch_view(path, precision=torch.float64)
    matrices = unrolled(example, path)
    rows = _product(matrices)
    direction = (rows[0] - rows[1]) / np.linalg.norm(rows[0] - rows[1])
    image = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        moved = image + torch.from_numpy(direction).reshape(image.shape) / 10
        changed = 10 * (view(moved) - view(image))[0]
    slope = float(changed[0] - changed[1])
    assert slope == pytest.approx(float(np.linalg.norm(rows[0] - rows[1])), rel=1e-6)
    assert slope <= exact_liplt(matrices)[0, 1]


# The loss


def test_soft_radius_is_below_the_radius_by_log_k(example: Modules) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 6), torch.randint(6, (64,))
    pairwise = 1 + torch.rand(6, 6)
    found = example["losses"].radii(logits, labels, pairwise)
    for n, own in enumerate(labels.tolist()):
        for j in range(6):
            margin = float(logits[n, own] - logits[n, j])
            expected = np.inf if j == own else margin / float(pairwise[own, j])
            assert float(found[n, j]) == pytest.approx(expected, rel=1e-5)
    soft = -torch.logsumexp(-8 * found, 1) / 8
    assert (soft <= found.amin(1) + 1e-6).all()
    assert (soft >= found.amin(1) - np.log(5) / 8 - 1e-6).all()


def test_loss_enlarges_only_small_radii_of_right_answers(example: Modules) -> None:
    logits = torch.tensor([[4.0, 0, 0], [1.0, 0, 0], [0.0, 1, 0]], requires_grad=True)
    labels = torch.zeros(3, dtype=torch.int64)
    pairwise = torch.ones(3, 3)
    crm = example["losses"].CRM(r_0=2.0, t=5.0, weight=10.0)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    added = crm(logits, labels, pairwise) - plain
    (pull,) = torch.autograd.grad(added, logits)
    assert pull[1, 0] < 0 < pull[1, 1]
    assert (pull[[0, 2]] == 0).all()
    assert crm(logits, labels, pairwise, share=0.0) == plain


def shrinks(bound: Any, loss: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether a small step against the gradient, through the bound alone, makes it smaller."""
    weights = [weight for _, weight in bound.chain]
    before = bound.pairwise(steps=100)
    gradients = torch.autograd.grad(loss(before), weights)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.sub_(1e-3 * gradient / gradient.norm())
        return bool(bound.pairwise(steps=100).mean() < before.mean())


@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_shrinks_the_bound(example: Modules, tmp_path: Path, sign: int) -> None:
    path = random_network(example, tmp_path / "model.onnx", 2)
    bound = bound_of(example, path)
    with torch.no_grad():
        logits = torch_view(path)(torch.rand(32, 2, 8, 8))
    crm = example["losses"].CRM(r_0=10.0, t=5.0, weight=1.0)
    labels = logits.argmax(1)
    assert shrinks(bound, lambda pairwise: sign * crm(logits, labels, pairwise)) == (sign > 0)


# The file


def graph_without_numbers(path: Path) -> bytes:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return bytes(model.SerializeToString())


def test_weights_are_written_into_the_same_graph(example: Modules, tmp_path: Path) -> None:
    path = random_network(example, tmp_path / "model.onnx", 3)
    before, bytes_before = graph_without_numbers(path), path.read_bytes()
    view = torch_view(path)
    names = [tensor.name for tensor in onnx.load(path).graph.initializer]
    example["network"].write_weights(path, {name: view.weight(name) for name in names})
    assert path.read_bytes() == bytes_before
    with torch.no_grad():
        view.weight("conv2.weight").mul_(3.0)
    example["network"].write_weights(path, {"conv2.weight": view.weight("conv2.weight")})
    assert path.read_bytes() != bytes_before
    assert graph_without_numbers(path) == before
    batch = np.random.default_rng(0).random((4, 2, 8, 8), np.float32)
    session = lipcompile.runtime.open_session(path, lipcompile.RuntimeOptions())
    found = session.run(["logits"], {"image": batch})["logits"]
    with torch.no_grad():
        assert np.abs(found - view(torch.from_numpy(batch)).numpy()).max() < 1e-4


def test_weights_of_another_shape_are_refused(example: Modules, tmp_path: Path) -> None:
    path = random_network(example, tmp_path / "model.onnx", 3)
    with pytest.raises(
        ValueError, match=r"'fc1.bias' is \[7\] .* has \[6\] .*: train the view"
    ):
        example["network"].write_weights(path, {"fc1.bias": torch.zeros(7)})


# Training


def certified(example: Modules, path: Path, data: Any, eps_l2: float) -> tuple[float, float]:
    """Accuracy, and the share of certified images by `lipcompile.certify`.

    Its radii are compared with those of the exact LipLT, which are about as large.
    """
    result = lipcompile.certify(path, (data.images.numpy(), data.labels.numpy()), samples=None)
    pairwise = torch.from_numpy(exact_liplt(unrolled(example, path)))
    with torch.no_grad():
        logits = torch_view(path)(data.images).double()
    exact = example["losses"].radii(logits, data.labels, pairwise).amin(1).numpy()
    right, found = result.model.right, result.model.radii_l2
    assert (right == (exact > 0)).all()
    assert (found[right] > 0.9 * exact[right]).all()
    return float(right.mean()), float(result.model.certified(eps_l2).mean())


Train = Callable[..., Path]


@pytest.fixture
def train(example: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a small network for some epochs of batches of 16."""
    monkeypatch.setattr(example["train"], "BATCH", 16)

    def run(name: str, data: Any, weight: float | None, epochs: int) -> Path:
        path = tmp_path / name
        shape = tuple(data.images.shape[1:])
        onnx.save(example["network"].build(0, shape, channels=(4, 8), hidden=(16,)), path)
        crm = None if weight is None else example["losses"].CRM(0.5, 12.0, weight)
        example["train"].train(path, data, crm, epochs, seed=0)
        return path

    return run


def test_training_with_the_loss_certifies_and_without_does_not(
    example: Modules, images: tuple[torch.Tensor, torch.Tensor], train: Train
) -> None:
    small = (torch.nn.functional.avg_pool2d(images[0], 2), images[1])
    first, rest = (example["train"].Data(*(part[s] for part in small)) for s in HALVES)
    crm = train("crm.onnx", first, 30.0, epochs=6)
    plain = train("plain.onnx", first, None, epochs=6)
    assert graph_without_numbers(crm) == graph_without_numbers(plain)
    accuracy, share = certified(example, crm, rest, 0.25)
    assert accuracy > 0.55 and share > 0.45
    accuracy, share = certified(example, plain, rest, 0.25)
    assert accuracy > 0.6 and share < 0.25


def test_same_seed_gives_the_same_file(
    example: Modules, images: tuple[torch.Tensor, torch.Tensor], train: Train
) -> None:
    few = example["train"].Data(images[0][:64], images[1][:64])
    first, second = (train(name, few, 30.0, epochs=1) for name in ("a.onnx", "b.onnx"))
    assert first.read_bytes() == second.read_bytes()
    other = train("c.onnx", few, 20.0, epochs=1)
    assert other.read_bytes() != first.read_bytes()


# The script


@pytest.fixture
def folder_of_data(tmp_path: Path, images: tuple[torch.Tensor, torch.Tensor]) -> Path:
    """64 images to train on and 32 to test with, in the files of Fashion-MNIST."""
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = (images[0][:96, 0] * 255).round().to(torch.uint8).numpy()
    for split, part in (("train", slice(0, 64)), ("t10k", slice(64, 96))):
        stored = {"images-idx3": bytes(16) + pixels[part].tobytes()}
        labels = images[1][part].to(torch.uint8).numpy()
        stored["labels-idx1"] = bytes(8) + labels.tobytes()
        for name, content in stored.items():
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def test_missing_data_is_told(
    example: Modules, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        example["train"].main(["--output", str(tmp_path / "o"), "--data", str(tmp_path)])
    assert stop.value.code == 2
    assert "does not hold Fashion-MNIST: install the Debian package" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("flags", [[], ["--linear"]], ids=["network", "linear"])
def test_script_trains_writes_and_certifies_both(
    example: Modules,
    tmp_path: Path,
    folder_of_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    monkeypatch.setattr(example["train"], "BATCH", 32)
    small = partial(example["network"].build, channels=(4,), hidden=(8,))
    monkeypatch.setattr(example["train"], "build", small)
    given = ["--output", str(tmp_path / "o"), "--data", str(folder_of_data), "--epochs", "1"]
    example["train"].main([*given, *flags])
    told = capsys.readouterr().out
    for name in ("fashion_mnist_certified.onnx", "fashion_mnist_plain.onnx"):
        assert f"{name}: " in told
        onnx.checker.check_model(onnx.load(tmp_path / "o" / name), full_check=True)
    assert told.count("trained 1 epochs in ") == 2
    assert "32 images of 'test.npz', l2 certificates by Lipschitz bounds" in told
    assert re.search(r"certified at 0\.5 \* ( +[\d.]+ % \([\d.]+ to [\d.]+\)){2}", told)
    stored = np.load(tmp_path / "o" / "test.npz")
    assert stored["images"].shape == (32, 28, 28) and stored["images"].dtype == np.uint8


@pytest.mark.slow
def test_bundled_network_is_as_its_page_says(example: Modules) -> None:
    path = FOLDER / "fashion_mnist_certified.onnx"
    fresh = tuple(layer.weight for layer in example["network"].layers_of(onnx.load(path)))
    built = example["network"].build(0)
    assert fresh == tuple(layer.weight for layer in example["network"].layers_of(built))
    result = lipcompile.certify(path, demo.TEST, samples=None, eps=0.5)
    assert result.model.right.mean() > 0.8
    assert result.model.certified(0.5).mean() > 0.7
