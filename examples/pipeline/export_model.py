"""Train a small classifier in torch, and export it as ONNX: the first step of the pipeline.

In a pipeline of your own, this is where your model comes from. Here it is a small CNN, trained
for some seconds on 700 of the 1,000 labelled images that LipCompile bundles; the other 300 are
for the audit. Written into --out: model.onnx, calibration.npz (images of the first part) and
test.npz (images and labels of the second).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcompile.demo import load_test_images

TRAINED, CALIBRATED, BATCH = 700, 256, 50


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for pick in torch.split(torch.randperm(len(images)), BATCH):
            loss = F.cross_entropy(model(images[pick]), labels[pick])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


def export(model: nn.Module, path: Path, sample: Tensor) -> None:
    """Writes the ONNX file with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the TorchScript exporter
        torch.onnx.export(
            model.eval(),
            (sample,),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # small batches: threads would wait for each other
    images, labels = load_test_images()
    order = np.random.default_rng(arguments.seed).permutation(len(images))
    first, second = order[:TRAINED], order[TRAINED:]
    model = make_model()
    train(
        model,
        torch.from_numpy(images[first]),
        torch.from_numpy(labels[first]),
        arguments.epochs,
    )
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images[second])).argmax(1).numpy()
    arguments.out.mkdir(parents=True)
    export(model, arguments.out / "model.onnx", torch.from_numpy(images[:1]))
    np.savez(arguments.out / "calibration.npz", image=images[first[:CALIBRATED]])
    pixels = (images[second, 0] * 255).round().astype(np.uint8)
    np.savez(arguments.out / "test.npz", images=pixels, labels=labels[second])
    share = (found == labels[second]).mean()
    print(f"'{arguments.out}': {share:.1%} of {len(second)} images right after training")


if __name__ == "__main__":
    main()
