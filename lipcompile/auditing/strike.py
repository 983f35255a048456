"""What one attack did along one path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Strike:
    """One attack along one path on one model.

    Attributes:
        role: "original" or "hardened".
        path: "white-box", "bpda-identity", "bpda-smooth", "transfer", "transfer-start" or
            "black-box".
        attack: Name of the attack.
        settings: Its settings, gradient and seed.
        attacked: bool [N], the images that it was run on.
        broken: bool [N], those that ONNX Runtime then misclassified within the budget.
        largest: Largest distance among the candidates that broke an image.
        view_only: Candidates that fool the torch view and not the deployed file.
        seconds: Wall time.
    """

    role: str
    path: str
    attack: str
    settings: dict[str, Any]
    attacked: np.ndarray
    broken: np.ndarray
    largest: float
    view_only: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.role,
            "path": self.path,
            "attack": self.attack,
            "attacked": int(self.attacked.sum()),
            "broken": int(self.broken.sum()),
            "largest_distance": self.largest,
            "broke_only_the_view": self.view_only,
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A strike with its candidates, as long as someone needs them.

    Attributes:
        strike: What was measured.
        candidates: float32, one per attacked image, within the budget.
    """

    strike: Strike
    candidates: np.ndarray
