"""What an abstain head should give, computed beside it in NumPy from the same logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.abstaining.head import Abstention
from lipcompile.errors import CheckFailed, ModelError, RunFailure
from lipcompile.model_io import LoadedModel
from lipcompile.passes.add_abstention import SCORES
from lipcompile.runtime import RuntimeOptions
from lipcompile.tapping import TappedScores

# Of the largest logit, between the model with and without the head: other fusions.
_ROUNDING = {"float64": 1e-9, "float32": 1e-4}


def certified(logits: np.ndarray, reach: np.ndarray, top: int = 1) -> np.ndarray:
    """bool [N]: z_y > the k-th largest of z_j + reach_yj over j != y, strictly.

    Args:
        logits: [N, K], float32 or float64, in which the sums are rounded as the head rounds.
        reach: [K, K] of the same type, as in `Abstention`.
        top: k.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        answer = logits.argmax(axis=1)
        others = np.sort(logits + reach[answer], axis=1)[:, -top]
        finite = np.isfinite(logits).all(axis=1)
        result: np.ndarray = finite & (logits.max(axis=1) > others)
    return result


@dataclass(frozen=True, slots=True)
class Found:
    """A head against its definition, on data.

    Attributes:
        rows: How many answers were compared.
        certified: How many of them the definition certifies.
        wrong: Answers that the head takes for certified and the definition does not, or the
            other way round.
        difference: Largest difference of the logits with and without the head, over the
            largest of them.
        allowed: What rounding may do.
    """

    rows: int
    certified: int
    wrong: int
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        return not self.wrong and self.difference <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.certified} of {self.rows} answers certified, {self.wrong} of them flagged "
            f"otherwise, logits off by {self.difference:.1e} of the largest"
        )


def compare(
    source: LoadedModel,
    inside: Any,
    outside: Any,
    plan: Abstention,
    feeds: Sequence[Mapping[str, np.ndarray]],
    options: RuntimeOptions,
) -> Found:
    """Runs the model with and without its head on the same data.

    Raises:
        ModelError, RunFailure: One of them does not run.
    """
    head, dtype = plan.head, plan.place.dtype
    name = SCORES if head.kind == "logit" else head.scores
    inner = TappedScores.open(source, inside, head.scores, options)
    outer = TappedScores.open(source, outside, head.scores, options, at=name)
    said = head.scores if head.kind == "logit" else str(head.output)
    wrong = count = rows = 0
    difference = 0.0
    for feed in feeds:
        before = inner.logits(feed)
        logits, answer = outer.with_output(feed, said)
        flags = certified(logits.astype(dtype), plan.reach, head.top)
        wrong += int((flags != _flags(plan, logits, answer)).sum())
        count, rows = count + int(flags.sum()), rows + len(flags)
        scale = max(float(np.abs(before).max(initial=0.0)), np.finfo(np.float64).tiny)
        apart = float(np.abs(before - logits).max(initial=0.0)) / scale
        difference = max(difference, apart if np.isfinite(apart) else np.inf)
    return Found(rows, count, wrong, difference, _ROUNDING[dtype])


def _flags(plan: Abstention, logits: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """bool [N]: what the model says; nonsense counts as the opposite of certified."""
    if plan.head.kind == "bool":
        return np.asarray(answer, bool).reshape(-1)
    if answer.shape != (len(logits), plan.head.classes + 1):
        raise RunFailure(f"'{plan.head.scores}' has shape {list(answer.shape)}")
    flags: np.ndarray = answer.argmax(axis=1) == logits.argmax(axis=1)
    return flags


def check_abstention(
    source: LoadedModel,
    inside: Any,
    outside: Any,
    plan: Abstention,
    feeds: Sequence[Mapping[str, np.ndarray]],
    options: RuntimeOptions,
) -> Found:
    """The head flags what its definition certifies, and leaves the scores alone.

    Args:
        source: What was loaded, for its name and its folder.
        inside: The model without the head.
        outside: With it.
        plan: The head.
        feeds: Complete inputs by name.
        options: Threads.

    Raises:
        CheckFailed: It does not hold; a defect of LipCompile.
    """
    try:
        found = compare(source, inside, outside, plan, feeds, options)
    except (ModelError, RunFailure) as error:
        raise CheckFailed(
            f"'{source.name}' with its abstain head does not run ({error}): nothing was "
            "written; please report this with the model"
        ) from error
    if not found.holds:
        raise CheckFailed(
            f"the abstain head of '{source.name}' does not do what its definition says "
            f"({found}): nothing was written; please report this with the model"
        )
    return found
