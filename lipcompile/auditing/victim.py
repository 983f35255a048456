"""A model under attack: the deployed file in ONNX Runtime, and views of it in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from lipcompile import model_io
from lipcompile.auditing.data.normalisation import Normalisation
from lipcompile.auditing.pixel_model import PixelModel
from lipcompile.errors import CheckFailed, ModelError, NonFiniteError, RunFailure
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session, open_session
from lipcompile.signature import TensorSpec
from lipcompile.torchview import torch_view
from lipcompile.torchview.backward import Gradient, surrogates

_BATCH = 64
_RUNS = 3  # of the same images, to see whether the model is deterministic
# A view may differ from ONNX Runtime by rounding; at a jump (`hard`, quantisation) that moves
# an activation by a whole step. Shares of the largest score, median over images.
_MEDIAN_DIFFERENCE = 1e-3
_MEDIAN_WITH_JUMPS = 5e-2
_JUMPS = frozenset({"QuantizeLinear", "ThresholdedRelu", "Greater", "Round", "Floor", "Ceil"})
_AGREEING = 0.98


@dataclass(slots=True)
class Victim:
    """One of the two models.

    Attributes:
        role: "original" or "hardened".
        model: The model.
        session: ONNX Runtime on the very file that is deployed.
        normalisation: How pixels become its input.
        output: Name of the graph output with the class scores.
        device: Where the torch views are.
        batch: Images per run of ONNX Runtime.
    """

    role: str
    model: LoadedModel
    session: Session
    normalisation: Normalisation
    output: str
    device: torch.device
    batch: int
    _views: dict[Gradient, PixelModel] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model.name

    def deployed(self, pixels: np.ndarray) -> np.ndarray:
        """Class scores of the deployed file: float64 [N, K] for float32 [N, C, H, W].

        Raises:
            NonFiniteError: A score is NaN.
        """
        spec = self.model.inputs[0]
        rows = []
        for start in range(0, len(pixels), self.batch):
            feed = self.normalisation(pixels[start : start + self.batch])
            count = len(feed)
            fixed = spec.fixed_batch
            if fixed is not None and fixed > count:
                feed = np.concatenate([feed, np.repeat(feed[-1:], fixed - count, axis=0)])
            scores = self.session.run([self.output], {spec.name: feed})[self.output]
            rows.append(np.asarray(scores, np.float64).reshape(len(feed), -1)[:count])
        result = np.concatenate(rows)
        if np.isnan(result).any():
            raise NonFiniteError(
                f"'{self.name}' gives NaN as class scores: check the preprocessing (--mean, "
                "--std, --preprocess)"
            )
        return result

    def view(self, gradient: Gradient = "exact") -> PixelModel:
        """The model in torch, with the true or a surrogate gradient; made once.

        The true gradient of an int8 graph is zero, and no attacker would use it: there
        "exact" passes quantisation straight through.
        """
        if gradient not in self._views:
            outputs = (_before_softmax(self.model.graph_ir, self.output),)
            really: Gradient = (
                "quantised" if gradient == "exact" and self.quantised else gradient
            )
            view = torch_view(self.model, gradient=really, outputs=outputs)
            built = PixelModel(view, self.normalisation).to(self.device)
            built.weights_channels_last()
            if first := next(iter(self._views.values()), None):
                built.batching = first.batching
            self._views[gradient] = built
        return self._views[gradient]

    @property
    def quantised(self) -> bool:
        return "QuantizeLinear" in self.operators

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
        return _before_softmax(self.model.graph_ir, self.output) != self.output


def open_victim(
    role: str,
    model: object,
    normalisation: Normalisation,
    pixels: np.ndarray,
    device: torch.device,
    threads: int,
) -> Victim:
    """Opens a model and makes sure that it can be attacked: deterministic, and torch agrees.

    Args:
        role: "original" or "hardened".
        model: As for `model_io.load`, or a `LoadedModel`.
        normalisation: How pixels become its input.
        pixels: Images to try, float32 [N, C, H, W].
        device: For the torch views.
        threads: Of ONNX Runtime; 0 lets it choose.

    Raises:
        ModelError: No classifier, not deterministic, or an operator that torch lacks.
        CheckFailed: The torch view disagrees with ONNX Runtime.
    """
    loaded = model if isinstance(model, LoadedModel) else model_io.load(model)
    # Sessions and torch take turns; ONNX Runtime's idle threads must not wait actively.
    options = RuntimeOptions(threads=threads, spinning=False)
    source = loaded.path or model_io.serialize(loaded.proto)
    session = open_session(source, options, loaded.base_dir)
    fixed = loaded.inputs[0].fixed_batch
    victim = Victim(
        role,
        loaded,
        session,
        normalisation,
        score_output(loaded).name,
        device,
        fixed or _BATCH,
    )
    scores = _first_scores(victim, pixels)
    if scores.shape[1] < 2:
        raise ModelError(
            f"output '{victim.output}' of '{loaded.name}' has one value per image: audit "
            "takes classifiers with a score for each of two or more classes"
        )
    _check_deterministic(victim, pixels, scores)
    first = torch.from_numpy(pixels[:3]).to(device)
    victim.view().fit(first)
    _check_view(victim, pixels, scores)
    if role == "original" and not victim.view().has_gradient(first):
        raise ModelError(
            f"no gradient reaches the input of '{loaded.name}': an operator on the way "
            "(a comparison, a cast to integers) cuts it, so that there is no white-box attack "
            "to compare with; export the model without it"
        )
    return victim


def score_output(model: LoadedModel) -> TensorSpec:
    """The first float output that may hold one row of class scores per image.

    Raises:
        ModelError: There is none.
    """
    for spec in model.outputs:
        ranks = spec.shape is None or len(spec.shape) >= 2
        if spec.dtype is not None and "float" in spec.dtype and ranks:
            return spec
    listed = ", ".join(str(spec) for spec in model.outputs)
    raise ModelError(
        f"'{model.name}' has no output with class scores (float [N, classes]); it gives "
        f"{listed}: audit takes classifiers"
    )


def class_count(model: LoadedModel) -> int | None:
    """How many scores the model gives per image, where its signature tells."""
    shape = score_output(model).shape
    fixed = [d for d in (shape or ())[1:] if isinstance(d, int)]
    return math.prod(fixed) if shape and len(fixed) == len(shape) - 1 else None


def _before_softmax(model: ir.Model, output: str) -> str:
    """The logits: the input of a Softmax that ends the graph, else the output itself.

    Softmax keeps the order of the scores, but its gradients vanish where it saturates.
    """
    producers = {value.name: node for node in model.graph for value in node.outputs}
    node = producers.get(output)
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is not None and node.op_type == "Softmax" and node.inputs[0] is not None:
        return node.inputs[0].name or output
    return output


def _first_scores(victim: Victim, pixels: np.ndarray) -> np.ndarray:
    try:
        return victim.deployed(pixels)
    except RunFailure:
        if victim.batch == 1 or victim.model.inputs[0].fixed_batch is not None:
            raise
        victim.batch = 1  # the batch axis is declared dynamic and is not
        return victim.deployed(pixels)


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
    """Compares differences between classes, which a Softmax or a shift leaves alone."""
    view = victim.view()
    with torch.no_grad():
        starts = range(0, len(pixels), _BATCH)
        chunks = [torch.from_numpy(pixels[i : i + _BATCH]).to(victim.device) for i in starts]
        seen = torch.cat([view(chunk).cpu() for chunk in chunks])
    logits = seen.double().numpy()
    if victim.gives_probabilities:
        wide = np.exp(logits - logits.max(axis=1, keepdims=True))
        logits = wide / wide.sum(axis=1, keepdims=True)
    scale = max(float(np.abs(scores).max()), 1e-30)
    differences = np.abs(logits - scores).max(axis=1) / scale
    agreeing = float((logits.argmax(axis=1) == scores.argmax(axis=1)).mean())
    allowed = _MEDIAN_WITH_JUMPS if victim.operators & _JUMPS else _MEDIAN_DIFFERENCE
    median = float(np.median(differences))
    if not median <= allowed or agreeing < _AGREEING:
        raise CheckFailed(
            f"the torch view of '{victim.name}' disagrees with ONNX Runtime: the scores of "
            f"{len(pixels)} images differ by {median:.2g} of their largest (median), and "
            f"{agreeing:.1%} of the predictions are the same; gradients of another function "
            "say nothing, so no number is printed: please report this with the model"
        )
