"""smooth(): what it proves of a linear classifier is known, and nothing outside decides it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from lipcompile.certifying.smoothing import Outcome, SmoothingOptions, SmoothingRun, smooth
from lipcompile.certifying.smoothing import counting as counting_module
from lipcompile.certifying.smoothing import journal as journal_module
from lipcompile.errors import DataError, Interrupted
from lipcompile.labelled import LabelledImages, Normalisation
from lipcompile.runtime import RuntimeOptions
from lipcompile.statistics import lower_limit
from tests.certifying.smoothing.classifiers import (
    BIAS,
    DIMS,
    WEIGHTS,
    images,
    loaded,
    proto,
)

COLOURS = Normalisation(scale=2.0, mean=(0.9, 1.1), std=(0.5, 2.0))
OPTIONS = SmoothingOptions(0.3, n0=50, n=1000, seed=1)


def run(
    options: SmoothingOptions = OPTIONS,
    data: LabelledImages | None = None,
    threads: int = 1,
    **more: object,
) -> SmoothingRun:
    runtime = RuntimeOptions(threads=threads)
    return smooth(loaded(), data or images(), options, runtime, **more)  # type: ignore[arg-type]


# A linear classifier


def two_classes(count: int) -> tuple[LabelledImages, np.ndarray]:
    """Images, and the l2 distance of each from where classes 0 and 1 meet, in pixels.

    Class 2 is far away. A step on a pixel is a step of scale / std on the model's input.
    """
    data = images(count, COLOURS, seed=2)
    slope = (WEIGHTS[:, 0] - WEIGHTS[:, 1]).astype(np.float64)
    factor = np.repeat(2.0 / np.array(COLOURS.std), 9)
    scores = COLOURS(data.pixels).reshape(count, -1).astype(np.float64) @ slope
    gap = scores + BIAS[0] - BIAS[1]
    return data, np.abs(gap) / np.linalg.norm(slope * factor)


def linear(sigma: float, n: int) -> tuple[SmoothingRun, np.ndarray]:
    weights = np.array(WEIGHTS)
    weights[:, 2] = 0
    bias = np.array([BIAS[0], BIAS[1], -1000], np.float32)
    body = "f = Flatten (x)  y = Gemm (f, V, C)"
    data, radii = two_classes(8)
    options = SmoothingOptions(sigma, n0=200, n=n)
    model = loaded(body, V=weights, C=bias)
    return smooth(model, data, options, RuntimeOptions(threads=1)), radii


def far_off(found: SmoothingRun, radii: np.ndarray) -> float:
    """Largest |successes - n p| in standard deviations, where p = Phi(distance / sigma)."""
    p = special.ndtr(radii / found.options.sigma)
    n = np.array([outcome.draws for outcome in found.outcomes])
    successes = np.array([outcome.successes for outcome in found.outcomes])
    return float((np.abs(successes - n * p) / np.sqrt(n * p * (1 - p) + 1)).max())


def test_radius_of_a_linear_classifier_is_its_distance_from_the_boundary() -> None:
    found, radii = linear(0.3, 20_000)
    assert radii.min() < 0.3 < radii.max()
    assert far_off(found, radii) < 4.5
    for outcome, true in zip(found.outcomes, radii, strict=True):
        p = lower_limit(outcome.successes, 20_000, 0.001)
        assert outcome.radius_l2 == pytest.approx(max(0.3 * special.ndtri(p), 0))
        assert outcome.radius_l2 <= true
        wide = special.ndtr(true / 0.3) * (1 - special.ndtr(true / 0.3)) / 20_000
        least = special.ndtri(special.ndtr(true / 0.3) - 8 * wide**0.5 - 1e-3)
        assert outcome.radius_l2 >= 0.3 * least


def test_planted_noise_before_normalisation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sigma on the model's input instead of the pixels: the same check sees it."""

    def planted(_: Normalisation, sigma: float, dims: tuple[int, ...]) -> np.ndarray:
        return np.full((1, *dims), sigma, np.float32)

    monkeypatch.setattr(counting_module, "input_sigma", planted)
    assert far_off(*linear(0.3, 2000)) > 20


