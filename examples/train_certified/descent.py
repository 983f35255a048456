"""Steps down a loss that holds spectral norms: Muon on weights, Adam on biases.

The gradient of a spectral norm has rank one: it moves the largest singular value and leaves
the others, which grow until they are the largest. Muon makes all singular values of a step
equal (it is steepest descent under the spectral norm), which suits a loss of such norms better
than Adam does; the README has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from network import Layer
from torch import Tensor

from lipcompile.torchview import TorchView

WEIGHTS_LR, BIASES_LR = 0.02, 2e-3
PEAK = 0.1  # share of the steps in which the rates rise, before they fall to 0


class Descent:
    """Trains the parameters of a view in `steps` steps.

    Args:
        view: Holds them.
        layers: Its linear layers.
        steps: How many there will be: the learning rates are 0 after the last.
    """

    def __init__(self, view: TorchView, layers: Sequence[Layer], steps: int) -> None:
        self._weights = [view.weight(layer.weight) for layer in layers]
        # Muon takes matrices alone: these share the memory of the weights.
        self._matrices = [w.detach().flatten(1).requires_grad_() for w in self._weights]
        ours = {id(weight) for weight in self._weights}
        biases = [p for p in view.parameters() if id(p) not in ours]
        self._optimizers = (
            torch.optim.Muon(self._matrices, WEIGHTS_LR, weight_decay=0.0),
            torch.optim.Adam(biases, BIASES_LR),
        )
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer, rate, steps, pct_start=PEAK, cycle_momentum=False
            )
            for optimizer, rate in zip(self._optimizers, (WEIGHTS_LR, BIASES_LR), strict=True)
        ]
        self._view = view

    def step(self, loss: Tensor) -> None:
        self._view.zero_grad()
        torch.autograd.backward(loss)
        for matrix, weight in zip(self._matrices, self._weights, strict=True):
            assert weight.grad is not None
            matrix.grad = weight.grad.flatten(1)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
