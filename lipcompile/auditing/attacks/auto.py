"""AutoAttack's four attacks (Croce & Hein 2020, arXiv 2003.01690), run by pyautoattack."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from lipcompile.auditing.attacks.base import Attack, rows
from lipcompile.auditing.budget import Budget

_NORMS = {"linf": "Linf", "l2": "L2"}
# Its warnings (zero gradients) are our own masking checks, with numbers.
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_SILENT.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class APGDCE(Attack):
    """APGD on the cross-entropy."""

    name: ClassVar[str] = "apgd-ce"

    steps: int = 100

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        attack = APGDAttack(
            model, n_iter=self.steps, logger=_SILENT, loss="ce", **_shared(pixels, budget)
        )
        # Images that hold out come back as their point of highest loss: they may transfer.
        attack.init_hyperparam(pixels)
        best, alive, _, adversarial = attack.attack_single_run(pixels, labels)
        return torch.where(rows(alive.bool(), pixels), best, adversarial).detach()


@dataclass(frozen=True, slots=True)
class APGDT(Attack):
    """APGD on the targeted DLR loss, for the most likely other classes in turn.

    Attributes:
        steps: Gradient steps per target.
        targets: Other classes that are tried, at most one less than there are.
    """

    name: ClassVar[str] = "apgd-t"
    least_classes: ClassVar[int] = 4  # the DLR loss sorts four logits

    steps: int = 100
    targets: int = 9

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        attack = APGDAttack_targeted(
            model,
            n_iter=self.steps,
            n_target_classes=_targets(model, pixels, self.targets),
            logger=_SILENT,
            **_shared(pixels, budget),
        )
        return _detached(attack.perturb(pixels, labels))


@dataclass(frozen=True, slots=True)
class FABT(Attack):
    """FAB, which searches the nearest decision boundary, for several targets in turn.

    Attributes:
        steps: Iterations per target.
        targets: As for `APGDT`.
    """

    name: ClassVar[str] = "fab-t"

    steps: int = 100
    targets: int = 9

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        attack = FABAttack_PT(
            model,
            n_iter=self.steps,
            targeted=True,
            n_target_classes=_targets(model, pixels, self.targets),
            **_shared(pixels, budget),
        )
        return _detached(attack.perturb(pixels, labels))


@dataclass(frozen=True, slots=True)
class Square(Attack):
    """Square: random search with squares, no gradient (Andriushchenko et al. 2020).

    Attributes:
        queries: Evaluations per image, at most.
    """

    name: ClassVar[str] = "square"
    black_box: ClassVar[bool] = True

    queries: int = 5000

    def fits(self, height: int, width: int, budget: Budget) -> bool:
        """Whether pyautoattack can start on such images: for l2 it tiles them by squares."""
        side = height // 5
        if budget.norm == "linf" or side == 0:
            return min(height, width) >= 4 and budget.norm == "linf"
        first = (height - 5 * side) // 2
        return all(first + length // side * side <= length for length in (height, width))

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        attack = SquareAttack(
            model,
            n_queries=self.queries,
            p_init=0.8,
            resc_schedule=False,
            **_shared(pixels, budget),
        )
        return _detached(attack.perturb(pixels, labels))


def _shared(pixels: torch.Tensor, budget: Budget) -> dict[str, Any]:
    # pyautoattack seeds torch itself; the caller seeded it, so one draw carries that on.
    seed = int(torch.randint(2**31 - 1, ()).item())
    return {
        "norm": _NORMS[budget.norm],
        "eps": budget.eps,
        "n_restarts": 1,
        "seed": seed,
        "verbose": False,
        "device": pixels.device,
    }


def _targets(model: torch.nn.Module, pixels: torch.Tensor, wanted: int) -> int:
    with torch.no_grad():
        classes = int(model(pixels[:1]).shape[1])
    return min(wanted, classes - 1)


def _detached(candidates: Any) -> torch.Tensor:
    found: torch.Tensor = candidates
    return found.detach()
