"""A model under attack: the deployed file in ONNX Runtime, and views of it in torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from lipcompile.auditing.pixel_model import PixelModel
from lipcompile.errors import CheckFailed, ModelError
from lipcompile.labelled.classifier import Classifier, is_right, open_classifier
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.records import ENSEMBLE
from lipcompile.runtime import RuntimeOptions
from lipcompile.scores import is_logarithm, logits_behind, logits_of_views
from lipcompile.torchview import torch_view
from lipcompile.torchview.backward import Gradient, surrogates

_RUNS = 3  # of the same images, to see whether the model is deterministic
# A view may differ from ONNX Runtime by rounding; at a jump (`hard`, quantisation) that moves
# an activation by a whole step. Shares of the largest score, median over images.
_MEDIAN_DIFFERENCE = 1e-3
_MEDIAN_WITH_JUMPS = 5e-2
_JUMPS = frozenset({"QuantizeLinear", "ThresholdedRelu", "Greater", "Round", "Floor", "Ceil"})
_OTHER_CLASS = 0.02  # share of the images that may be classified otherwise, at least 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How models are run.

    Attributes:
        scores: Name of the graph output with the class scores; None finds it.
        batch: Images per run.
        threads: Of ONNX Runtime; 0 lets it choose.
    """

    scores: str | None = None
    batch: int = 64
    threads: int = 0