def test_sequential_test_agrees_with_the_known_radius() -> None:
    data, radii = two_classes(8)
    weights = np.array(WEIGHTS)
    weights[:, 2] = 0
    bias = np.array([BIAS[0], BIAS[1], -1000], np.float32)
    model = loaded("f = Flatten (x)  y = Gemm (f, V, C)", V=weights, C=bias)
    asked = SmoothingOptions(0.3, "test", radius=float(np.sort(radii)[3:5].mean()))
    found = smooth(model, data, asked, RuntimeOptions(threads=1))
    for outcome, true in zip(found.outcomes, radii, strict=True):
        assert outcome.answer == ("yes" if true > asked.radius else "no")
        assert outcome.draws < 20_000


# What must not matter, and what must


def test_batch_threads_order_and_company_change_nothing() -> None:
    whole = run().outcomes
    assert len({outcome.successes for outcome in whole}) > 1
    for batch in (1, 5, 64, 5000):
        assert run(replace(OPTIONS, batch=batch)).outcomes == whole
    assert run(threads=3).outcomes == whole
    backwards = images().subset(np.array([2, 0]))
    assert run(data=backwards).outcomes == (whole[2], whole[0])


def test_seed_changes_the_draws() -> None:
    first, second = (run(replace(OPTIONS, seed=seed)) for seed in (1, 2))
    assert [o.successes for o in first.outcomes] != [o.successes for o in second.outcomes]


def test_predict_names_the_class_of_the_votes() -> None:
    found = run(SmoothingOptions(0.05, "predict", n=500))
    scores = images().pixels.reshape(3, -1) @ WEIGHTS + BIAS
    assert [o.label for o in found.outcomes] == scores.argmax(axis=1).tolist()
    assert found.draws == 1500


def test_result_tells_accuracy_and_becomes_json() -> None:
    lines: list[str] = []
    found = run(notify=lines.append)
    assert len(lines) == 3
    assert lines[0].startswith("image 1 of 3: certified: class ")
    outcomes = (
        Outcome("certified", 0, 0.5, 0, 9, 10, 1, 0.9),
        Outcome("certified", 0, 0.5, 0, 9, 10, 1, 0.9),
        Outcome("abstained", None, 0.0, 2, 5, 10, 1, 0.4),
    )
    made = replace(found, outcomes=outcomes)  # the labels are 0, 1, 2
    assert made.right.tolist() == [True, False, False]
    assert made.radii_l2.tolist() == [0.5, 0.0, 0.0]
    assert made.certified_accuracy(0.5) == pytest.approx(1 / 3)
    assert made.certified_accuracy(0.51) == 0
    content = json.loads(json.dumps(found.to_json()))
    assert content["outcomes"][0]["radius_l2"] == found.outcomes[0].radius_l2
    assert content["options"]["sigma"] == 0.3
    assert found.draws == 3 * 1050


def test_label_without_a_score_is_refused() -> None:
    data = replace(images(), labels=np.array([0, 1, 3]))
    with pytest.raises(DataError, match="label 3 of 'image\\[2\\]' has no score"):
        run(data=data)


# Interruptions


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SECONDS", 0.0)


