"""The pass that zeroes columns of weights: the weight variant of arXiv 2406.19622.

Column j of a layer holds the entries of its weight that multiply input feature j. It is zeroed
where calibration elements of that feature were suppressed, |x_j| <= c, at a rate of at least
zero_rate. At zero_rate 1 form `hard` with the same c sets feature j to 0 on every calibration
sample, so that layer(hard(x)) has the same bits with the zeroed weight as with the original
one. layer(x) itself, without `hard`, changes by what features below c contributed.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lipcompile.calibration.counts import SiteCounts
from lipcompile.errors import TableError
from lipcompile.linear_layers import LinearLayer, Refusal
from lipcompile.ops import MARK
from lipcompile.text import percent
from lipcompile.thresholds import check_zero_rate
from lipcompile.weights import columns_of, layer_columns, stored_weight


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """What will be done to one layer.

    Attributes:
        layer: The layer.
        columns: Input features whose columns will be zeroed, rising; may be empty.
        count: How many input features there are.
        tensor: Name of the site that was counted.
        c: The threshold that was counted at, in the unit of the site.
    """

    layer: LinearLayer
    columns: tuple[int, ...]
    count: int
    tensor: str
    c: float


def plan_columns(
    layer: LinearLayer, counts: SiteCounts, zero_rate: float = 1.0
) -> ColumnPlan | Refusal:
    """Decides which columns of `layer` go, or why it is left alone; edits nothing.

    Args:
        layer: A layer of the site.
        counts: Those of the layer's site, for the layer's axis of input features.
        zero_rate: Share of suppressed elements from which on a column is zeroed, in (0, 1].

    Raises:
        OptionError: `zero_rate` is out of range.
        TableError: The counts are those of another layer.
    """
    least = check_zero_rate(zero_rate)
    lie = layer_columns(layer)
    if isinstance(lie, str):
        return weight_refusal(layer, lie)
    if (counts.axis, len(counts.suppressed)) != (lie.data_axis, lie.count):
        raise TableError(
            f"{layer.label} reads {lie.count} features along "
            f"axis {lie.data_axis}, and the counts of site '{counts.tensor}' are of "
            f"{len(counts.suppressed)} along axis {counts.axis}: calibrate again with "
            "--count-cr"
        )
    columns = tuple(j for j, rate in enumerate(counts.rates) if rate >= least)
    if len(columns) == lie.count:
        share = "every element" if least == 1 else f"{percent(least)} or more"
        reason = f"would be left with its bias: {share} of each input feature is suppressed"
        return _refusal(layer, "all-suppressed", reason)
    return ColumnPlan(layer, columns, lie.count, counts.tensor, counts.c)


def weight_refusal(layer: LinearLayer, reason: str) -> Refusal:
    """A layer whose weight cannot be edited, for the reason that `stored_weight` gave."""
    return _refusal(layer, "weight-form", f"its weight {reason}")


def _refusal(layer: LinearLayer, code: str, reason: str) -> Refusal:
    return Refusal(layer.name, layer.node.op_type, code, reason, layer.position)


@dataclass(frozen=True, slots=True)
class ZeroColumns:
    """Rewrites weights in place: the columns of `plans` become 0.

    A weight that something else reads as well stays as it is, and the layer gets one of its
    own. Layers whose plan names no column keep every byte.

    External weights are read from the `base_dir` that their tensors name, and become inline.

    Attributes:
        plans: One plan per layer, made for this very graph.
    """

    plans: tuple[ColumnPlan, ...]

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Applies the pass.

        Returns:
            For each layer that was edited the name of the tensor that stores its weight now.
        """
        taken = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        taken |= set(model.graph.initializers)
        return {plan.layer.name: _zero(plan, taken) for plan in self.plans if plan.columns}


def _zero(plan: ColumnPlan, taken: set[str | None]) -> str:
    index = 1 - plan.layer.data_index
    # Found anew: an edit before this one may have left a shared weight to this layer alone.
    weight = stored_weight(plan.layer.node, index)
    assert not isinstance(weight, str), "plan_columns refuses such weights"
    array = weight.array()
    goes = np.zeros(plan.count, dtype=bool)
    goes[list(plan.columns)] = True
    mask = columns_of(plan.layer, array.shape).spread(goes)
    weight.store(np.where(mask, weight.zeros(), array), _free_name(plan.layer, taken))
    stored = plan.layer.node.inputs[index] if weight.shared else weight.root
    assert stored is not None and stored.name is not None
    taken.add(stored.name)
    return stored.name


def _free_name(layer: LinearLayer, taken: Container[str | None]) -> str:
    """A name after "lipcompile/" that no value has yet, from that of the layer."""
    base = name = f"{layer.name.lstrip('/')}/weight"
    count = 1
    while f"{MARK}/{name}" in taken:
        count += 1
        name = f"{base}.{count}"
    return name
