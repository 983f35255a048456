"""Campaigns made by hand: what the checks read, without any attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lipcompile.auditing.budget import Budget
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.journal import Journal
from lipcompile.auditing.strike import Strike
from lipcompile.labelled import LabelledImages
from lipcompile.labelled.normalisation import Normalisation


class _View(torch.nn.Module):
    """What a check or an attack asks of a `PixelModel`."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.network(pixels)
        return scores

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            classes: np.ndarray = self(torch.from_numpy(pixels)).argmax(dim=1).numpy()
        return classes


@dataclass
class FakeVictim:
    """A torch module that stands for the deployed file and for its view.

    Attributes:
        network: Pixels [N, C, H, W] to scores [N, K].
        has_surrogates: As `Victim.has_surrogates`.
        gives_probabilities: As `Victim.gives_probabilities`.
        averaged: As `Victim.averaged`.
        classes: As `Victim.classes`.
    """

    network: torch.nn.Module = field(default_factory=torch.nn.Flatten)
    has_surrogates: bool = True
    gives_probabilities: bool = False
    averaged: tuple[str, ...] = ()
    classes: int = 4
    name: str = "fake.onnx"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch: int = 64
    model: Any = field(default_factory=lambda: SimpleNamespace(digest="", metadata={}))

    def view(self, gradient: str = "exact") -> torch.nn.Module:
        return _View(self.network)

    def deployed(self, pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            scores: np.ndarray = self.network(torch.from_numpy(pixels)).double().numpy()
        return scores

    def is_right(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        right: np.ndarray = self.deployed(pixels).argmax(axis=1) == labels
        return right


def make_campaign(
    pixels: np.ndarray,
    labels: np.ndarray,
    original: Any = None,
    hardened: Any = None,
    **changes: Any,
) -> Campaign:
    """A campaign in which every image is classified correctly, unless `clean` is given."""
    count = len(pixels)
    images = LabelledImages(
        pixels.astype(np.float32),
        labels.astype(np.int64),
        tuple(f"image[{i}]" for i in range(count)),
        Normalisation(),
        "made by hand",
        count,
    )
    victims: Any = {"original": original or FakeVictim(), "hardened": hardened or FakeVictim()}
    changes = {"clean": {role: np.ones(count, bool) for role in victims}} | changes
    values: dict[str, Any] = {
        "budget": Budget(0.1),
        "journal": Journal(None),
        "seed": 0,
        "batch": 7,
        "notify": lambda _: None,
    }
    return Campaign(images, victims=victims, **values | changes)


def without_pixels(count: int, *strikes: Strike, **changes: Any) -> Campaign:
    """A campaign of `count` black 2x2 images, for what reads nothing but strikes."""
    pixels, labels = np.zeros((count, 1, 2, 2), np.float32), np.zeros(count, np.int64)
    return make_campaign(pixels, labels, strikes=list(strikes), **changes)


def rows(count: int, *ranges: tuple[int, int]) -> np.ndarray:
    """bool [count], True in each half-open range."""
    chosen = np.zeros(count, bool)
    for first, end in ranges:
        assert 0 <= first <= end <= count
        chosen[first:end] = True
    return chosen


def strike(
    role: str,
    path: str,
    attack: str,
    broken: np.ndarray,
    attacked: np.ndarray | None = None,
    view_only: int = 0,
    **settings: Any,
) -> Strike:
    """A strike on every image, unless `attacked` says otherwise."""
    seen = np.ones(len(broken), bool) if attacked is None else attacked
    return Strike(role, path, attack, settings, seen, broken & seen, 0.05, view_only, 1.0)
