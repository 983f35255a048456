"""What does the torch view cost against the same network written by hand?

Time of a forward and a backward pass to the input, weights frozen, as an attack needs it. The
baseline is an `nn.Module` of usual layers with the weights of the model; both take turns in
one process and swap places in every pair, so that a drift of the machine's speed cancels out.
Ratio 1.0 means that nobody has to write the network by hand.

    python benchmarks/torchview_speed.py [--pairs N] [--threads N] [--wrn MODEL]

Without arguments: the bundled demo model, and the adversarially trained WRN-10-2 of the test
models where they lie beside the project.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from lipcompile.demo import MODEL
from lipcompile.torchview import torch_view

WRN = Path(__file__).resolve().parents[2] / "shared/pack/models/shared/cifar_wrn10_2_adv.onnx"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class PreActivation(nn.Module):
    """A block of the WRN; its second BatchNorm is folded into `conv1`."""

    def __init__(self, channels: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.norm = nn.Identity() if first else nn.BatchNorm2d(channels)
        self.skip = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(x))
        return self.conv2(F.relu(self.conv1(x))) + self.skip(x)


class WideResNet(nn.Module):
    """WRN-10-2 for CIFAR-10."""

    shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.blocks = nn.Sequential(
            PreActivation(16, 32, 1, True),
            PreActivation(32, 64, 2, False),
            PreActivation(64, 128, 2, False),
        )
        self.norm = nn.BatchNorm2d(128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.blocks(self.stem((x - self.mean) / self.std))))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """A block of the demo model, BatchNorm folded."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.Conv2d(channels, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.skip(x))


class DemoNet(nn.Module):
    """The bundled residual network for Fashion-MNIST."""

    shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 5, 2, 2)
        self.blocks = nn.Sequential(
            Residual(24, 24, 1), Residual(24, 48, 2), Residual(48, 96, 2)
        )
        self.fc1, self.fc2 = nn.Linear(96, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem((x - self.mean) / self.std)))
        return self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1).flatten(1))))


def with_weights_of(path: Path, network: nn.Module) -> nn.Module:
    """Layers stand in the order of the graph's nodes; so do their weights."""
    graph = onnx.load(path).graph
    arrays = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    nodes = [n for n in graph.node if n.op_type in ("Conv", "BatchNormalization", "Gemm")]
    layers = [
        m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    for layer, node in zip(layers, nodes, strict=True):
        tensors = ("weight", "bias", "running_mean", "running_var")
        for name, source in zip(tensors, node.input[1:], strict=False):
            assert getattr(layer, name).shape == arrays[source].shape
            getattr(layer, name).data = arrays[source]
    for name, node in zip(("mean", "std"), graph.node[:2], strict=True):
        network.register_buffer(name, arrays[node.input[1]])
    return network.eval().requires_grad_(False)


def attack_step(network: nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A forward pass and the gradient of a loss in the images."""
    labels = torch.arange(len(images)) % 10

    def step() -> torch.Tensor:
        x = images.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(network(x), labels), x)[0]

    return step


def ratio(
    hand: Callable[[], torch.Tensor], view: Callable[[], torch.Tensor], pairs: int
) -> str:
    """Of the times of `view` and `hand`; 5 pairs warm up uncounted."""
    ratios, times = [], []
    for index in range(-5, pairs):
        seconds = {}
        for step in (hand, view) if index % 2 else (view, hand):
            start = time.perf_counter()
            step()
            seconds[step] = time.perf_counter() - start
        if index >= 0:
            ratios.append(seconds[view] / seconds[hand])
            times.append(seconds[hand])
    low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    return (
        f"{median:.3f} (10-90 %: {low:.3f} to {high:.3f}, n = {pairs} pairs, "
        f"by hand {1e3 * np.median(times):.1f} ms)"
    )


def compare(path: Path, network: nn.Module, pairs: int) -> None:
    hand = with_weights_of(path, network)
    view = torch_view(path).requires_grad_(False)
    for batch in (32, 128):
        for name, memory in FORMATS.items():
            images = torch.rand(batch, *network.shape).contiguous(memory_format=memory)
            hand, view = hand.to(memory_format=memory), view.to(memory_format=memory)
            steps = attack_step(hand, images), attack_step(view, images)
            torch.testing.assert_close(view(images), hand(images), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(steps[1](), steps[0](), rtol=1e-3, atol=1e-6)
            found = ratio(*steps, pairs)
            print(f"{path.name}, batch {batch}, {name}: {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--wrn", type=Path, default=WRN)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    compare(MODEL, DemoNet(), arguments.pairs)
    if arguments.wrn.exists():
        compare(arguments.wrn, WideResNet(), arguments.pairs)


if __name__ == "__main__":
    main()
