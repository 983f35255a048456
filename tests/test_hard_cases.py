"""Cases that once gave a wrong number or a wrong model without a word."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import lipcompile
from lipcompile import RuntimeOptions, ScanOptions, Selector
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.errors import OptionError
from lipcompile.forged import make_form
from lipcompile.runtime import open_session

ALL = Selector("all")
HEADER = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'


def model(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = parser.parse_model(HEADER + body)
    for name, weight in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(weight.astype("float32"), name))
    return proto


def absmax(proto: onnx.ModelProto, data: object, **options: Any) -> list[float]:
    scan = ScanOptions(**options)
    table = lipcompile.calibrate(proto, data, selector=ALL, scan=scan)
    return [site.absmax for site in table.sites]


# Calibration

SCALED = """
g (float[n, 4] x, float t) => (float[n, 3] y) { a = Mul(x, t) r = Relu(a) y = MatMul(r, w) }
"""


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_samples_with_different_scalar_inputs_do_not_ride_together(batch_size: int | None):
    data = [{"x": np.ones(4, "float32"), "t": np.float32(k)} for k in (1, 5, 9)]
    scaled = model(SCALED, w=np.ones((4, 3)))
    assert absmax(scaled, data, batch_size=batch_size) == [9.0]


def test_a_column_of_scalars_is_paired_with_the_rows():
    x = np.float32([[1] * 4, [10] * 4, [100] * 4])
    data = {"x": x, "t": np.float32([100, 10, 1])}
    assert absmax(model(SCALED, w=np.ones((4, 3))), data) == [100.0]


def test_float16_sums_do_not_make_every_sample_a_suspect(monkeypatch: pytest.MonkeyPatch):
    from lipcompile.calibration import tapped

    opened = []
    real = tapped.runtime.open_session
    monkeypatch.setattr(
        tapped.runtime, "open_session", lambda *a: opened.append(1) or real(*a)
    )
    text = "g (float16[n, 4096] x) => (float16[n, 2] y) { r = Relu(x) y = MatMul(r, w) }"
    proto = parser.parse_model(HEADER + text)
    weight = numpy_helper.from_array(np.zeros((4096, 2), "float16"), "w")
    proto.graph.initializer.append(weight)
    data = np.full((20, 4096), 100, "float16")
    assert absmax(proto, data) == [100.0]
    assert len(opened) == 1


def test_policies_and_flags_that_mean_nothing_are_refused():
    with pytest.raises(OptionError, match="on_nonfinite = 'error' is unknown"):
        ScanOptions(on_nonfinite="error")  # type: ignore[arg-type]
    x = np.ones((2, 4), "float32")
    text = "g (float[n, 4] x) => (float[n, 3] y) { r = Relu(x) y = MatMul(r, w) }"
    plain = model(text, w=np.ones((4, 3)))
    with pytest.raises(OptionError, match="holds arrays, which are fed as they are"):
        absmax(plain, x, image_flags={"mean": 1.0})


# Operators that bear a standard name, and are others

LEAKY = """
g (float[n, 4] x) => (float[n, 3] y) { z = Neg(x) r = my.Relu(z) y = MatMul(r, w) }
<domain: "my", opset_import: ["" : 17]>
Relu (a) => (b) { b = LeakyRelu <alpha = 0.5> (a) }
"""


@pytest.mark.parametrize(
    ("form", "first"), [("smooth", "Abs"), ("hard", "Abs"), ("soft", "Clip")]
)
def test_a_local_function_called_relu_is_no_relu(form: str, first: str):
    leaky = model(LEAKY, w=np.eye(4, 3))
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    result = lipcompile.harden(leaky, x, form=form, cr=0.3, selector=ALL)
    (row,) = [row for row in result.rows if row.selected]
    assert row.encoding is not None
    assert row.encoding.split(", ")[0] == first  # as for a site of either sign
    site = np.where(-x > 0, -x, -0.5 * x)
    assert row.absmax == pytest.approx(np.abs(site).max())
    assert row.c is not None
    session = open_session(result.model.SerializeToString(), RuntimeOptions())
    y = session.run(["y"], {"x": x})["y"]
    expected = make_form(form)(site, row.c)[:, :3]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_a_bound_that_a_caller_may_override_says_nothing_of_signs():
    text = """
    g (float[n, 4] x, float lo) => (float[n, 3] y) { r = Clip(x, lo) y = MatMul(r, w) }
    """
    clipped = model(text, w=np.eye(4, 3), lo=np.array(0.0))
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    result = lipcompile.harden(clipped, x, selector=ALL, form="hard")
    (row,) = [row for row in result.rows if row.selected]
    assert row.encoding == "Abs, Greater, Where"


def test_the_digest_knows_defaults_of_functions():
    def leaky(alpha: float) -> onnx.ModelProto:
        proto = model(LEAKY.replace("<alpha = 0.5>", f"<alpha = {alpha}>"), w=np.eye(4, 3))
        proto.functions[0].opset_import[0].version = 17
        return proto

    digests = {lipcompile.inspect(leaky(alpha)).digest for alpha in (0.1, 0.5)}
    versions = leaky(0.1)
    versions.functions[0].opset_import[0].version = 16
    digests.add(lipcompile.inspect(versions).digest)
    assert len(digests) == 3


# What is said of the result


def test_whole_batches_are_compared_row_by_row():
    x = np.random.default_rng(0).uniform(size=(60, 1, 28, 28)).astype("float32")
    options = {"cr": 0.3, "form": "hard", "dry_run": True}
    rows = lipcompile.harden(MODEL, x, **options).agreement
    batches = lipcompile.harden(MODEL, [{"image": x[:25]}, {"image": x[25:]}], **options)
    assert batches.agreement is not None
    assert rows is not None
    assert batches.agreement.top1 == rows.top1


def test_no_agreement_at_all_is_a_warning():
    result = lipcompile.harden(MODEL, CALIBRATION, cr=0.9, form="hard", dry_run=True)
    assert result.agreement is not None
    result = type(result)(
        **{f: getattr(result, f) for f in result.__slots__ if f != "agreement"},
        agreement=type(result.agreement)(10, 0.0, 1.0),
    )
    assert "often disagrees" in str(result)


def test_files_of_another_name_give_the_same_bytes(tmp_path: Path):
    shutil.copy(MODEL, tmp_path / "other.onnx")
    shutil.copytree(CALIBRATION, tmp_path / "images")
    scan = ScanOptions(samples=20)
    outputs = [tmp_path / "a", tmp_path / "b"]
    lipcompile.harden(MODEL, CALIBRATION, scan=scan, output=outputs[0])
    lipcompile.harden(
        tmp_path / "other.onnx", tmp_path / "images", scan=scan, output=outputs[1]
    )
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_provenance_drops_parameters_of_an_earlier_form():
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    text = """
    g (float[n, 4] x) => (float[n, 3] y) { a = MatMul(x, v) r = Relu(a) b = MatMul(r, v)
    s = Relu(b) y = MatMul(s, w) }
    """
    net = model(text, v=np.eye(4), w=np.eye(4, 3))
    first = lipcompile.harden(net, x, selector=Selector("all", include=("b",)))
    again = Selector("all", exclude=("b",))
    second = lipcompile.harden(first.model, x, selector=again, form="hard", force=True)
    keys = {p.key for p in second.model.metadata_props}
    assert "lipcompile.a" in {p.key for p in first.model.metadata_props}
    assert "lipcompile.a" not in keys
    assert {"lipcompile.form", "lipcompile.sites"} <= keys


def test_provenance_keeps_what_was_inlined_when_more_layers_are_hardened():
    text = """
    g (float[n, 4] x) => (float[n, 4] y) { r = Relu(x) a = my.Dense(r, v) s = Relu(a)
    y = MatMul(s, v) }
    <domain: "my", opset_import: ["" : 17]>
    Dense (a, w) => (b) { b = MatMul(a, w) }
    """
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    first = lipcompile.harden(model(text, v=np.eye(4)), x, selector=Selector("all", ("^y$",)))
    second = lipcompile.harden(first.model, x, selector=ALL, force=True)
    for result in (first, second):
        metadata = {p.key: p.value for p in result.model.metadata_props}
        assert metadata["lipcompile.inlined"] == '["Dense"]'


# External data


def external(folder: Path, fill: float) -> Path:
    """A model with 1 MiB of weights beside it, whose middle (off the samples) is `fill`."""
    weight = np.ones((512, 512), "float32")
    weight.reshape(-1)[5000:5010] = fill
    text = """
    g (float[n, 512] x) => (float[n, 512] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }
    """
    folder.mkdir()
    path = folder / "m.onnx"
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(model(text, w=weight), path, **options)
    return path


X = np.ones((2, 512), "float32")


def test_data_of_other_bytes_is_never_overwritten(tmp_path: Path, monkeypatch: Any):
    from lipcompile.model_io import saving

    output = tmp_path / "out.onnx"
    first = lipcompile.harden(external(tmp_path / "a", 1.0), X, selector=ALL, output=output)
    before = {path.name: path.read_bytes() for path in first.files}
    changed = external(tmp_path / "b", 2.0)
    assert (
        lipcompile.inspect(changed).digest == lipcompile.inspect(tmp_path / "a/m.onnx").digest
    )

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        lipcompile.harden(changed, X, selector=ALL, output=output, force=True)
    left = {path.name: path.read_bytes() for path in tmp_path.glob("out.onnx*")}
    assert left == before


def test_data_that_another_model_names_is_kept(tmp_path: Path):
    output = tmp_path / "out.onnx"
    first = lipcompile.harden(external(tmp_path / "a", 1.0), X, selector=ALL, output=output)
    shutil.copy(output, tmp_path / "keep.onnx")
    other = external(tmp_path / "b", 2.0)
    lipcompile.harden(other, X, selector=ALL, output=output, force=True)
    assert first.files[1].exists()
    (tmp_path / "keep.onnx").unlink()
    third = external(tmp_path / "c", 3.0)
    last = lipcompile.harden(third, X, selector=ALL, output=output, force=True)
    assert set(tmp_path.glob("out.onnx*")) == set(last.files)
