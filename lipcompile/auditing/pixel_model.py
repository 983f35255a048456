"""From pixels to logits, in torch: what gradient attacks see."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch

from lipcompile.errors import DataError, RunFailure
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.torchview import TorchView

Batching = Literal["free", "mapped", "single"]
_SAME = 1e-4  # of the largest logit: batched rows may differ from single ones by rounding


class PixelModel(torch.nn.Module):
    """Pixels in [0, 1], float32 [N, C, H, W], to logits [N, K].

    Normalises as the deployment does, then runs the view. A model whose batch is fixed to 1 is
    run on whole batches where that gives the same rows: as it is, or mapped by
    `torch.func.vmap`; else image by image.

    Attributes:
        view: The graph; its output is the logits.
        views: Of how many views the probabilities are averaged; the outputs are the logits of
            each, or of all in one batch, view by view.
        batching: How batches run; `fit` decides.
    """

    def __init__(self, view: TorchView, normalisation: Normalisation, views: int = 1) -> None:
        super().__init__()
        self.view = view.requires_grad_(False)
        self.normalisation = normalisation
        self.views = views
        self.batching: Batching = "free"
        self._mean = torch.nn.Buffer(torch.tensor(normalisation.mean).reshape(-1, 1, 1))
        self._std = torch.nn.Buffer(torch.tensor(normalisation.std).reshape(-1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        inputs = self._normalised(_Contiguous.apply(pixels))  # type: ignore[no-untyped-call]
        logits = self._run(inputs).reshape(len(pixels), -1).to(pixels.dtype)
        if pixels.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            # A graph that cuts the gradient has the gradient 0: attacks then run, and fail.
            logits = logits + 0.0 * pixels.flatten(1).sum(dim=1, keepdim=True)
        return logits

    def weights_channels_last(self) -> None:
        """Lays convolution weights out as their inputs are, so that nothing is reordered."""
        for weight in self.view.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """The most likely class of each image, int64 [N]."""
        with torch.no_grad():
            logits = self(torch.from_numpy(pixels).to(self._mean.device))
        classes: np.ndarray = logits.argmax(dim=1).cpu().numpy()
        return classes

    def has_gradient(self, pixels: torch.Tensor) -> bool:
        """Whether a derivative, be it zero, reaches the pixels at all."""
        inputs = self._normalised(pixels.detach().requires_grad_())
        return self._run(inputs).requires_grad

    def fit(self, pixels: torch.Tensor) -> None:
        """Chooses how batches are run, from a few images; an exact gradient must exist.

        Raises:
            RunFailure: The view does not even run single images.
        """
        with torch.no_grad():
            self.batching = "single"
            singly = self(pixels)
            for batching in ("free", "mapped"):
                self.batching = batching
                if self._agrees(pixels, singly):
                    return
        self.batching = "single"

    def _agrees(self, pixels: torch.Tensor, singly: torch.Tensor) -> bool:
        try:
            batched = self(pixels)
        except (RunFailure, RuntimeError):
            return False
        if batched.shape != singly.shape:
            return False
        scale = float(singly.abs().max())
        return bool((batched - singly).abs().max() <= _SAME * max(scale, 1e-30))

    def _run(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.batching == "free":
            return self._joined(self.view(inputs))
        if self.batching == "mapped":
            return torch.func.vmap(lambda x: self._joined(self.view(x[None]))[0])(inputs)
        parts = (inputs[i : i + 1] for i in range(len(inputs)))
        return torch.cat([self._joined(self.view(part)) for part in parts])

    def _joined(self, output: Any) -> torch.Tensor:
        """The logits, or the logarithm of the mean of the probabilities of several views."""
        if self.views == 1:
            return _one(output)
        parts = output if isinstance(output, tuple) else _one(output).chunk(self.views)
        rows = [part.reshape(len(part), -1).log_softmax(dim=1) for part in parts]
        return torch.stack(rows).logsumexp(dim=0) - math.log(self.views)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        rule = self.normalisation
        values = pixels if rule.scale == 1 else pixels * rule.scale
        if rule.swaps_channels:
            values = values.flip(1)
        if any(rule.mean) or any(s != 1 for s in rule.std):
            values = (values - self._mean) / self._std
        if rule.layout == "NHWC":
            values = values.permute(0, 2, 3, 1)
        if rule.shape is not None:
            values = values.reshape(len(values), *rule.shape)
        return values.to(_TYPES[rule.dtype])


_TYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16}


def _one(output: Any) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        raise DataError("the model's class scores are no tensor: audit takes classifiers")
    return output


class _Contiguous(torch.autograd.Function):
    """Channels last on the way in, which makes convolutions about twice as fast on the CPU;
    a contiguous gradient on the way back, which pyautoattack's checks need.
    """

    @staticmethod
    def forward(ctx: Any, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.clone(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].contiguous()
