"""Gates of `harden`: without a model that was ruined, and in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import model_io
from lipcompile.calibration.probes import Probe
from lipcompile.checks import Agreement
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.errors import OptionError
from lipcompile.gates import Gates
from lipcompile.harden_gates import judge, one_sample, require_data
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions
from tests.hardened import GRAPHS, write

SCAN = lipcompile.ScanOptions(samples=32)


def probe(*shapes: tuple[int, ...], count: int, padding: int = 0) -> Probe:
    feeds = {f"x{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    return Probe(feeds, {}, count, padding)


def loaded(first: int | str) -> LoadedModel:
    """A model whose input has this first axis."""
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{first}, 4] x0) => (float[M, 4] y)'
    )
    return model_io.load(onnx.parser.parse_model(text + "{ y = Relu(x0) }"))


@pytest.mark.parametrize(
    ("first", "run", "shapes"),
    [
        ("N", probe((8, 4), count=8), [(1, 4)]),
        ("N", probe((8, 4), (), count=8), [(1, 4), ()]),
        ("N", probe((8, 4), count=1), [(8, 4)]),  # a complete feed, whatever its axes mean
        (8, probe((8, 4), count=5, padding=3), [(8, 4)]),
    ],
)
def test_one_sample_of_a_run(
    first: int | str, run: Probe, shapes: list[tuple[int, ...]]
) -> None:
    feeds = one_sample(loaded(first), run)
    assert [array.shape for array in feeds.values()] == shapes


def test_gates_need_data() -> None:
    for flag in ("min_agreement", "max_latency_ratio"):
        with pytest.raises(
            OptionError, match=f"--{flag.replace('_', '-')} runs both models on"
        ):
            require_data(Gates(**{flag: 0.5}), None)
        require_data(Gates(**{flag: 0.5}), "calib/")
    require_data(Gates(), None)


def test_agreement_needs_class_scores() -> None:
    model = loaded("N")
    gates = Gates(min_agreement=0.0)
    for agreement in (None, Agreement(3, None, 0.1)):
        match = (
            "compares the classes that both models give, and '.*' gives none .*: nothing was"
        )
        with pytest.raises(OptionError, match=match):
            judge(gates, model, model.proto, (), agreement, RuntimeOptions())


def test_nothing_is_timed_unless_asked() -> None:
    model = loaded("N")
    assert judge(Gates(), model, model.proto, (), None, RuntimeOptions()) == ((), None)


def test_a_latency_gate_measures_one_sample() -> None:
    model = loaded("N")
    run = probe((64, 4), count=64)
    gates, limits = Gates(max_latency_ratio=1e-9), RuntimeOptions(threads=1)
    (gate,), latency = judge(gates, model, model.proto, [run], None, limits)
    assert latency is not None
    assert (latency.pairs, gate.holds) == (50, False)
    assert (
        f"latency ratio is {latency.median:.3f}, above --max-latency-ratio 1e-09"
        == gate.evidence
    )


# In Python


@pytest.mark.parametrize("kind", ["path", "proto"])
def test_a_failed_gate_gives_no_model(kind: str, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"old")
    source = MODEL if kind == "path" else onnx.load(MODEL)
    given = {"cr": "2^-2", "scan": SCAN, "output": output, "force": True}
    result = lipcompile.harden(source, CALIBRATION, min_agreement=0.95, **given)  # type: ignore[arg-type]
    assert (result.model, result.output, result.files, result.digest) == (None, None, (), None)
    assert output.read_bytes() == b"old"
    (gate,) = result.failed_gates
    assert str(result).endswith(
        f"no model was written, since a gate does not hold\ngate failed: {gate}"
    )
    assert gate.endswith("below --min-agreement 95.00 %")
    result = lipcompile.harden(source, CALIBRATION, min_agreement=0.0, **given)  # type: ignore[arg-type]
    assert result.failed_gates == ()
    assert result.model is not None
    assert result.output == output


def test_a_model_without_scores_is_refused_before_it_is_written(tmp_path: Path) -> None:
    path = write(GRAPHS["bias"], tmp_path)
    with pytest.raises(OptionError, match="leave --min-agreement out"):
        lipcompile.harden(
            path, "random:4", cr=0.1, min_agreement=0.5, selector=lipcompile.Selector("all")
        )
    assert list(tmp_path.iterdir()) == [path]
