"""Train a certifiable Fashion-MNIST network in an ONNX file, and the same one plainly.

    python examples/train_certified/train.py --output DIR [--loss crm|plain|both]

Each loss gets a file of its own: fresh weights are written, trained as LipCompile's torch view
of that file, and written back into it. The data are those of examples/train_demo_model.py
(Debian package dataset-fashion-mnist).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

import lipcompile
from lipcompile.torchview import torch_view

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from descent import Descent
from liplt import LipLT
from losses import CRM
from network import build, layers_of, write_weights
from train_demo_model import load, tensors

THREADS, BATCH = 1, 256
WARM_UP = 0.2  # share of the steps in which lambda grows from 0
FILES = {"crm": "fashion_mnist_certified.onnx", "plain": "fashion_mnist_plain.onnx"}


@dataclass(frozen=True, slots=True)
class Data:
    """Images, float [N, 1, 28, 28] in [0, 1], and labels, int64 [N]."""

    images: Tensor
    labels: Tensor


def train(path: Path, data: Data, crm: CRM | None, epochs: int, seed: int) -> None:
    """Trains the network in an ONNX file, and writes its weights back into it.

    Args:
        path: A file that `network.build` made.
        data: To train on.
        crm: The loss; None stands for cross-entropy alone.
        epochs: Passes over the data.
        seed: Of the order of the images, and of power iteration.
    """
    view = torch_view(path)
    model = onnx.load(path)
    layers = layers_of(model)
    bound = LipLT(view, layers, seed)
    generator = torch.Generator().manual_seed(seed)
    steps = len(data.images) // BATCH
    descent = Descent(view, layers, epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(data.images), generator=generator)[: steps * BATCH]
        total = 0.0
        for i, pick in enumerate(order.split(BATCH)):
            logits, labels = view(data.images[pick]), data.labels[pick]
            if crm is None:
                loss = F.cross_entropy(logits, labels)
            else:
                share = min(1.0, (epoch + i / steps) / (WARM_UP * epochs))
                loss = crm(logits, labels, bound.pairwise(), share)
            descent.step(loss)
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: mean loss {total / steps:.3f}", flush=True)
    names = [tensor.name for tensor in model.graph.initializer]
    write_weights(path, {name: view.weight(name) for name in names})


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--loss", choices=("crm", "plain", "both"), default="both")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--eps", type=float, default=0.5, help="certified l2 radius, in pixels"
    )
    parser.add_argument("--r0", type=float, default=1.0, help="radii below it are enlarged")
    parser.add_argument("--t", type=float, default=12.0, help="sharpness of the soft minimum")
    parser.add_argument("--weight", type=float, default=30.0, help="lambda, of the radius")
    parser.add_argument("--linear", action="store_true", help="without hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def write_test(folder: Path, path: Path) -> None:
    """The test images, uint8 [N, 28, 28], as `lipcompile certify --data` reads them."""
    images, labels = load(folder, "t10k")
    np.savez_compressed(path, images=images, labels=labels)


def train_each(given: argparse.Namespace) -> list[Path]:
    """The trained files: with the loss, without, or both."""
    data = Data(*tensors(*load(given.data, "train")))
    shape = {"channels": (), "hidden": ()} if given.linear else {}
    trained = []
    for name in FILES if given.loss == "both" else (given.loss,):
        path, start = given.output / FILES[name], time.perf_counter()
        onnx.save(build(given.seed, **shape), path)
        crm = CRM(given.r0, given.t, given.weight) if name == "crm" else None
        print(f"{path.name}: {crm or 'cross-entropy alone'}")
        train(path, data, crm, given.epochs, given.seed)
        print(f"trained {given.epochs} epochs in {time.perf_counter() - start:.0f} s")
        trained.append(path)
    return trained


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    given = parser.parse_args(arguments)
    if not (given.data / "t10k-images-idx3-ubyte.gz").is_file():
        parser.error(
            f"'{given.data}' does not hold Fashion-MNIST: install the Debian package "
            "dataset-fashion-mnist, or pass --data with the folder of its four .gz files"
        )
    torch.set_num_threads(THREADS)
    given.output.mkdir(parents=True, exist_ok=True)
    test = given.output / "test.npz"
    write_test(given.data, test)
    model, *plain = train_each(given)
    print(
        lipcompile.certify(
            model, test, original=plain[0] if plain else None, eps=given.eps, samples=None
        )
    )


if __name__ == "__main__":
    main()
