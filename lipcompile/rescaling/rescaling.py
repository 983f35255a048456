"""Rescales a model, and makes sure that it did: decisions stay, and the bound is L."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcompile import model_io
from lipcompile.errors import CheckFailed, RunFailure
from lipcompile.labelled.pixel_domain import PixelDomain
from lipcompile.model_io import LoadedModel
from lipcompile.passes.rescale_constants import RescaleConstants
from lipcompile.provenance import added_keys
from lipcompile.records import LIPSCHITZ
from lipcompile.rescaling.factors import all_factors
from lipcompile.rescaling.homogeneous import read_network
from lipcompile.rescaling.options import LipschitzOptions
from lipcompile.rescaling.plan import Rescaling, plan_rescaling
from lipcompile.runtime import RuntimeOptions
from lipcompile.scores import score_output
from lipcompile.tapping import TappedScores

if TYPE_CHECKING:
    from lipcompile.certifying.lipschitz.bounds import LipschitzBounds

# Shares of the largest logit: sums in another order, since ONNX Runtime folds constants, and
# the rounding of the weights that took a factor which is no power of two.
_ROUNDING = {"float64": 1e-9, "float32": 1e-4}
SAME_BOUND = 1e-6  # relative; float32 weights are rounded by 6e-8 each


def rescale(
    source: LoadedModel, proto: Any, options: LipschitzOptions, pixels: PixelDomain
) -> tuple[Any, Rescaling, LipschitzBounds]:
    """`proto` with the product bound that is asked for, what was done, and its bounds now.

    Args:
        source: What was loaded, for the provenance.
        proto: The model to rescale: its own, or that as it was hardened.
        options: What is asked for.
        pixels: What the bound is about.

    Raises:
        ModelError: The network cannot be rescaled, or has no finite bound.
        CheckFailed: The result has another bound; a defect of LipCompile.
    """
    fresh = model_io.reload(source, proto)
    network = read_network(fresh, options.scores)
    scores = score_output(fresh, options.scores).name
    product = pixels.bounds(fresh, scores).product
    plan = plan_rescaling(network, options, product, scores, pixels)
    result = apply(source, proto, plan)
    found = pixels.bounds(model_io.reload(source, result), scores)
    if not abs(found.product / plan.bound - 1) <= SAME_BOUND:
        raise CheckFailed(
            f"'{source.name}' was rescaled to a product bound of {plan.bound:g}, and has "
            f"{found.product:.9g}: nothing was written; please report this with the model"
        )
    return result, plan, found


def apply(source: LoadedModel, proto: Any, plan: Rescaling) -> Any:
    """`proto` rescaled as `plan` says; no bound is computed.

    Raises:
        ModelError: The network cannot be rescaled.
        LookupError: A tensor of the plan is not there.
    """
    fresh = model_io.reload(source, proto)
    network = read_network(fresh, plan.scores)
    by_name = {value.name: value for value in network.groups.values()}
    exponents = {by_name[name]: k for name, k in plan.exponents.items()}
    RescaleConstants(all_factors(network, exponents, plan.factor))(fresh.graph_ir)
    metadata = added_keys(source, proto, {LIPSCHITZ: json.dumps(plan.to_json())})
    return model_io.render(fresh.proto, fresh.graph_ir, metadata)


@dataclass(frozen=True, slots=True)
class Apart:
    """What rescaling did to the logits on data.

    Attributes:
        samples: How many rows were compared.
        difference: Largest |after - factor * before|, over the largest |factor * before|.
        allowed: What rounding may do.
        changed: Rows with another decision, although their two largest logits lie further
            apart than rounding.
    """

    samples: int
    difference: float
    allowed: float
    changed: int

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed and not self.changed

    def __str__(self) -> str:
        return (
            f"logits off by {self.difference:.1e} of the largest, {self.changed} of "
            f"{self.samples} decisions changed"
        )


def compare(
    source: LoadedModel,
    before: Any,
    after: Any,
    plan: Rescaling,
    feeds: Sequence[Mapping[str, np.ndarray]],
    options: RuntimeOptions,
) -> Apart:
    """Runs the model before and after on the same data.

    Raises:
        ModelError, RunFailure: One of them does not run.
    """
    first = TappedScores.open(source, before, plan.scores, options)
    second = TappedScores.open(source, after, plan.scores, options)
    rows = [(first.logits(feed), second.logits(feed)) for feed in feeds]
    old = np.concatenate([one for one, _ in rows]) * plan.factor
    new = np.concatenate([other for _, other in rows])
    allowed = _ROUNDING.get(first.dtype, _ROUNDING["float32"])
    largest = max(float(np.abs(old).max(initial=0.0)), np.finfo(np.float64).tiny)
    top = np.sort(old, axis=1)[:, -2:]
    clear = (top[:, -1] - top[:, 0]) > 2 * allowed * largest
    changed = clear & (old.argmax(axis=1) != new.argmax(axis=1))
    difference = float(np.abs(new - old).max(initial=0.0)) / largest
    difference = difference if np.isfinite(difference) else np.inf
    return Apart(len(old), difference, allowed, int(changed.sum()))


def check_rescaled(
    source: LoadedModel,
    before: Any,
    after: Any,
    plan: Rescaling,
    feeds: Sequence[Mapping[str, np.ndarray]],
    options: RuntimeOptions,
) -> Apart:
    """The decisions stay, and the logits are the factor times what they were.

    Args:
        source: What was loaded, for its name and its folder.
        before: The model before.
        after: The rescaled model.
        plan: What was done.
        feeds: Complete inputs by name.
        options: Threads.

    Raises:
        CheckFailed: It does not hold; a defect of LipCompile.
    """
    try:
        found = compare(source, before, after, plan, feeds, options)
    except RunFailure as error:
        raise CheckFailed(
            f"'{source.name}' cannot be run, so that nothing shows that its decisions stay "
            f"({error}): nothing was written; give --calib with samples that it takes"
        ) from error
    if not found.holds:
        raise CheckFailed(
            f"'{source.name}' was rescaled by {plan.factor:.3g}, and gives something else "
            f"({found}): nothing was written; please report this with the model"
        )
    return found
