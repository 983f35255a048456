"""How fast are certificates?

(a) Smoothing: noisy images per second against the plain torch loop of the reference
    implementation (`Smooth._sample_noise` of locuslab/smoothing): per batch, repeat the image,
    add `torch.randn_like * sigma`, run the network, argmax, count on the host. The network is
    written by hand with the weights of the file; the loop gets the batch size that suits it
    best. Both take turns in one process, on the same cores, and swap places in every pair.
    Target: at least 1.5 times as many.
(b) The sequential test of "is the radius at least r?": draws that it needs until "yes" or
    "no", against the 100,000 of CERTIFY, and whether CERTIFY says the same at 100,000.
    Target: at least 10 times fewer in the median.
(c) Lipschitz: seconds for all bounds (product, LipLT, ECLipsE-Fast; whole, per logit and
    pairwise) of the six convolutions and two dense layers for CIFAR-10 that papers on
    certified training use ("6C2F"), with random weights. Target: under 10 s on two cores.

    python benchmarks/certify_speed.py [--part speed|sequential|bounds] [--pairs N]
        [--images N] [--n N] [--threads N]

The models are the adversarially trained WRN-10-2 for CIFAR-10 of the test models where they
lie beside the project, and the bundled network for Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import torch
from torch import nn
from torchview_speed import WRN, DemoNet, WideResNet, with_weights_of

from lipcompile import model_io
from lipcompile.certifying.lipschitz.bounds import lipschitz_bounds
from lipcompile.certifying.smoothing import SmoothingOptions, SmoothingRun, smooth
from lipcompile.demo import MODEL, TEST
from lipcompile.labelled import LabelledImages, Normalisation, open_labelled
from lipcompile.runtime import RuntimeOptions

CIFAR = Path(__file__).resolve().parents[2] / "shared/pack/data/cifar10_lossless"
BATCHES = (32, 100, 400)  # of the loop; the reference's default is 400
SIGMA = 0.25


@dataclass(frozen=True)
class Subject:
    """A file, the same network by hand, images, and how many draws take a second or so.

    What a run costs beside its draws must not count: there are 100,000 of them in earnest.
    """

    path: Path
    network: nn.Module
    images: LabelledImages
    draws: int


def subjects(count: int) -> list[Subject]:
    found = [Subject(MODEL, DemoNet(), labelled(MODEL, TEST, count), 10_000)]
    if WRN.exists():
        found.insert(0, Subject(WRN, WideResNet(), labelled(WRN, cifar(), count), 2000))
    return found


def cifar() -> Path | tuple[np.ndarray, np.ndarray]:
    """CIFAR-10 where it lies beside the project; else what has its shape, for speed alone."""
    if CIFAR.exists():
        return CIFAR
    rng = np.random.default_rng(0)
    return rng.random((64, 3, 32, 32), np.float32), rng.integers(0, 10, 64)


def labelled(path: Path, data: object, count: int) -> LabelledImages:
    inputs = model_io.load(path).inputs
    return open_labelled(data, inputs, num_classes=10, model=path.name, samples=count)


def loop(
    network: nn.Module, pixels: np.ndarray, sigma: float, n: int, batch: int
) -> np.ndarray:
    """The reference's way of counting n noisy copies of one image."""
    x, counts = torch.from_numpy(pixels), np.zeros(10, int)
    with torch.no_grad():
        for start in range(0, n, batch):
            repeated = x.repeat((min(batch, n - start), 1, 1, 1))
            noise = torch.randn_like(repeated) * sigma
            predictions = network(repeated + noise).argmax(1)
            for prediction in predictions.cpu().numpy():
                counts[prediction] += 1
    return counts


def speed(subject: Subject, pairs: int, threads: int) -> None:
    draws = subject.draws
    network = with_weights_of(subject.path, subject.network)
    model, one = model_io.load(subject.path), subject.images.subset(np.arange(1))
    assert one.normalisation == Normalisation(), "the network by hand takes pixels"
    options = SmoothingOptions(SIGMA, "predict", n=draws)

    def ours() -> np.ndarray:
        run = smooth(model, one, options, RuntimeOptions(threads=threads))
        return np.array([run.outcomes[0].successes])

    def theirs(batch: int) -> Callable[[], np.ndarray]:
        return lambda: loop(network, one.pixels[0], SIGMA, draws, batch)

    best = min(BATCHES, key=lambda batch: min(seconds(theirs(batch)) for _ in range(2)))
    same_votes(ours()[0], theirs(best)().max(), draws)
    ratios, rates = [], []
    for index in range(-1, pairs):
        took = {}
        for name in ("ours", "theirs") if index % 2 else ("theirs", "ours"):
            took[name] = seconds(ours if name == "ours" else theirs(best))
        if index >= 0:
            ratios.append(took["theirs"] / took["ours"])
            rates.append((draws / took["ours"], draws / took["theirs"]))
    low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    mine, other = np.median(rates, axis=0)
    print(
        f"{subject.path.name}: {median:.2f} times the images per second (10-90 %: {low:.2f} "
        f"to {high:.2f}, n = {pairs} pairs of {draws} draws): {mine:.0f}/s, with opening the "
        f"session, against {other:.0f}/s of the loop in batches of {best}, its best of "
        f"{BATCHES}",
        flush=True,
    )


