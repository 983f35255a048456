"""What a provenance says of bounds: computed anew, and compared with what the model does."""

from __future__ import annotations

from lipcompile.abstaining.head import plan_abstention
from lipcompile.abstaining.reference import compare as compare_head
from lipcompile.errors import InputError, RunFailure
from lipcompile.rescaling.rescaling import SAME_BOUND
from lipcompile.rescaling.rescaling import compare as compare_logits
from lipcompile.runtime import RuntimeOptions
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck
from lipcompile.verifying.samples import Samples

BOUND = "product bound"
RESCALED = "rescaled logits"
HEAD = "abstain head"


def check_bound(pair: Pair) -> VerifyCheck:
    """The rescaled model has the product bound that it says."""
    plan = pair.change.rescaling
    if plan is None:
        return VerifyCheck(BOUND, False, pair.fault or "the provenance does not tell of it")
    try:
        found = plan.pixels.bounds(pair.inner, plan.scores).product
    except InputError as error:
        return VerifyCheck(BOUND, False, str(error))
    holds = abs(found / plan.bound - 1) <= SAME_BOUND
    return VerifyCheck(BOUND, holds, f"{found:.9g}, and the provenance says {plan.bound:.9g}")


def check_rescaled(pair: Pair, samples: Samples, options: RuntimeOptions) -> VerifyCheck:
    """The logits are the factor times the original's, and decisions are the same; where other
    edits came before, there is nothing to compare with."""
    plan = pair.change.rescaling
    if plan is None:
        return VerifyCheck(RESCALED, False, pair.fault or "the provenance does not tell of it")
    if pair.columns:
        reason = "columns were zeroed before it was rescaled: see the rebuilt model"
        return VerifyCheck(RESCALED, None, reason)
    feeds = [probe.feeds for probe in samples.probes]
    before, after = pair.original.proto, pair.inner.proto
    try:
        found = compare_logits(pair.original, before, after, plan, feeds, options)
    except (InputError, RunFailure) as error:
        return VerifyCheck(RESCALED, False, f"it does not run: {error}")
    return VerifyCheck(RESCALED, found.holds, f"{found}, on {samples.label}")


def check_head(pair: Pair, samples: Samples, options: RuntimeOptions) -> VerifyCheck:
    """The head flags what its definition certifies, with bounds that are computed anew."""
    head = pair.head
    if head is None:
        return VerifyCheck(HEAD, False, pair.fault or "it cannot be taken off")
    feeds = [probe.feeds for probe in samples.probes]
    inside, outside = pair.inner.proto, pair.hardened.proto
    try:
        plan = plan_abstention(pair.inner, head.options, head.pixels)
        found = compare_head(pair.original, inside, outside, plan, feeds, options)
    except (InputError, RunFailure) as error:
        return VerifyCheck(HEAD, False, f"it does not run: {error}")
    return VerifyCheck(HEAD, found.holds, f"{found}, on {samples.label}")
