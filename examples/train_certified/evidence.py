"""What is certified of a file: by its own bounds, not by what training estimated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from losses import radii
from torch import Tensor

from lipcompile import model_io
from lipcompile.certifying.lipschitz.bounds import lipschitz_bounds
from lipcompile.labelled import Normalisation
from lipcompile.statistics import exact_interval
from lipcompile.text import percent
from lipcompile.torchview import torch_view


def certified_radii(path: Path, images: Tensor, labels: Tensor) -> Tensor:
    """float64 [N]: l2 in pixels; negative where the file does not give the label.

    R = min over j of (z_y - z_j) / L_yj, with the upper bounds L of
    `lipcompile.certifying.lipschitz`.
    """
    depth, height, width = images.shape[1:]
    bounds = lipschitz_bounds(model_io.load(path), Normalisation(), (depth, height, width))
    view = torch_view(path)
    with torch.no_grad():
        logits = torch.cat([view(part) for part in images.split(1000)]).double()
    return radii(logits, labels, torch.from_numpy(bounds.pairwise)).amin(1)


def curve(found: Tensor, eps_l2: Sequence[float]) -> str:
    """Lines with the share of images whose radius is above each eps, and its interval."""
    lines = []
    for eps in eps_l2:
        right = int((found > eps).sum())
        low, high = exact_interval(right, len(found))
        name = f"certified at eps_l2 = {eps:g}" if eps else "clean accuracy"
        lines.append(
            f"{name}: {percent(right / len(found))} of {len(found)} test images "
            f"(95 %: {percent(low)} to {percent(high)})"
        )
    return "\n".join(lines)
