"""What thresholds do to layers, against a direct count in NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lipcompile.errors import DataError
from lipcompile.sweeping import strength
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.singular import masked_ratios
from lipcompile.sweeping.strength import LayerStrength, singular_of, suppressed_of
from tests.forging import CONV_IN, CONV_OUT, model, rows
from tests.sweeping.benches import bench, classifier, labelled, measured, pixels, tensors

C_RS = (2**-6, 2**-3, 0.3)
BODIES = {
    "one site": "h = Tanh(x) y = MatMul(h, W)",
    "behind a ReLU": "h = Relu(x) y = Gemm(h, W, B)",
    "two layers of a site": "h = Relu(x) a = MatMul(h, W) b = Gemm(h, V, B) y = Add(a, b)",
    "QDQ": "r = Relu(x) q = QuantizeLinear(r, S, U) h = DequantizeLinear(q, S, U) "
    "v = DequantizeLinear(QW, S, Z) y = MatMul(h, v)",
}


def share(h: np.ndarray, c: float) -> float:
    return float((~(np.abs(h) > np.asarray(c, h.dtype))).mean())


@pytest.mark.parametrize("name", BODIES)
def test_suppressed_shares_are_a_count(name: str) -> None:
    proto = model(BODIES[name], V=np.ones((4, 4), np.float32))
    x = rows(37)
    found, selection, table = measured(proto, x, C_RS)
    (h,) = tensors(proto, {"x": x}, ["h"])
    largest = float(np.abs(h).max())
    for layer in selection.layers:
        mine = [row for (owner, _), row in found.rows.items() if owner == layer.name]
        assert [row.c_r for row in mine] == [0.0, *C_RS]
        for row in mine:
            assert row.c == pytest.approx(row.c_r * largest, rel=1e-6)
            assert row.suppressed == pytest.approx(share(h, row.c), abs=1e-12)
    assert {row.layer for row in found.baseline} == {x.name for x in selection.layers}
    assert all(row.suppressed == share(h, 0.0) for row in found.baseline)
    assert table.complete


def test_float16_compares_with_the_rounded_threshold() -> None:
    proto = model(
        "h = Relu(x) y = MatMul(h, W)",
        outputs="float16[N,4] y",
        inputs="float16[N,4] x",
        W=np.eye(4, dtype=np.float16),
    )
    x = rows(40, "float16")
    found, _, _ = measured(proto, x, C_RS)
    (h,) = tensors(proto, {"x": x}, ["h"])
    for (_, c_r), row in found.rows.items():
        assert row.c == float(np.float16(c_r * float(h.max())))
        assert row.suppressed == pytest.approx(share(h, row.c), abs=1e-12)
        assert row.singular_mean is not None


def test_a_convolution_in_groups_counts_and_masks_by_channel() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 2, 3, 3)).astype(np.float32)
    proto = model(
        "h = Relu(x) y = Conv<group = 2, pads = [1,1,1,1]>(h, KG)",
        inputs="float[N,4,6,6] x",
        outputs="float[N,6,6,6] y",
        KG=weight,
    )
    x = rng.normal(size=(9, 4, 6, 6)).astype(np.float32)
    found, _, _ = measured(proto, x, C_RS)
    (h,) = tensors(proto, {"x": x}, ["h"])
    values = []
    for row in found.rows.values():
        assert row.suppressed == pytest.approx(share(h, row.c), abs=1e-12)
        assert row.singular_mean is not None and row.singular_worst is not None
        assert 0 < row.singular_mean <= row.singular_worst <= 1
        values.append(row.singular_mean)
    assert values == sorted(values, reverse=True) and values[-1] < values[0]


def test_ratios_are_those_of_the_vectors_that_were_drawn() -> None:
    """At most 64 samples: every vector of a Gemm is drawn, so that the mean is known."""
    proto = model(BODIES["behind a ReLU"])
    x = rows(30)
    found, _, _ = measured(proto, x, C_RS)
    (h,) = tensors(proto, {"x": x}, ["h"])
    weight = onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer))
    for row in found.rows.values():
        kept = (h > np.float32(row.c)).T[None]
        ratios = masked_ratios(weight.T[None], kept)
        assert row.singular_mean == pytest.approx(ratios.mean(), rel=1e-6)
        assert row.singular_worst == pytest.approx(ratios.max(), rel=1e-6)


def test_a_fixed_batch_is_not_divided() -> None:
    proto = model("h = Relu(x) y = Conv(h, E)", CONV_OUT, CONV_IN)
    x = np.random.default_rng(0).normal(size=(5, 4, 6, 6)).astype(np.float32)
    found, _, _ = measured(proto, x, C_RS)
    assert all(row.singular_mean is not None for row in found.rows.values())


def test_a_weight_that_is_no_matrix_has_no_ratio() -> None:
    proto = model(
        "h = Relu(x) y = MatMul(h, S3)",
        inputs="float[2,5,4] x",
        outputs="float[2,5,4] y",
        S3=np.ones((2, 4, 4), np.float32),
    )
    x = np.random.default_rng(0).normal(size=(4, 5, 4)).astype(np.float32)
    found, _, _ = measured(proto, x, C_RS)
    assert {row.singular_mean for row in found.rows.values()} == {None}
    assert singular_of(found.baseline) is None
    assert suppressed_of(found.baseline) is not None


def test_many_sites_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, x = classifier(), pixels(20)
    whole, _, _ = measured(proto, x, C_RS)
    assert len(whole.baseline) == 3
    monkeypatch.setattr(strength, "_TOGETHER", 1)
    parts, _, _ = measured(proto, x, C_RS)
    assert list(parts.rows) == list(whole.rows)
    assert [row.suppressed for row in parts.rows.values()] == [
        row.suppressed for row in whole.rows.values()
    ]


def test_a_dead_layer_is_named() -> None:
    proto = model("n = Neg(x) m = Relu(n) z = Mul(m, ZERO) y = MatMul(z, W)")
    with pytest.raises(DataError, match=r"calibration maximum is 0\.0 over 8 samples"):
        measured(proto, rows(8), C_RS)


# Variant weight


def dead_channels() -> onnx.ModelProto:
    """Its second Gemm has two inputs that a ReLU leaves 0, and one that is small."""
    proto = classifier()
    arrays = {t.name: t for t in proto.graph.initializer}
    weight = onnx.numpy_helper.to_array(arrays["W0"]).copy()
    bias = onnx.numpy_helper.to_array(arrays["B0"]).copy()
    bias[:2], weight[:, :3], bias[2] = -100, 0, 1e-3
    for name, array in (("W0", weight), ("B0", bias)):
        arrays[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    return proto


def test_zeroed_columns_count_beside_inputs_that_are_0_anyway() -> None:
    proto, x = dead_channels(), pixels(40)
    made = bench(proto, x, labelled(proto, 20), [Setting(None, 2**-6, 1.0)])
    task, compiled = made.build(Setting(None, 2**-6, 1.0))
    rows = {row.layer: row for row in made.try_out(Setting(None, 2**-6, 1.0)).layers}
    assert list(rows) == [layer.name for layer in task.selection.layers]
    zeroed = {plan.layer.name: plan.columns for plan in compiled.done.plans}  # type: ignore[union-attr]
    assert set(zeroed["fc.1+"]) >= {0, 1, 2}
    (h,) = tensors(proto, {"x": x}, ["r"])
    gone = h == 0
    gone[:, list(zeroed["fc.1+"])] = True
    row = rows["fc.1+"]
    assert row.suppressed == pytest.approx(gone.mean(), abs=1e-12)
    weight = onnx.numpy_helper.to_array(
        next(t for t in proto.graph.initializer if t.name == "W1")
    )
    ratios = masked_ratios(weight.T[None], ~gone.T[None])
    assert row.singular_mean == pytest.approx(ratios.mean(), rel=1e-5)
    assert row.singular_worst == pytest.approx(ratios.max(), rel=1e-5)


def test_a_layer_that_keeps_its_columns_is_as_without_hardening() -> None:
    """So that a setting and the baseline speak of the same layers."""
    proto, x = dead_channels(), pixels(40)
    setting = Setting(None, 2**-12, 1.0)
    made = bench(proto, x, labelled(proto, 20), [setting])
    assert made.strengths is not None
    before = {row.layer: row for row in made.strengths.baseline}
    rows = made.try_out(setting).layers
    assert len(rows) == len(before) == 3
    for row in rows:
        assert row.suppressed is not None
        assert row.suppressed >= (before[row.layer].suppressed or 0) - 1e-12
        assert row.singular_mean is not None
        assert row.singular_mean <= (before[row.layer].singular_mean or 0) + 1e-9
    assert any(row.suppressed == before[row.layer].suppressed for row in rows)


def test_means_leave_out_what_is_unknown() -> None:
    known = LayerStrength("a", 0.1, 0.2, 0.5, 0.9, 0.8)
    other = LayerStrength("b", 0.1, 0.2, 0.1, 1.0, 0.4)
    unknown = LayerStrength("c", 0.1, 0.2, None, None, None)
    assert singular_of([known, other, unknown]) == (pytest.approx(0.6), 1.0)
    assert suppressed_of([known, other, unknown]) == pytest.approx(0.3)
    assert singular_of([unknown]) is None
    assert suppressed_of([unknown]) is None


# Planted


def test_planted_strict_comparison_is_caught() -> None:
    """What lies on the threshold is suppressed: a count of |x| < c would differ."""
    x = (np.random.default_rng(0).integers(-8, 9, (50, 4)) / 8).astype(np.float32)
    proto = model("h = Identity(x) y = MatMul(h, W)")
    found, _, _ = measured(proto, x, [0.125])
    row = next(row for row in found.rows.values() if row.c_r)
    assert row.suppressed == pytest.approx(share(x, 0.125), abs=1e-12)
    assert row.suppressed != pytest.approx((np.abs(x) < 0.125).mean(), abs=1e-3)
