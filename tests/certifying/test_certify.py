"""certify(): radii against NumPy, what two models are compared by, what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lipcompile
from lipcompile.certifying.certify import certify
from lipcompile.certifying.results import CertifyResult
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.errors import (
    DataError,
    Interrupted,
    LipCompileError,
    ModelError,
    OptionError,
    OutputError,
)
from lipcompile.runtime import RuntimeOptions, open_session
from lipcompile.statistics import mcnemar
from tests.certifying import small

SMOOTHING = SmoothingOptions(sigma=0.1, n0=50, n=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    small.fill(root)
    return root


def run(folder: Path, model: str = "model", **options: Any) -> CertifyResult:
    original = options.pop("original", None)
    return certify(
        folder / f"{model}.onnx",
        options.pop("data", folder / "test.npz"),
        original=folder / f"{original}.onnx" if original else None,
        **options,
    )


# Lipschitz bounds


def test_an_ensemble_is_bounded_however_it_runs(folder: Path) -> None:
    """The mean of two views: no more than one model, and no less than what is measured."""
    rng = np.random.default_rng(0)
    first = rng.random((200, 1, 6, 6)).astype(np.float32)
    second = first + 0.01 * rng.standard_normal(first.shape).astype(np.float32)
    single = run(folder).model.bounds
    assert single is not None
    for by in ("batch", "branches"):
        how = lipcompile.EnsembleOptions("flip", by=by, image_input="x")
        path = folder / f"{by}.onnx"
        lipcompile.harden(folder / "model.onnx", ensemble=how, output=path)
        bounds = run(folder, by).model.bounds
        session = open_session(path, RuntimeOptions(threads=1))
        before, after = (session.run(["y"], {"x": x})["y"] for x in (first, second))
        moved = np.linalg.norm((second - first).reshape(200, -1), axis=1)
        measured = (np.linalg.norm(after - before, axis=1) / moved).max()
        assert bounds is not None
        assert measured <= bounds.whole <= 1.001 * single.by_method["LipLT"]


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_radii_are_margins_over_the_bounds_of_pairs(folder: Path, batch: int | None) -> None:
    found = run(folder, eps="1/20", batch_size=batch).model
    pixels, labels = small.images()
    scores = small.logits(pixels)
    top = scores.argmax(axis=1)
    assert found.bounds is not None
    expected = [
        min(
            (scores[i, y] - scores[i, j]) / found.bounds.pairwise[y, j]
            for j in range(small.CLASSES)
            if j != y
        )
        for i, y in enumerate(top)
    ]
    np.testing.assert_allclose(found.radii_l2, expected, rtol=1e-4)
    assert found.labels.tolist() == top.tolist()
    assert found.right.tolist() == (top == labels).tolist()
    assert 0 < found.certified(0.05).mean() < found.right.mean() < 1


def test_no_small_step_changes_a_certified_class(folder: Path) -> None:
    """Steps towards the nearest boundary of the linear piece, as long as the radius."""
    found = run(folder).model
    pixels, _ = small.images()
    rng = np.random.default_rng(0)
    for _ in range(50):
        step = rng.normal(size=pixels.shape)
        step /= np.linalg.norm(step.reshape(len(step), -1), axis=1)[:, None, None, None]
        moved = pixels + step * found.radii_l2[:, None, None, None]
        assert (small.logits(moved).argmax(axis=1) == found.labels).all()
    far = pixels + step * 100 * found.radii_l2[:, None, None, None]
    assert (small.logits(far).argmax(axis=1) != found.labels).any(), "the check can fail"


def test_a_softmax_behind_the_logits_changes_nothing(folder: Path) -> None:
    plain, softmax = run(folder).model, run(folder, "softmax").model
    np.testing.assert_array_equal(plain.radii_l2, softmax.radii_l2)


def test_mean_and_std_scale_the_radii(folder: Path) -> None:
    """eps is in pixels: of a model that divides by 2, bounds halve and radii follow."""
    flags = {"mean": (0.0,), "std": (2.0,)}
    halved, plain = run(folder, image_flags=flags).model, run(folder).model
    assert halved.bounds is not None and plain.bounds is not None
    assert halved.bounds.product == pytest.approx(plain.bounds.product / 2, rel=1e-6)


def test_certified_accuracy_never_grows_with_eps(folder: Path) -> None:
    found = run(folder).model
    shares = [found.certified(eps).mean() for eps in np.linspace(1e-6, 1, 60)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == found.right.mean()
    assert shares[-1] == 0


def test_two_models_are_compared_image_by_image(folder: Path) -> None:
    result = run(folder, original="other", eps=0.15)
    assert result.original is not None and result.difference is not None
    before, after = (one.certified(0.15) for one in (result.original, result.model))
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    assert (result.difference.gained, result.difference.lost) == (gained, lost)
    assert gained > 0
    assert result.difference.p == mcnemar(gained, lost)
    alone = run(folder, eps=0.15)
    np.testing.assert_array_equal(alone.model.radii_l2, result.model.radii_l2)
    assert alone.difference is None
    assert run(folder, original="other").difference is None


def test_a_gate_is_about_the_model_and_not_the_original(folder: Path) -> None:
    share = float(run(folder, eps=0.15).model.certified(0.15).mean())
    assert run(folder, eps=0.15, min_certified_accuracy=share).failed_gates == ()
    other = run(folder, "other", original="model", eps=0.15, min_certified_accuracy=share)
    (failed,) = other.failed_gates
    assert failed.startswith("certified accuracy is ")


def test_guessing_is_told_of_the_model_itself(folder: Path) -> None:
    pixels, labels = small.images()
    wrong = (pixels, (labels + 1) % small.CLASSES)
    (note,) = run(folder, data=wrong).notes
    assert note.startswith("the model is right on 0.00 % of 24 images, which chance")
    assert run(folder).notes == ()


# Smoothing


def test_smoothed_radii_are_those_of_the_votes(folder: Path) -> None:
    found = run(folder, method="smoothing", smoothing=SMOOTHING, eps=0.05).model
    assert found.bounds is None
    assert found.radii_l2.tolist() == [one.radius_l2 for one in found.outcomes]
    labels = [-1 if one.label is None else one.label for one in found.outcomes]
    assert found.labels.tolist() == labels
    assert 0 < found.certified(0.05).mean() <= found.right.mean()


def test_the_batch_changes_no_count(folder: Path) -> None:
    ask = {"method": "smoothing", "smoothing": SMOOTHING, "samples": 4}
    first, second = run(folder, **ask), run(folder, batch_size=7, **ask)
    assert first.model.outcomes == second.model.outcomes


def test_interrupted_smoothing_of_two_models_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = {"original": "other", "method": "smoothing", "smoothing": SMOOTHING, "samples": 6}
    told = []

    def stop(line: str) -> None:
        told.append(line)
        if len(told) == 9:  # in the second model
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after 3 finished images; what was counted is in"):
        run(folder, journal=tmp_path / "kept", notify=stop, **ask)
    lines: list[str] = []
    result = run(folder, journal=tmp_path / "kept", notify=lines.append, **ask)
    assert len(lines) == 3, "what was finished is not counted again"
    whole = run(folder, **ask)
    assert result.model.outcomes == whole.model.outcomes
    assert result.original is not None and whole.original is not None
    assert result.original.outcomes == whole.original.outcomes


# What is refused


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("attention", r"node 'Mul_3' \(Mul\) multiplies two activations.*--method smoothing"),
        ("qdq", r"node 'QuantizeLinear_3' .* rounds to int8.* a step has no finite"),
        ("half", r"'half.onnx' has no Lipschitz bound: node '\w+' .* computes in float16"),
        ("fixed", r"'fixed.onnx' takes 8 images at once, .*export it with a dynamic batch"),
    ],
)
def test_a_part_without_a_bound_is_named(folder: Path, model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(folder, model)


def test_what_has_no_bound_can_be_smoothed(folder: Path) -> None:
    for model in ("attention", "qdq", "fixed"):
        result = run(folder, model, method="smoothing", smoothing=SMOOTHING, samples=2)
        assert len(result.model.outcomes) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "crown"}, OptionError, "method 'crown' is unknown: use lipschitz or smo"),
        (
            {"norm": "linf"},
            OptionError,
            "norm 'linf' is not certified: both",
        ),
        (
            {"method": "smoothing"},
            OptionError,
            "method 'smoothing' with smoothing = None",
        ),
        (
            {"smoothing": SMOOTHING},
            OptionError,
            "give settings .--sigma. for method",
        ),
        ({"eps": 0}, OptionError, "eps = 0 is out of range: it must be above 0"),
        ({"eps": -0.5}, OptionError, "eps = -0.5 is out of range"),
        ({"eps": float("inf")}, OptionError, "eps = inf is out of range"),
        ({"eps": "lots"}, OptionError, "eps 'lots' is no number: give an l2 radius in pixel"),
        ({"eps": [1]}, OptionError, r"eps '\[1\]' is no number"),
        ({"min_certified_accuracy": 0.5}, OptionError, "is about a radius, and none is named"),
        ({"min_certified_accuracy": 30, "eps": 1}, OptionError, "30 is out of range: give a"),
        (
            {"batch_size": 0},
            OptionError,
            "--batch-size 0 is out of range: it must be",
        ),
        ({"batch_size": -4}, OptionError, "--batch-size -4 is out of range"),
        ({"scores": "z"}, ModelError, "'model.onnx' has no output 'z'"),
        ({"samples": 0}, LipCompileError, "samples is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    folder: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(folder, **options)


def test_radii_of_smoothing_that_do_not_fit_are_refused(folder: Path) -> None:
    test = SmoothingOptions(sigma=0.1, procedure="test", radius=0.05)
    with pytest.raises(OptionError, match="eps = 0.1 and the radius 0.05 of the test differ"):
        run(folder, method="smoothing", smoothing=test, eps=0.1)
    predict = SmoothingOptions(sigma=0.1, procedure="predict")
    with pytest.raises(OptionError, match=r"certifies no radius: leave --eps 0.1 out, or use"):
        run(folder, method="smoothing", smoothing=predict, eps=0.1)


def test_labels_that_are_missing_or_too_large_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="no labels found for .*pass --labels"):
        run(folder, data=folder / "unlabelled.npy")
    pixels, labels = small.images()
    with pytest.raises(DataError, match="label 9 of .* has 4 outputs, so labels are 0 to 3"):
        run(folder, data=(pixels, np.where(labels == labels[0], 9, labels)))


def test_models_that_take_other_images_are_not_compared(folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot be compared on the same images"):
        run(folder, original="half")


def test_a_hardened_model_is_compared_with_its_own_original(
    folder: Path, tmp_path: Path
) -> None:
    pixels, _ = small.images(64)
    soft, data = tmp_path / "soft.onnx", folder / "test.npz"
    every = lipcompile.Selector("all")
    lipcompile.harden(folder / "model.onnx", pixels, form="soft", selector=every, output=soft)
    with pytest.raises(ModelError, match=r"was made from a model with digest sha256:\w+\.\."):
        certify(soft, data, original=folder / "other.onnx")
    own = certify(soft, data, original=folder / "model.onnx")
    assert own.original is not None
    assert own.model.source == own.original.digest


def test_a_journal_that_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"journal folder .*cannot be made \(File exists\)"):
        run(folder, method="smoothing", smoothing=SMOOTHING, journal=tmp_path / "file")


def test_bounds_need_no_scipy(folder: Path) -> None:
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from lipcompile.cli import main\n"
        "sys.exit(main.run(['harden', 'model.onnx', '--abstain', '0.1', '-o', 'head.onnx']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr


def test_without_scipy_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from lipcompile.cli import main\n"
        "sys.exit(main.run(['certify', 'model.onnx', '--data', 'test.npz']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("error: this needs the package 'scipy'")
    assert 'pip install "lipcompile[certify]"' in done.stderr