def same_votes(mine: int, other: int, draws: int) -> None:
    """Both smooth the same network: their shares differ by chance alone."""
    share = (mine + other + 1) / (2 * draws + 2)
    error = np.sqrt(2 * draws * share * (1 - share))
    assert abs(mine - other) < 5 * error, (mine, other)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def sequential(subject: Subject, sigma: float, n: int, threads: int) -> None:
    """Of all images at several radii; CERTIFY runs once, and answers for every radius."""
    runtime = RuntimeOptions(threads=threads)
    model = model_io.load(subject.path)
    options = SmoothingOptions(sigma, n=n)
    fixed = smooth(model, subject.images, options, runtime)
    for factor in (0.25, 0.5, 1.0, 2.0):
        radius = factor * sigma
        asked = replace(options, procedure="test", radius=radius)
        told(subject, radius, fixed, smooth(model, subject.images, asked, runtime), n)


def told(
    subject: Subject, radius: float, fixed: SmoothingRun, tested: SmoothingRun, n: int
) -> None:
    draws = np.array([outcome.draws for outcome in tested.outcomes])
    pairs = Counter(
        (test.answer, "yes" if whole.radius_l2 >= radius else "no")
        for test, whole in zip(tested.outcomes, fixed.outcomes, strict=True)
    )
    verdicts = ", ".join(f"{a} / {b}: {count}" for (a, b), count in sorted(pairs.items()))
    median, high = np.quantile(draws, [0.5, 0.9])
    print(
        f"{subject.path.name}, sigma {fixed.options.sigma:g}, radius {radius:g}: "
        f"{n / median:.0f} times fewer draws in the median ({median:.0f}; 90 %: {high:.0f}), "
        f"{n / draws.mean():.1f} in the mean ({draws.mean():.0f}), of {len(draws)} images; "
        f"sequential / CERTIFY say {verdicts}",
        flush=True,
    )


def speed_part(found: list[Subject], arguments: argparse.Namespace) -> None:
    for subject in found:
        speed(subject, arguments.pairs, arguments.threads)


def sequential_part(found: list[Subject], arguments: argparse.Namespace) -> None:
    """The bundled network: its draws are cheap, and what is measured is their number."""
    sequential(found[-1], SIGMA, arguments.n, arguments.threads)


def six_convolutions() -> onnx.ModelProto:
    """The network of part (c), with He's random weights."""
    convolutions = [(3, 32, 3, 1), (32, 32, 4, 2), (32, 64, 3, 1)]
    convolutions += [(64, 64, 4, 2), (64, 64, 3, 1), (64, 64, 4, 2)]
    rng, lines, weights, last = np.random.default_rng(0), [], {}, "x"
    for i, (inner, outer, kernel, stride) in enumerate(convolutions):
        weights[f"w{i}"] = rng.normal(
            0, (2 / inner) ** 0.5 / kernel, (outer, inner, kernel, kernel)
        )
        lines.append(
            f"c{i} = Conv <strides = [{stride}, {stride}], pads = [1, 1, 1, 1]> ({last}, w{i})"
        )
        lines.append(f"r{i} = Relu (c{i})")
        last = f"r{i}"
    weights["d0"] = rng.normal(0, (2 / 1024) ** 0.5, (512, 1024))
    weights["d1"] = rng.normal(0, (1 / 512) ** 0.5, (10, 512))
    lines += [f"f = Flatten ({last})", "h = Gemm <transB = 1> (f, d0)", "s = Relu (h)"]
    lines.append("y = Gemm <transB = 1> (s, d1)")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "net (float[n, 3, 32, 32] x) => (float[n, 10] y) {" + "\n".join(lines) + "}"
    )
    for name, array in weights.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(array.astype(np.float32), name)
        )
    return model


def bounds_part(_: list[Subject], arguments: argparse.Namespace) -> None:
    model = model_io.load(six_convolutions())
    took = []
    for _round in range(arguments.pairs):
        start = time.perf_counter()
        found = lipschitz_bounds(model, Normalisation(), (3, 32, 32))
        took.append(time.perf_counter() - start)
    low, median, high = np.quantile(took, [0.1, 0.5, 0.9])
    told = ", ".join(f"{name} {bound:.4g}" for name, bound in found.by_method.items())
    print(
        f"all bounds of 6C2F: {median:.1f} s (10-90 %: {low:.1f} to {high:.1f}, n = "
        f"{arguments.pairs}); {told}; largest pair {found.pairwise.max():.4g}"
    )


PARTS: dict[str, Callable[[list[Subject], argparse.Namespace], None]] = {
    "speed": speed_part,
    "sequential": sequential_part,
    "bounds": bounds_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="one of them; all without it")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--images", type=int, default=20, help="of part (b)")
    parser.add_argument("--n", type=int, default=100_000, help="draws of CERTIFY")
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    found = subjects(arguments.images)
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(found, arguments)


if __name__ == "__main__":
    main()