@dataclass(slots=True)
class Victim:
    """One of the two models.

    Attributes:
        role: "original" or "hardened".
        file: What is deployed.
        device: Where the torch views are.
        threads: Of ONNX Runtime.
    """

    role: str
    file: Classifier
    device: torch.device
    threads: int
    _views: dict[Gradient, PixelModel] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.file.model.name

    @property
    def model(self) -> LoadedModel:
        return self.file.model

    @property
    def output(self) -> str:
        """Name of the graph output with the class scores."""
        return self.file.output

    @property
    def batch(self) -> int:
        """Images per run of ONNX Runtime."""
        return self.file.batch

    @property
    def classes(self) -> int:
        return self.file.classes

    def deployed(self, pixels: np.ndarray) -> np.ndarray:
        """Class scores of the deployed file: float64 [N, K] for float32 [N, C, H, W]."""
        return self.file.scores(pixels)

    def is_right(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """bool [N]: the deployed file gives the label the highest score, and no NaN."""
        return is_right(self.deployed(pixels), labels)

    def view(self, gradient: Gradient = "exact") -> PixelModel:
        """The model in torch, with the true or a surrogate gradient; made once.

        The true gradient of an int8 graph is zero, and no attacker would use it: there
        "exact" passes quantisation straight through.
        """
        if gradient not in self._views:
            really: Gradient = gradient
            if gradient == "exact" and "QuantizeLinear" in self.operators:
                really = "quantised"
            logits = self.averaged or (logits_behind(self.model.graph_ir, self.output),)
            outputs = tuple(dict.fromkeys(logits))
            view = torch_view(self.model, gradient=really, outputs=outputs)
            built = PixelModel(view, self.file.normalisation, len(logits)).to(self.device)
            built.weights_channels_last()
            if first := next(iter(self._views.values()), None):
                built.batching = first.batching
            self._views[gradient] = built
        return self._views[gradient]

    @property
    def operators(self) -> frozenset[str]:
        """The operators of the main graph."""
        return frozenset(node.op_type for node in self.model.graph_ir.graph)

    @property
    def has_surrogates(self) -> bool:
        """Whether a surrogate gradient would differ from the exact one."""
        return bool(surrogates(self.model.graph_ir.graph, self.model.metadata, "identity"))

    @property
    def gives_probabilities(self) -> bool:
        """Whether the deployed scores have passed a Softmax."""
        graph = self.model.graph_ir
        if self.averaged:
            return not is_logarithm(graph, self.output)
        return logits_behind(graph, self.output) != self.output

    @property
    def averaged(self) -> tuple[str, ...]:
        """The logits of every view, for an ensemble whose scores are a mean of probabilities:
        from these alone such a mean has gradients that do not underflow."""
        is_ensemble = ENSEMBLE in self.model.metadata
        return logits_of_views(self.model.graph_ir, self.output) if is_ensemble else ()


def open_victim(
    role: str,
    model: LoadedModel,
    normalisation: Normalisation,
    pixels: np.ndarray,
    device: torch.device,
    settings: Settings,
) -> Victim:
    """Opens a model and makes sure that it can be attacked: deterministic, and torch agrees.

    Args:
        role: "original" or "hardened".
        model: The model.
        normalisation: How pixels become its input.
        pixels: Images to try, float32 [N, C, H, W].
        device: For the torch views.
        settings: How it is run.

    Raises:
        ModelError: No classifier, not deterministic, or an operator that torch lacks.
        NonFiniteError: The scores of an image are NaN.
        CheckFailed: The torch view disagrees with ONNX Runtime.
    """
    # Sessions and torch take turns; ONNX Runtime's idle threads must not wait actively.
    options = RuntimeOptions(threads=settings.threads, spinning=False)
    file, scores = open_classifier(
        model,
        normalisation,
        pixels,
        options,
        output=settings.scores,
        batch=settings.batch,
    )
    victim = Victim(role, file, device, settings.threads)
    _check_deterministic(victim, pixels, scores)
    first = torch.from_numpy(pixels[:3]).to(device)
    victim.view().fit(first)
    _check_view(victim, pixels, scores)
    if role == "original" and not victim.view().has_gradient(first):
        raise ModelError(
            f"no gradient reaches the input of '{model.name}': an operator on the way "
            "(a comparison, a cast to integers) cuts it, so that there is no white-box attack "
            "to compare with; export the model without it"
        )
    return victim


def _check_deterministic(victim: Victim, pixels: np.ndarray, scores: np.ndarray) -> None:
    for _ in range(_RUNS - 1):
        again = victim.deployed(pixels)
        if not np.array_equal(scores, again):
            change = float(np.abs(scores - again).max())
            raise ModelError(
                f"the {victim.role} model '{victim.name}' is not deterministic: the same "
                f"{len(pixels)} images gave scores that differ by up to {change:.3g}; no "
                "number is printed, since one draw says nothing about the next: remove the "
                "random layer, or certify the model by randomized smoothing"
            )


def _check_view(victim: Victim, pixels: np.ndarray, scores: np.ndarray) -> None:
    view = victim.view()
    starts = range(0, len(pixels), victim.batch)
    with torch.no_grad():
        chunks = [torch.from_numpy(pixels[i : i + victim.batch]) for i in starts]
        seen = torch.cat([view(chunk.to(victim.device)).cpu() for chunk in chunks])
    logits = seen.double().numpy()
    if victim.gives_probabilities:
        wide = np.exp(logits - logits.max(axis=1, keepdims=True))
        logits = wide / wide.sum(axis=1, keepdims=True)
    elif victim.averaged:
        logits = np.maximum(logits, scores.min())  # the deployed logarithm has a floor
    scale = max(float(np.abs(scores).max()), 1e-30)
    median = float(np.median(np.abs(logits - scores).max(axis=1))) / scale
    other = int((logits.argmax(axis=1) != scores.argmax(axis=1)).sum())
    allowed = _MEDIAN_WITH_JUMPS if victim.operators & _JUMPS else _MEDIAN_DIFFERENCE
    if not median <= allowed or other > max(2, _OTHER_CLASS * len(pixels)):
        raise CheckFailed(
            f"the torch view of '{victim.name}' disagrees with ONNX Runtime: the scores of "
            f"{len(pixels)} images differ by {median:.2g} of the largest (median), and "
            f"{other} are classified otherwise; gradients of another function say nothing, so "
            "no number is printed: please report this with the model"
        )
