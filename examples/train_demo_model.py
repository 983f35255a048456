"""Train the demo classifier of LipCompile and write the assets bundled with it.

Data: Fashion-MNIST (Zalando SE, MIT licence; Debian package dataset-fashion-mnist).
Model: a small residual CNN, trained against l-inf attacks of radius 0.1 (pixel units) by
PGD-2 from a random start; the radius warms up linearly, the learning rate is one-cycle.
Written: fashion_mnist_adv.onnx, calibration/*.png (512 training images), test.npz (1,000
test images, 100 per class) and classes.json, beside LICENSE-fashion-mnist.txt.

The bundled run (30 epochs, seed 0, torch 2.13.0) trained 180,114 parameters in 3,013 s on two
CPU cores busy with other jobs (37 s an epoch when they are not) and printed: clean accuracy
87.04 % (10,000 test images), PGD-20 accuracy 77.50 % at eps 0.1 (1,000 test images); bytes:
ONNX 723,074, calibration/ 257,573, test.npz 444,342; max |onnxruntime - torch| 4.8e-06.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

EPS = 0.1  # l-inf radius, in pixel units [0, 1]
MEAN, STD = 0.2860, 0.3530
THREADS, BATCH, MAX_LR, SHIFT, PGD_STEPS = 2, 128, 0.2, 1, 2
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]  # fmt: skip
Bytes = npt.NDArray[np.uint8]


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """Basic residual block; a 1x1 convolution on the skip where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(c_in, c_out, 3, stride)
        self.conv2 = conv_bn(c_out, c_out, 3, 1)
        same = c_in == c_out and stride == 1
        self.skip: nn.Module = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.skip(x))


class DemoNet(nn.Module):
    """Normalisation, strided stem, three residual stages, average pool, two linear layers."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1, 1), MEAN))
        self.register_buffer("std", torch.full((1, 1, 1, 1), STD))
        self.stem = conv_bn(1, 24, 5, 2)
        self.stages = nn.Sequential(Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(96, 64)
        self.fc2 = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem((x - self.mean) / self.std))
        x = torch.flatten(self.pool(self.stages(x)), 1)
        logits: Tensor = self.fc2(F.relu(self.fc1(x)))
        return logits


def load(data: Path, split: str) -> tuple[Bytes, Bytes]:
    pixels = gzip.decompress((data / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((data / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(labels, np.uint8, offset=8)


def tensors(images: Bytes, labels: Bytes) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(images.astype(np.float32) / 255.0)[:, None]
    return x, torch.from_numpy(labels.astype(np.int64))


def attack(net: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, n: int) -> Tensor:
    """l-inf PGD of n steps from a random start (n = 1: FGSM with random start)."""
    adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(n):
        adv.requires_grad_(True)
        (grad,) = torch.autograd.grad(F.cross_entropy(net(adv), y), adv)
        moved = adv.detach() + step * grad.sign()
        adv = torch.clamp(torch.minimum(torch.maximum(moved, x - eps), x + eps), 0, 1)
    return adv.detach()


def accuracy(net: nn.Module, images: Tensor, labels: Tensor, pgd_steps: int = 0) -> float:
    net.eval()
    hits = 0
    for x, y in zip(torch.split(images, 500), torch.split(labels, 500), strict=True):
        if pgd_steps:
            x = attack(net, x, y, EPS, 2.5 * EPS / pgd_steps, pgd_steps)
        with torch.no_grad():
            hits += int((net(x).argmax(1) == y).sum())
    return hits / len(labels)


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    shifted = F.pad(images, (SHIFT,) * 4).unfold(2, 28, 1).unfold(3, 28, 1)  # a view
    steps = len(images) // BATCH
    sgd = torch.optim.SGD(net.parameters(), MAX_LR, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, MAX_LR, epochs * steps, pct_start=0.3)
    for epoch in range(epochs):
        net.train()
        total = 0.0
        order = torch.randperm(len(images))[: steps * BATCH]
        for i, pick in enumerate(torch.split(order, BATCH)):
            eps = EPS * min(1.0, (epoch + i / steps) / (0.3 * epochs))  # linear warm-up
            dy, dx = torch.randint(2 * SHIFT + 1, (2, BATCH))
            x, y = shifted[pick, :, dy, dx], labels[pick]
            loss = F.cross_entropy(net(attack(net, x, y, eps, 0.75 * eps, PGD_STEPS)), y)
            sgd.zero_grad()
            torch.autograd.backward(loss)
            sgd.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: mean loss {total / steps:.3f}", flush=True)


def export(net: nn.Module, path: Path, sample: Tensor) -> None:
    """Write the ONNX file (batch norms folded) and compare it with the torch model."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of the TorchScript exporter
    torch.onnx.export(
        net, (sample,), path, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )  # fmt: skip
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(sample).numpy()
    gap = np.abs(session.run(None, {"image": sample.numpy()})[0] - expected).max()
    print(f"{path.name}: {path.stat().st_size} bytes, max |onnxruntime - torch| = {gap:.1e}")
    if gap > 1e-5:
        raise RuntimeError("the ONNX file does not compute what the torch model does")


def write_images(out: Path, train_images: Bytes, test: tuple[Bytes, Bytes], seed: int) -> None:
    """512 calibration PNGs, the test images, and the class names."""
    folder = out / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for i in np.random.default_rng(seed).choice(len(train_images), 512, replace=False):
        Image.fromarray(train_images[i]).save(folder / f"{i:05d}.png", optimize=True)
    np.savez_compressed(out / "test.npz", images=test[0], labels=test[1])
    (out / "classes.json").write_text(json.dumps(CLASSES, indent=2) + "\n")
    size = sum(png.stat().st_size for png in folder.glob("*.png"))
    print(f"calibration/: {size} bytes, test.npz: {(out / 'test.npz').stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    assets = Path(__file__).resolve().parents[1] / "lipcompile" / "demo_assets"
    parser.add_argument("--data", type=Path, default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--out", type=Path, default=assets)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)

    train_set, test_set = load(args.data, "train"), load(args.data, "t10k")
    rng = np.random.default_rng(args.seed)
    of_class = [np.flatnonzero(test_set[1] == c) for c in range(len(CLASSES))]
    few = np.sort(np.concatenate([rng.choice(rows, 100, replace=False) for rows in of_class]))
    bundled = test_set[0][few], test_set[1][few]
    net, start = DemoNet(), time.perf_counter()
    train(net, *tensors(*train_set), args.epochs)
    parameters, seconds = sum(p.numel() for p in net.parameters()), time.perf_counter() - start
    print(f"trained {parameters} parameters for {args.epochs} epochs in {seconds:.0f} s")
    print(f"clean accuracy, 10000 test images: {accuracy(net, *tensors(*test_set)):.2%}")
    robust = accuracy(net, *tensors(*bundled), pgd_steps=20)
    print(f"PGD-20 accuracy at eps {EPS}, 1000 test images: {robust:.2%}")
    write_images(args.out, train_set[0], bundled, args.seed)
    export(net, args.out / "fashion_mnist_adv.onnx", tensors(*bundled)[0])


if __name__ == "__main__":
    main()
