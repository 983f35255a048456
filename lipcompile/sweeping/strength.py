"""What a threshold does to each layer: how much it suppresses, and what that leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.calibration.probes import Probe
from lipcompile.calibration.table import CalibrationTable
from lipcompile.forged import Hard
from lipcompile.forging import thresholds_of
from lipcompile.layer_cr import LayerCr
from lipcompile.linear_layers import LinearLayer
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.zero_columns import ColumnPlan
from lipcompile.placement import Threshold
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Site
from lipcompile.sweeping.layer_inputs import as_matrices, draw_inputs, spread_features
from lipcompile.sweeping.singular import masked_ratios
from lipcompile.weights import columns_of

VECTORS = 64  # per layer, from as many samples as there are
_TOGETHER = 8  # sites whose tensors leave one session, to bound memory
_ROWS = 4  # samples per run, for the same reason


@dataclass(frozen=True, slots=True)
class LayerStrength:
    """One layer at one threshold.

    Attributes:
        layer: Its name.
        c_r: Relative threshold; 0 for what is 0 anyway, behind a ReLU.
        c: Threshold, in the unit of the layer's input.
        suppressed: Share of its input elements with |x| <= c on the calibration data, as in
            Figure 2 of arXiv 2406.19622; for variant "weight" of those that are 0 or whose
            column is. None where they were not counted.
        singular_worst: Largest singular value of the masked weight over that of the whole:
            the largest ratio over the inputs that were looked at.
        singular_mean: Their mean. Both None where the weight is no matrix.
    """

    layer: str
    c_r: float
    c: float
    suppressed: float | None
    singular_worst: float | None
    singular_mean: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Strengths:
    """Every layer at every c_r that was asked for.

    Attributes:
        rows: By name of the layer and c_r, in graph order; c_r = 0 without any hardening.
        weights: By name of the layer, float32 [G, O, I]; layers without one are absent.
        shapes: Shape of each weight as its operator reads it.
        nonzero: Which inputs are not 0 anyway: bool [G, I, N], for layers in `weights`.
        zeros: How often each input feature is 0 anyway, where that was counted.
    """

    rows: Mapping[tuple[str, float], LayerStrength]
    weights: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    nonzero: Mapping[str, np.ndarray]
    zeros: Mapping[str, np.ndarray]

    @property
    def baseline(self) -> tuple[LayerStrength, ...]:
        """Every layer without any hardening: a ReLU leaves zeros, which mask columns too."""
        return tuple(row for (_, c_r), row in self.rows.items() if c_r == 0.0)

    def at(self, ratios: Mapping[str, float]) -> tuple[LayerStrength, ...]:
        """The layers at c_r of their own; forms do not matter."""
        return tuple(self.rows[item] for item in ratios.items())

    def zeroed(
        self, plans: Sequence[ColumnPlan], thresholds: Sequence[Threshold]
    ) -> tuple[LayerStrength, ...]:
        """Layers with zeroed columns, and those that kept all; inputs that are 0 anyway mask
        columns too, as they do in `baseline`."""
        columns = {plan.layer.name: plan.columns for plan in plans}
        return tuple(
            self._zeroed(layer, threshold, columns.get(layer.name, ()))
            for threshold in thresholds
            for layer in threshold.site.layers
        )

    def _zeroed(
        self, layer: LinearLayer, threshold: Threshold, columns: Sequence[int]
    ) -> LayerStrength:
        name, share = layer.name, None
        if name in self.zeros:
            rates = self.zeros[name].copy()
            rates[list(columns)] = 1.0
            share = float(rates.mean())
        worst, mean = None, None
        if name in self.nonzero:
            left = np.ones(columns_of(layer, self.shapes[name]).count, bool)
            left[list(columns)] = False
            kept = spread_features(layer, self.shapes[name], left) & self.nonzero[name]
            ratios = masked_ratios(self.weights[name], kept)
            worst, mean = float(ratios.max()), float(ratios.mean())
        return LayerStrength(name, threshold.c_r, threshold.c, share, worst, mean)


def singular_of(layers: Sequence[LayerStrength]) -> tuple[float, float] | None:
    """Mean over the layers of the mean singular ratio, and the worst of all; None where no
    weight is a matrix."""
    rows = [x for x in layers if x.singular_mean is not None]
    if not rows:
        return None
    mean = sum(x.singular_mean or 0.0 for x in rows) / len(rows)
    return mean, max(x.singular_worst or 0.0 for x in rows)


def suppressed_of(layers: Sequence[LayerStrength]) -> float | None:
    """Mean over the layers of the suppressed share."""
    known = [x.suppressed for x in layers if x.suppressed is not None]
    return sum(known) / len(known) if known else None


def measure_strengths(
    model: LoadedModel,
    selection: Selection,
    table: CalibrationTable,
    c_rs: Sequence[float],
    probes: Sequence[Probe],
    options: RuntimeOptions,
) -> Strengths:
    """Looks at every selected layer at every c_r.

    Args:
        model: The original.
        selection: Its sites.
        table: Maxima, and counts at these c_r.
        c_rs: Relative thresholds.
        probes: Samples to take inputs of layers from.
        options: Providers and threads.

    Raises:
        DataError: A maximum is 0, or a threshold vanishes in its dtype.
    """
    by_cr = [thresholds_of(selection, table, LayerCr(c_r), Hard()) for c_r in c_rs]
    rates = {row.key: np.array(row.rates) for row in table.counts}
    rng = np.random.default_rng(0)
    rows: dict[tuple[str, float], LayerStrength] = {}
    weights: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    nonzero: dict[str, np.ndarray] = {}
    zeros: dict[str, np.ndarray] = {}
    for layer, weight, inputs in _layers(model, selection.sites, probes, options, rng):
        shapes[layer.name] = weight.shape
        matrices = as_matrices(layer, weight)
        if matrices is not None:
            weights[layer.name] = matrices
        if matrices is not None and inputs is not None:
            nonzero[layer.name] = inputs > 0
        mine = [next(t for t in one if layer in t.site.layers) for one in by_cr]
        thresholds = [(0.0, 0.0), *((t.c_r, t.c) for t in mine)]
        ratios = _ratios(matrices, inputs, [c for _, c in thresholds])
        axis = columns_of(layer, weight.shape).data_axis
        if (key := (layer.data.name or "", axis, 0.0)) in rates:
            zeros[layer.name] = rates[key]
        for (c_r, c), found in zip(thresholds, ratios, strict=True):
            counted = rates.get((layer.data.name or "", axis, c))
            rows[layer.name, c_r] = LayerStrength(
                layer.name,
                c_r,
                c,
                None if counted is None else float(counted.mean()),
                None if found is None else float(found.max()),
                None if found is None else float(found.mean()),
            )
    return Strengths(rows, weights, shapes, nonzero, zeros)


def _ratios(
    matrices: np.ndarray | None, inputs: np.ndarray | None, thresholds: Sequence[float]
) -> list[np.ndarray | None]:
    """The singular ratios of each threshold, [N] each."""
    if matrices is None or inputs is None:
        return [None] * len(thresholds)
    kept = np.concatenate([inputs > np.float32(c) for c in thresholds], axis=2)
    found: list[np.ndarray | None] = []
    found += np.split(masked_ratios(matrices, kept), len(thresholds))
    return found


def _layers(
    model: LoadedModel,
    sites: Sequence[Site],
    probes: Sequence[Probe],
    options: RuntimeOptions,
    rng: np.random.Generator,
) -> Iterator[tuple[LinearLayer, np.ndarray, np.ndarray | None]]:
    """Every layer with its weight, and |x| of vectors that it multiplies, [G, I, N]."""
    feeds = list(_small_feeds(model, probes))
    share = -(-VECTORS // max(len(feeds), 1))
    for start in range(0, len(sites), _TOGETHER):
        group = sites[start : start + _TOGETHER]
        layers = [(site, layer) for site in group for layer in site.layers]
        nodes = [_copy(site.value, f"x/{start + i}") for i, site in enumerate(group)]
        nodes += [_copy(_weight(x), f"w/{start}/{i}") for i, (_, x) in enumerate(layers)]
        tapped = model_io.with_extra_outputs(model.proto, nodes)
        session = runtime.open_session(tapped, options, model.base_dir)
        names = [node.outputs[0].name or "" for node in nodes]
        tensors, stored = names[: len(group)], names[len(group) :]
        drawn: list[list[np.ndarray]] = [[] for _ in layers]
        weights: list[np.ndarray] = []
        for feed in feeds:
            results = session.run(tensors if weights else names, feed)
            if not weights:
                weights = [np.asarray(results[name], np.float32) for name in stored]
            for i, (site, layer) in enumerate(layers):
                data = np.abs(np.asarray(results[tensors[group.index(site)]], np.float32))
                if as_matrices(layer, weights[i]) is not None:
                    drawn[i].append(draw_inputs(layer, weights[i].shape, data, share, rng))
        for (_, layer), weight, parts in zip(layers, weights, drawn, strict=True):
            vectors = np.concatenate(parts, axis=2)[..., :VECTORS] if parts else None
            yield layer, weight, vectors


def _small_feeds(
    model: LoadedModel, probes: Sequence[Probe]
) -> Iterator[Mapping[str, np.ndarray]]:
    """The samples in runs of a few rows, where the model lets a batch be divided."""
    taken = 0
    for probe in probes:
        for feeds in probe.divided(_ROWS, fixed=model.has_fixed_batch):
            if taken >= VECTORS:
                return
            taken += max((len(x) for x in feeds.values() if x.ndim), default=1)
            yield feeds


def _weight(layer: LinearLayer) -> ir.Value:
    value = layer.node.inputs[1 - layer.data_index]
    assert value is not None
    return value


def _copy(value: ir.Value, name: str) -> ir.Node:
    """`value` by name, as a further output."""
    copy = ir.Value(name=f"{MARK}.sweep/{name}", type=value.type)
    return ir.node("Identity", [ir.Value(name=value.name)], outputs=[copy])