def interrupted_after(saves: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C behind so many writes of the journal."""
    left, save = [saves], journal_module.Journal.save

    def stopping(self: journal_module.Journal, progress: journal_module.Progress) -> None:
        save(self, progress)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "save", stopping)
        with pytest.raises(
            Interrupted, match=f"what was counted is in '{path}': run the same"
        ):
            run(replace(OPTIONS, batch=64), journal=path)


@pytest.mark.parametrize("saves", [1, 5, 17, 19, 30])
def test_interrupted_run_goes_on_where_it_stopped(
    saves: int, tmp_path: Path, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.json"
    interrupted_after(saves, path, monkeypatch)
    counted = json.loads(path.read_bytes())["progress"]
    drawn: list[int] = []
    count = counting_module.CountingModel.count

    def spy(
        self: object, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray
    ) -> np.ndarray:
        drawn.append(len(noise))
        return count(self, image, noise, sigma)  # type: ignore[arg-type]

    monkeypatch.setattr(counting_module.CountingModel, "count", spy)
    found = run(journal=path)
    assert found.outcomes == run().outcomes[:3]
    assert found.notes == ()
    known = 1050 * len(counted["outcomes"])
    known += counted["tally"]["selection"] + counted["tally"]["draws"]
    assert known > 0
    assert sum(drawn) == 2 * 3150 - known, "nothing known was drawn again"


def test_finished_journal_gives_the_result_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    first = run(journal=path)
    content = path.read_bytes()
    assert run(journal=path).outcomes == first.outcomes
    assert path.read_bytes() == content


OTHERS = {
    "sigma": replace(OPTIONS, sigma=0.31),
    "seed": replace(OPTIONS, seed=2),
    "n": replace(OPTIONS, n=1001),
    "n0": replace(OPTIONS, n0=51),
    "alpha": replace(OPTIONS, alpha=0.002),
    "procedure": replace(OPTIONS, procedure="predict"),
    "radius": replace(OPTIONS, procedure="test", radius=0.1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_journal_of_other_options_is_not_gone_on_from(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    run(journal=path)
    found = run(OTHERS[name], journal=path)
    assert found.outcomes == run(OTHERS[name]).outcomes
    (note,) = found.notes
    assert note.endswith("is of another model, other data or other settings: started afresh")


def test_journal_of_another_model_other_data_or_normalisation_is_not_gone_on_from(
    tmp_path: Path,
) -> None:
    path, runtime = tmp_path / "journal.json", RuntimeOptions(threads=1)
    other = loaded(B=np.array([0, 0, 5], np.float32))
    for model, data in (
        (other, images()),
        (loaded(), images(seed=9)),
        (loaded(), images(normalisation=COLOURS)),
    ):
        run(journal=path)
        found = smooth(model, data, OPTIONS, runtime, journal=path)
        assert "started afresh" in found.notes[0]
        assert found.outcomes == smooth(model, data, OPTIONS, runtime).outcomes


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "no JSON": lambda content: b"\xff\x00" + content,
    "a list": lambda content: b"[]",
    "nested": lambda content: b"[" * 100_000,
    "forged radius": lambda content: content.replace(
        b'"radius_l2": 0.', b'"radius_l2": 9.', 1
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_journal_is_told_and_not_trusted(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    first = run(journal=path)
    damaged = DAMAGE[name](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    found = run(journal=path)
    assert found.outcomes == first.outcomes
    (note,) = found.notes
    assert f"the journal '{path}' is damaged" in note
    assert note.endswith("started afresh")


def test_journal_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "journal.json"
    found = run(journal=path)
    assert found.outcomes == run().outcomes
    (note,) = found.notes
    assert "could not be written" in note


_PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from lipcompile import model_io
from lipcompile.certifying.smoothing import SmoothingOptions, journal, smooth
from lipcompile.labelled import LabelledImages, Normalisation
from lipcompile.runtime import RuntimeOptions

journal.SECONDS = 0.01
folder = Path(sys.argv[1])
pixels = np.load(folder / "pixels.npy")
labels = np.zeros(len(pixels), np.int64)
names = ("a", "b")
images = LabelledImages(pixels, labels, names, Normalisation(), "made up", 2)
options = SmoothingOptions(0.3, n=int(sys.argv[2]), batch=32)
runtime = RuntimeOptions(threads=2)
model = model_io.load(folder / "net.onnx")
found = smooth(model, images, options, runtime, journal=folder / "journal.json")
print(found.outcomes, found.notes)
"""


def start(folder: Path, draws: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(draws)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_process_comes_to_the_identical_result(tmp_path: Path) -> None:
    draws, path = 60_000, tmp_path / "journal.json"
    (tmp_path / "net.onnx").write_bytes(proto().SerializeToString())
    np.save(tmp_path / "pixels.npy", images(2).pixels)
    seen = b""
    for _ in range(2):
        running = start(tmp_path, draws)
        while running.poll() is None and (not path.exists() or path.read_bytes() == seen):
            time.sleep(0.002)
        running.kill()
        running.communicate()
        assert running.returncode == -9, "it was done before it could be killed"
        seen = path.read_bytes()
    assert json.loads(seen)["progress"]["tally"]["draws"] < draws
    running = start(tmp_path, draws)
    out, err = running.communicate()
    assert running.returncode == 0, err
    data = replace(images(2), labels=np.zeros(2, np.int64))
    whole = smooth(loaded(), data, SmoothingOptions(0.3, n=draws), RuntimeOptions(threads=1))
    assert out.strip() == f"{whole.outcomes} ()"
    assert data.pixels.shape[1:] == DIMS
